"""Transfers to the agents that depend on the user's action."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from emalign_jax.exact.guarantees.optimal_transfers import KINDS, best_transfers
from emalign_jax.internal.arguments import NOT_NEGATIVE, choice, number
from emalign_jax.internal.validation import setting
from emalign_jax.mechanisms.base import AbstractMechanism

STARTS = ("nothing", "guarantee")
# Transfers start within this share of the budget, where tanh still has a slope.
START_SHARE = 0.98


class Transfers(AbstractMechanism):
    """Agent i is paid t_i(a), or t_i(a, y) if the outcome can be verified: its utility is U_i + t_i.

    Transfers differ between games.

    Args:
        budget: the largest transfer to or from an agent, in units of the agent's utility. `least_budget` is the
            least one that brings the user's utility into the hull, `best_transfers` the best guarantee within a budget.
        kind: "action" for t_i(a), "outcome" for t_i(a, y).
        price: of a unit of transfers; the cost is `price * sum_i E_y max_a |t_i|`.
        start: "guarantee": the transfers with the largest guarantee to a rational user, by an LP; or "nothing". Where
            agents are silent the user's value has derivative 0 in all transfers, so one start from "nothing" may stay
            there: use several (`restarts` of `tune`).

    Raises:
        ValueError: names the field and the rule.

    Example:
        >>> mechanism, games = em.mechanisms.Transfers(budget=2.0, start="nothing"), em.catalog.two_users()
        >>> mechanism.paid(mechanism.init(games)).shape
        (2, 2, 2, 2)

    Source: section 6.7 of docs/model.md.
    """

    name = "transfers"

    budget: float = setting("budget", 1.0, number, *NOT_NEGATIVE)
    kind: str = setting("kind", "outcome", choice, KINDS)
    price: float = setting("price", 0.0, number, *NOT_NEGATIVE)
    start: str = setting("start", "guarantee", choice, STARTS)

    def init(self, games):
        if self.start == "guarantee" and self.budget > 0:
            best = best_transfers(games, self.budget, kind=self.kind).transfers / self.budget
            return {"transfers": jnp.asarray(np.arctanh(START_SHARE * np.nan_to_num(best)))}
        return {"transfers": jnp.zeros(self._shape(games))}

    def sample(self, key, games):
        """Transfers uniform within the budget; those of game i depend on (key, i) alone."""
        count, shape = int(np.prod(games.batch_shape)), self._shape(games)
        keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(jnp.arange(count))
        own = shape[len(games.batch_shape) :]
        drawn = jax.vmap(lambda k: jax.random.uniform(k, own, minval=-START_SHARE, maxval=START_SHARE))(keys)
        return {"transfers": jnp.arctanh(drawn).reshape(shape)}

    def _shape(self, games):
        Y = games.outcomes if self.kind == "outcome" else 1
        return (*games.batch_shape, games.agents, games.actions, Y)

    def paid(self, params):
        """The transfers [..., K, A, Y], or [..., K, A, 1] if they depend on the action alone."""
        return self.budget * jnp.tanh(params["transfers"])

    def apply(self, params, games, protocol, user):
        utilities = games.agent_utilities + self.paid(params)
        utilities = jnp.broadcast_to(utilities, games.agent_utilities.shape)
        return (
            type(games)(games.prior, games.user_utility, utilities, check="shapes", labels=games.labels),
            protocol,
            user,
        )

    def describe(self, params):
        return {"transfers": self.paid(params)}

    def cost(self, params, games):
        most = jnp.abs(self.paid(params)).max(-2)  # [..., K, Y]
        return self.price * (most.sum(-2) * games.prior.sum((-3, -2))).sum(-1)

    @property
    def per_game(self):
        return True
