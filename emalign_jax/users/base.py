"""Users: how a belief becomes an action (section 3 of docs/model.md)."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from emalign_jax.games.game import Array, Game, ReducedGame
from emalign_jax.internal import validation
from emalign_jax.internal.registry import Registry
from emalign_jax.users.conversation_tree import Tree

USERS: Registry[AbstractUser] = Registry("user")


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
    """A user maps what the actions are worth to a distribution over actions.

    A new user is one file with `respond`, written in `jax.numpy`. Gradients are found by differentiating it; a closed
    form of its derivative may be given with `jax.custom_jvp`. Every protocol plays with it, and `certify` searches
    deviations (UNREFUTED at best) until a check is registered with `register_check`.

    name: what commands and configs call it (`--user NAME`), the arguments of the class with it
        (`--set user.ARGUMENT=VALUE`). A class without a name of its own is for Python alone.

    Example: `users/sparsemax.py`.
    """

    name: ClassVar[str]
    is_smooth: ClassVar[Any] = True  # whether responses are differentiable; else `smoothed` gives a stand-in

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        USERS.add(cls)

    @abc.abstractmethod
    def respond(self, options: Options, favour: Options) -> Float[Array, "*shape A"]:
        """The distribution over actions.

        options: what each action is worth to the user.
        favour:  what each is worth to the agent in whose favour ties may be broken.
        """

    @property
    def title(self) -> str:
        """What figures and tables call it."""
        return validation.described(self)

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

    def smoothed(self, precision: Any) -> AbstractUser:
        """A differentiable stand-in; `self` where the user is smooth already."""
        return self

    @property
    def logit_precision(self) -> Any:
        """precision, where the response is exactly softmax(precision * value), of which protocols know the gradient in
        closed form; None of any other response, which is differentiated automatically."""
        return None

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


validation.describe(("user",), AbstractUser, "a user such as em.RationalUser() or em.QuantalUser(20.0)")
