"""Users: how a belief becomes an action (section 3 of the model)."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Bool, Float

from emalign_jax.games import units
from emalign_jax.games.game import Array, Game, ReducedGame, as_float_array
from emalign_jax.users.conversation_tree import Tree

TIES = ("agents", "lowest", "highest", "uniform")


class Options(NamedTuple):
    """What is to be chosen from, as one party sees it.

    value:     [..., A] posterior expected utility of each option
    advantage: [..., A, A] by how much option a beats option c, in expectation over the cells (x_A, x_B) in which it
               does, in any unit (`units.as_good` compares it with its transpose); None where the user does not ask
    """

    value: Float[Array, "*shape A"]
    advantage: Float[Array, "*shape A A"] | None


Respond = Callable[[Options, Options], Any]  # as `AbstractUser.respond`


class AbstractUser(eqx.Module):
    """A user maps what the actions are worth to a distribution over actions."""

    @abc.abstractmethod
    def respond(self, options: Options, favour: Options) -> Float[Array, "*shape A"]:
        """The distribution over actions.

        options: what each action is worth to the user.
        favour:  what each is worth to the agent in whose favour ties may be broken.
        """

    @property
    def compares(self) -> bool:
        """Whether `respond` needs to know by how much each option beats each other one, `Options.advantage`."""
        return True

    @property
    def most_forgone(self) -> Any:
        """What the user gives up at most, in expected utility, by taking any one action with the probability that it
        has: P(a) (max_c E[u(c)] - E[u(a)]), but for ties. A scalar or an array over the batch; inf where nothing is
        known."""
        return np.inf

    @property
    def tie_tolerance(self) -> float:
        """Share of what two actions differ by within which they are tied (`units.as_good`)."""
        return 0.0

    @abc.abstractmethod
    def smoothed(self, precision: Float[Array, ""]) -> AbstractUser:
        """A differentiable stand-in; `self` where the user is smooth already."""

    def in_units(self, unit: Float[Array, "*batch"]) -> AbstractUser:
        """The same user when utilities are counted in multiples of `unit`."""
        return self

    @property
    def plans(self) -> bool:
        """Whether replies are chosen as actions are, by what it is worth to go on; otherwise by `reply_law`."""
        return True

    def reply(self, game: ReducedGame, tree: Tree, r: int, order: np.ndarray) -> Respond:
        """How the user replies in round r of a conversation, to options [XA, nodes, joint replies] of what it is worth
        to go on; `order` lists the nodes by their number in the tree."""
        return self.respond

    def check(self, games: Game, protocol: Any, messages: int) -> None:
        """Raise `ValueError` before any work if the user cannot take part in this."""
        return

    @property
    def acting(self) -> AbstractUser:
        """How the user takes the final action."""
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

    def respond(self, options, favour):
        return logit(options.value, self.precision)

    @property
    def compares(self):
        return False

    @property
    def most_forgone(self):
        return 1 / (np.e * self.precision)  # x exp(-precision x) is at most this

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
                     is asked (the supremum); the lowest index of those that are tied for the agent too
          "lowest"   the lowest index
          "highest"  the highest index
          "uniform"  all best actions with equal probability
    tolerance: two actions are tied if one beats the other by at most tolerance * (what they differ by), both in
        expectation over the cells (x_A, x_B), see "Units and tolerances" in docs/model.md. The default, 1e-7, covers
        schemes that were rounded to float32; payoffs in float32 use 8 units of rounding, 1e-6.
    """

    ties: str = eqx.field(static=True, default="agents")
    tolerance: float = eqx.field(static=True, default=units.TIE)

    def __check_init__(self):
        if self.ties not in TIES:
            raise ValueError(f"ties: expected one of {', '.join(TIES)}, got {self.ties!r}")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance: expected a number in [0, 1), got {self.tolerance}")

    def respond(self, options, favour):
        return self.choose(options, favour, jnp)

    def choose(self, options: Options, favour: Options | None, xp) -> Any:
        """`respond` in NumPy or jax.numpy (`xp`)."""
        tied = self.best(options, None, xp)
        dtype = options.value.dtype
        if self.ties == "uniform":
            tied = tied.astype(dtype)
            return tied / tied.sum(-1, keepdims=True)
        if self.ties == "agents":
            assert favour is not None
            tied = self.best(favour, tied, xp)
        A = tied.shape[-1]
        at = A - 1 - xp.argmax(tied[..., ::-1], -1) if self.ties == "highest" else xp.argmax(tied, -1)
        return (at[..., None] == xp.arange(A)).astype(dtype)

    def best(self, options: Options, among: Any = None, xp=np) -> Any:
        """[..., A]: whether each option is best, within the tolerance, of those in `among`."""
        assert options.advantage is not None
        good = units.as_good(options.advantage, self.tolerance, xp)
        value = options.value
        if among is not None:
            good, value = good | ~among[..., None, :], xp.where(among, value, -xp.inf)
        best = good.all(-1) if among is None else good.all(-1) & among
        # rounding may leave no option that is as good as all the others
        return xp.where(best.any(-1, keepdims=True), best, value == value.max(-1, keepdims=True))

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
