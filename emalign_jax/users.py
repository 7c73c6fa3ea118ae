"""Users: how a belief becomes an action (section 3 of the model)."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Bool, Float

from emalign_jax.game import Array, Game, ReducedGame, as_float_array
from emalign_jax.tree import Tree

Respond = Callable[[Any, Any, Any], Any]  # (values, favour, scale) to a law, see `AbstractUser.respond`
TIES = ("agents", "lowest", "uniform")


class AbstractUser(eqx.Module):
    """A user maps the posterior expected utility of each action to a law over actions."""

    @abc.abstractmethod
    def respond(
        self, values: Float[Array, "*shape A"], favour: Float[Array, "*shape A"], scale: Float[Array, ""]
    ) -> Float[Array, "*shape A"]:
        """The law over actions.

        values: posterior expected utility of each action.
        favour: what the agent in whose favour ties may be broken gets from each action.
        scale:  largest difference between two actions to the user; tolerances are relative to it.
        """

    @abc.abstractmethod
    def smoothed(self, precision: Float[Array, ""]) -> AbstractUser:
        """A differentiable stand-in; `self` where the user is smooth already."""

    def in_units(self, unit: Float[Array, "*batch"]) -> AbstractUser:
        """The same user when utilities are counted in multiples of `unit`."""
        return self

    @property
    def plans(self) -> bool:
        """Whether she replies as she acts, by what it is worth to go on; otherwise by `reply_law`."""
        return True

    def reply(self, game: ReducedGame, tree: Tree, r: int, order: np.ndarray) -> Respond:
        """How she replies in round r of a conversation, to values [XA, nodes, joint replies] of what it is worth to go
        on; `order` lists the nodes by their number in the tree."""
        return self.respond

    def check(self, games: Game, protocol: Any, messages: int) -> None:
        """Raise `ValueError` before any work if she cannot take part in this."""
        return

    @property
    def acting(self) -> AbstractUser:
        """How she takes her final action."""
        return self

    @property
    def favours(self) -> bool:
        """Whether ties are broken for the agent whose payoff is asked: then there is a response an agent."""
        return False

    def axes(self):
        """How many axes of its own each parameter has, behind those of the batch."""
        return jax.tree.map(lambda _: 0, self)


class QuantalUser(AbstractUser):
    """Plays action a with probability proportional to exp(precision * E[u(a)]).

    precision: > 0, finite, in units of 1 / utility; a scalar or an array over the batch of games.
    """

    precision: Float[Array, "*batch"]

    def __init__(self, precision):
        if not isinstance(precision, Tracer):
            precision = as_float_array("precision", precision)
            if not isinstance(precision, jax.Array):
                precision = np.asarray(precision, np.float64)
            if not bool((precision > 0).all()) or not bool(np.isfinite(precision).all()):
                raise ValueError(
                    f"precision: expected a finite number > 0, got {precision} (a user of infinite precision "
                    "is RationalUser())"
                )
        self.precision = precision

    def respond(self, values, favour, scale):
        return logit(values, self.precision)

    def smoothed(self, precision):
        return self

    def in_units(self, unit):
        return QuantalUser(self.precision * unit)


def logit(
    values: Float[Array, "*shape A"], rate: Float[Array, ""], among: Bool[Array, "*some A"] | bool = True
) -> Float[Array, "*more A"]:
    """softmax(rate * values) over those `among` which the choice is, at any rate.

    Differences to the best come first, and its own is 0 by its index: what is compiled may compute values twice and
    round them otherwise, which at a rate beyond 1 / eps would leave a best value above or far below the largest."""
    best = jax.nn.one_hot(jnp.where(among, values, -jnp.inf).argmax(-1), values.shape[-1], dtype=bool)
    short = values - jnp.where(best, values, 0).sum(-1, keepdims=True)
    odds = jnp.exp(jnp.asarray(rate, values.dtype) * jnp.where(best | (short > 0), 0, short))
    odds = jnp.where(among, odds, 0)
    return odds / odds.sum(-1, keepdims=True)


class RationalUser(AbstractUser):
    """Plays a best action; the tie rule is explicit because optimal persuasion sits on ties.

    ties: "agents"   the best action for the selected agent, or in Pooled, for the agent whose payoff
                     is asked (the supremum)
          "lowest"   the lowest index
          "uniform"  all best actions with equal probability
    tolerance: actions within tolerance * (largest difference between actions) of the best are tied. The
        default, 1e-6, covers float32 rounding and the feasibility tolerance of the LPs.
    """

    ties: str = eqx.field(static=True, default="agents")
    tolerance: float = eqx.field(static=True, default=1e-6)

    def __check_init__(self):
        if self.ties not in TIES:
            raise ValueError(f"ties: expected one of {', '.join(TIES)}, got {self.ties!r}")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance: expected a number in [0, 1), got {self.tolerance}")

    def respond(self, values, favour, scale):
        tied = values >= values.max(-1, keepdims=True) - self.tolerance * scale
        if self.ties == "uniform":
            tied = tied.astype(values.dtype)
            return tied / tied.sum(-1, keepdims=True)
        rank = jnp.where(tied, favour, -jnp.inf) if self.ties == "agents" else tied
        return jax.nn.one_hot(jnp.argmax(rank, -1), values.shape[-1], dtype=values.dtype)

    @property
    def favours(self):
        return self.ties == "agents"

    def smoothed(self, precision):
        return QuantalUser(precision)
