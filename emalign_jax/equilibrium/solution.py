"""What a search for equilibria returns."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from emalign_jax.equilibrium.trajectory import Trajectory
from emalign_jax.exact.certificates.certificate import Certificate
from emalign_jax.result import BatchedStarts


class Solution(BatchedStarts):
    """The schemes that `solve` found, and what is proved of them, as float64 arrays on the host.

    With starts > 1 a starts axis leads the batch axes. With `differentiation` arrays are of jax.

    Attributes:
        schemes: [..., K, XB, M]; in conversations whole rules, [..., K, rows, M].
        user: [...] the user's value.
        agents: [..., K] the agents' payoffs.
        result: [...] a `Result` a game: what is proved of its schemes; that of the certificate where there is one.
        found_by: [...] a `FoundBy` a game: how its schemes were found.
        derivative: [...] a `Derivative` a game with `differentiation`, else None.
        stats: counts of the run: steps, best responses, games by `result` and `found_by`, `lp_fallbacks` (how often
            the batched LPs of a game's best responses, or of its guarantees, failed their check and HiGHS did
            them).
        certificate: the `Certificate` of the schemes (None with verify=False and with differentiation).
        trajectory: with record=True the `Trajectory` of each search, else None.

    Example:
        >>> found = em.solve(em.catalog.two_prosecutors(), em.Selection(), em.RationalUser(), start="monopolist")
        >>> round(float(found.user), 3), em.Result(int(found.result)).name, em.FoundBy(int(found.found_by)).name
        (0.7, 'CERTIFIED', 'START')
    """

    schemes: Float[Any, "*batch K XB M"]
    user: Float[Any, "*batch"]
    agents: Float[Any, "*batch K"]
    result: Int[Any, "*batch"]
    found_by: Int[Any, "*batch"]
    derivative: Int[Any, "*batch"] | None
    stats: dict[str, Any]
    certificate: Certificate | None = None
    trajectory: Trajectory | None = None

    _names: ClassVar[dict[str, str]] = {"user": "user_value", "agents": "agent_payoffs"}

    @property
    def normalised_value(self) -> Float[np.ndarray, "*batch"]:
        """(V - V_none) / (V_full - V_none), as the certificate has it; NaN without one."""
        if self.certificate is None:
            return np.full(np.shape(self.user), np.nan)
        return self.certificate.normalised_value

    def _headline(self) -> dict[str, Any]:
        if not self.batch_shape:
            return {"user": self.user, "agents": self.agents}
        return {"user": self.user} if self.certificate is None else {"value": self.normalised_value}

    def _columns(self, long: bool) -> dict[str, np.ndarray]:
        own = super()._columns(long)
        ends = {name: own[name] for name in ("found_by", "derivative") if name in own}
        messages = {} if long else {"messages": np.full(self.batch_shape, np.shape(self.schemes)[-1])}
        own = own if self.certificate is None else self.certificate._columns(long)
        return {"agents": np.full(self.batch_shape, np.shape(self.agents)[-1])} | messages | own | ends
