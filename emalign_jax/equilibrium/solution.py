"""What a search for equilibria returns."""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxtyping import Float, Int

from emalign_jax.equilibrium.trajectory import Trajectory
from emalign_jax.exact.certificates.certificate import Certificate


class Solution(NamedTuple):
    """What `solve` found; float64 arrays on the host (with `differentiation` arrays of jax). With starts > 1 a starts
    axis leads the batch axes.

    schemes:      [..., K, XB, M]; in conversations whole rules, [..., K, rows, M]
    user, agents: [...], [..., K]  payoffs
    result:       [...]  a `Result` a game: what is proved of its schemes; that of the certificate where there is one
    found_by:     [...]  a `FoundBy` a game: how its schemes were found
    derivative:   [...]  a `Derivative` a game with `differentiation`, else None
    stats:        counts of the run: steps, best responses, games by `result` and `found_by`, `lp_fallbacks` (how often
                  the batched LPs of a game's best responses, or of its guarantees, failed their check and HiGHS did
                  them)
    certificate:  the `Certificate` of the schemes (None with verify=False and with differentiation)
    trajectory:   with record=True the `Trajectory` of each search, else None
    """

    schemes: Float[Any, "*batch K XB M"]
    user: Float[Any, "*batch"]
    agents: Float[Any, "*batch K"]
    result: Int[Any, "*batch"]
    found_by: Int[Any, "*batch"]
    derivative: Int[Any, "*batch"] | None
    stats: dict[str, Any]
    certificate: Certificate | None
    trajectory: Trajectory | None = None
