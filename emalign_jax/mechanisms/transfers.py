"""Subsidies and taxes on what the user does."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from emalign_jax.exact.guarantees.optimal_transfers import KINDS, best_transfers
from emalign_jax.internal.arguments import NOT_NEGATIVE, number, word
from emalign_jax.internal.validation import setting
from emalign_jax.mechanisms.base import AbstractMechanism

STARTS = ("nothing", "guarantee")
INSIDE = 0.98  # of the budget: where tanh still has a slope


class Transfers(AbstractMechanism):
    """Agent i is paid t_i(a), or t_i(a, y) where the outcome can be verified: U_i + t_i. Every game has its own.

    budget: the most that one agent can be paid, or charged, at any event: |t_i| <= budget, in his utility.
        `least_budget` says what brings the user into the hull, `best_transfers` what such transfers can guarantee.
    kind:   "action" or "outcome"
    start:  "guarantee": from the transfers whose guarantee to a rational user is largest, by LP; or "nothing". Where
        agents say nothing her value has derivative 0 by every transfer, and one start from nothing may stay there:
        take several (`restarts` of `tune`).
    price:  of a unit of transfers: the cost is price times what may change hands, sum_i E_y max_a |t_i|
    """

    name = "transfers"

    budget: float = setting("budget", 1.0, number, *NOT_NEGATIVE)
    kind: str = setting("kind", "outcome", word, KINDS)
    price: float = setting("price", 0.0, number, *NOT_NEGATIVE)
    start: str = setting("start", "guarantee", word, STARTS)

    def init(self, games):
        if self.start == "guarantee" and self.budget > 0:
            best = best_transfers(games, self.budget, kind=self.kind).transfers / self.budget
            return {"transfers": jnp.asarray(np.arctanh(INSIDE * np.nan_to_num(best)))}
        return {"transfers": jnp.zeros(self._shape(games))}

    def sample(self, key, games):
        """Every payment uniform within the budget; those of game i depend on (key, i) alone."""
        count, shape = int(np.prod(games.batch_shape)), self._shape(games)
        keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(jnp.arange(count))
        own = shape[len(games.batch_shape) :]
        drawn = jax.vmap(lambda k: jax.random.uniform(k, own, minval=-INSIDE, maxval=INSIDE))(keys)
        return {"transfers": jnp.arctanh(drawn).reshape(shape)}

    def _shape(self, games):
        Y = games.outcomes if self.kind == "outcome" else 1
        return (*games.batch_shape, games.agents, games.actions, Y)

    def paid(self, params):
        return self.budget * jnp.tanh(params["transfers"])

    def apply(self, params, games, protocol, user):
        utilities = games.agent_utilities + self.paid(params)
        utilities = jnp.broadcast_to(utilities, games.agent_utilities.shape)
        return type(games)(games.prior, games.user_utility, utilities, check="shapes"), protocol, user

    def describe(self, params):
        return {"transfers": self.paid(params)}

    def cost(self, params, games):
        most = jnp.abs(self.paid(params)).max(-2)  # [..., K, Y]
        return self.price * (most.sum(-2) * games.prior.sum((-3, -2))).sum(-1)

    @property
    def per_game(self):
        return True
