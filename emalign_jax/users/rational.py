"""The rational user."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from emalign_jax.games import units
from emalign_jax.internal.arguments import BELOW_ONE, choice, number
from emalign_jax.internal.validation import setting
from emalign_jax.users.base import AbstractUser, Options
from emalign_jax.users.quantal import QuantalUser

TIES = ("agents", "lowest", "highest", "uniform")


class RationalUser(AbstractUser):
    """Plays a best action, with ties broken by an explicit rule.

    Optimal persuasion makes the user exactly indifferent, so that ties are common.

    Args:
        ties: "agents": the best action for the selected agent, or in Pooled and conversations for the agent whose
            payoff is computed, and among actions that are tied for the agent too, the lowest index; "lowest": the
            lowest index; "highest": the highest index; "uniform": all best actions with equal probability.
        tolerance: in [0, 1); two actions are tied within this share of what they differ by (section 4.4 of
            docs/model.md). The default, 1e-7, covers schemes that were rounded to float32. Computations in float32 use
            8 units of rounding, 1e-6, if that is more.

    Raises:
        ValueError: names the field and the rule.

    Example:
        >>> game, silent = em.catalog.judge(prior=0.5), em.no_information(1, 2, 2)
        >>> def convicted(ties):  # how often, if both verdicts are as good
        ...     return float(em.certify(game, silent, em.Selection(), em.RationalUser(ties)).agents[0])
        >>> [convicted(ties) for ties in ("agents", "lowest", "uniform")]
        [1.0, 0.0, 0.5]

    Source: section 3.1 of docs/model.md.
    """

    name = "rational"
    is_smooth = False

    ties: str = setting("ties", "agents", choice, TIES)
    tolerance: float = setting("tolerance", units.TIE_TOLERANCE, number, *BELOW_ONE)

    @property
    def title(self):
        return "rational user"

    def respond(self, options, favour):
        return self.choose(options, favour, jnp)

    def choose(self, options: Options, favour: Options | None, xp) -> Any:
        """`respond` in NumPy or jax.numpy (`xp`)."""
        best = type(self).best  # Equinox binds methods slowly.
        tied = best(self, options, None, xp)
        dtype = options.value.dtype
        if self.ties == "uniform":
            tied = tied.astype(dtype)
            return tied / tied.sum(-1, keepdims=True)
        if self.ties == "agents":
            tied = best(self, favour, tied, xp)
        A = tied.shape[-1]
        at = A - 1 - xp.argmax(tied[..., ::-1], -1) if self.ties == "highest" else xp.argmax(tied, -1)
        return (at[..., None] == xp.arange(A)).astype(dtype)

    def best(self, options: Options | None, among: Any = None, xp=np) -> Any:
        """Whether each option is among the best, within the tolerance, of those in `among`; [..., A]."""
        if options is None or options.advantage is None:
            raise ValueError(
                "options: RationalUser compares actions pairwise; give `respond` Options with `advantage`, as "
                "`em.options_of` makes them, of the user and of the agent for whom ties are broken"
            )
        good = units.as_good(options.advantage, self.tolerance, xp)
        value = options.value
        if among is not None:
            good, value = good | ~among[..., None, :], xp.where(among, value, -xp.inf)
        good = units.short(np.logical_and, good, xp)
        best = good if among is None else good & among
        # Rounding may leave no option that is as good as all the others; then the largest value decides.
        some, most = units.short(np.logical_or, best, xp)[..., None], units.short(np.maximum, value, xp)[..., None]
        return xp.where(some, best, value == most)

    @property
    def obeys(self):
        return type(self) is RationalUser  # A subclass may respond otherwise.

    @property
    def most_forgone(self):
        return 0.0

    @property
    def tie_tolerance(self):
        return self.tolerance

    @property
    def favours(self):
        return self.ties == "agents"

    def smoothed(self, precision):
        return QuantalUser(precision)
