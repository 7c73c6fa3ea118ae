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
from emalign_jax.result import display
from emalign_jax.users.conversation_tree import Tree

USERS: Registry[AbstractUser] = Registry("user")


class Options(NamedTuple):
    """The options of a choice, actions or replies, as they are worth to one party.

    Attributes:
        value: [..., A] posterior expected utility of each option.
        advantage: [..., A, A] ahead(a, c) of section 4.4 of docs/model.md, by how much option a beats option c where it
            does. Any unit, as `units.as_good` compares it with its transpose. None if `AbstractUser.compares` is False.

    Example:
        >>> em.Options(np.array([0.0, 1.0]), None).value.tolist()
        [0.0, 1.0]

    Source: section 3.4 of docs/model.md.
    """

    value: Float[Array, "*shape A"]
    advantage: Float[Array, "*shape A A"] | None


# The signature of `AbstractUser.respond`.
Respond = Callable[[Options, Options], Any]


class AbstractUser(eqx.Module):
    """A user maps what each action is worth at a posterior to a distribution over actions.

    A new user is one file with `respond`, written in `jax.numpy`, such as `users/sparsemax.py`. Gradients are found by
    differentiating it; a closed form of its derivative may be given with `jax.custom_jvp`. It can be used in every
    protocol, and `certify` searches for deviations (UNREFUTED at best) until a check is registered with
    `register_check`.

    A class may declare:

    * `name`: what commands and configs call the user (`--user NAME`); the arguments of the class are then set with
      `--set user.ARGUMENT=VALUE`. A class without a name of its own can be used from Python only.
    * `is_smooth`: whether responses are differentiable; otherwise `smoothed` returns a differentiable stand-in.

    Example:
        >>> class Careless(em.AbstractUser):
        ...     def respond(self, options, favour):
        ...         return 0 * options.value + 1 / options.value.shape[-1]  # all actions are equally likely
        >>> Careless().respond(em.Options(np.zeros(4), None), None).tolist()
        [0.25, 0.25, 0.25, 0.25]

    Source: section 3 of docs/model.md.
    """

    name: ClassVar[str]
    is_smooth: ClassVar[Any] = True
    __repr__ = display.written

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        USERS.add(cls)

    @abc.abstractmethod
    def respond(self, options: Options, favour: Options) -> Float[Array, "*shape A"]:
        """The distribution over actions, or over replies if they are chosen in the same way.

        Args:
            options: the actions, as they are worth to the user.
            favour: the actions, as they are worth to the agent in whose favour ties may be broken.
        """

    @property
    def title(self) -> str:
        """The user's name in figures and tables."""
        return validation.described(self)

    @property
    def obeys(self) -> bool:
        """Whether all actions taken are best within `tie_tolerance`, with ties broken as `RationalUser` does."""
        return False

    @property
    def compares(self) -> bool:
        """Whether `respond` uses `Options.advantage`; protocols compute it only then."""
        return True

    @property
    def most_forgone(self) -> Any:
        """An upper bound of what any action costs the user in expectation; inf where no bound is known.

        For each action a, at any posterior: P(a) (max_c E[u(c)] - E[u(a)]), ties within `tie_tolerance` aside. A scalar
        or an array over the batch. Units follow from it (section 4.5 of docs/model.md).
        """
        return np.inf

    @property
    def tie_tolerance(self) -> float:
        """The share of what two actions differ by within which they are tied (section 4.4 of docs/model.md)."""
        return 0.0

    def believed_prior(self, prior: Float[Array, "*batch XA XB Y"], xp: Any) -> Float[Array, "*batch XA XB Y"]:
        """The joint distribution of (x_A, x_B, y) by which the user reasons; `prior` itself unless it misreads beliefs.

        Entries may be negative as long as their sums over y are not (section 11 of docs/model.md).

        Args:
            prior: [..., XA, XB, Y] that of the games.
            xp: numpy or jax.numpy, of which `prior` is an array.
        """
        return prior

    @property
    def plain(self) -> AbstractUser:
        """The user without its misreading of beliefs, which acts in the game as it is perceived."""
        return self

    def smoothed(self, precision: Any) -> AbstractUser:
        """A differentiable user to play with instead; `self` where the user is smooth already.

        Args:
            precision: how closely the stand-in follows the user, in units of 1 / utility.
        """
        return self

    @property
    def logit_precision(self) -> Any:
        """The precision, if every response is exactly softmax(precision * value); otherwise None.

        Protocols have the gradient of such users in closed form; other responses are differentiated automatically.
        """
        return None

    def in_units(self, unit: Float[Array, "*batch"]) -> AbstractUser:
        """The same user when utilities are counted in multiples of `unit`."""
        return self

    @property
    def plans(self) -> bool:
        """Whether replies are chosen as actions are, by continuation values; otherwise by `reply_distribution`."""
        return True

    @property
    def has_word_distribution(self) -> bool:
        """Whether replies are drawn by `word_distribution`, whatever was said before.

        Transcripts need not be enumerated then.
        """
        return False

    def reply(self, game: ReducedGame, tree: Tree, r: int, order: np.ndarray) -> Respond:
        """The function that chooses the replies in one round of a conversation.

        Args:
            game: one game.
            tree: of the conversation.
            r: the round, from 0.
            order: the numbers in `tree` of the nodes, in the order of the options.

        Returns:
            A function such as `respond`, of options [XA, nodes, joint replies] that hold continuation values.
        """
        return self.respond

    def check(self, games: Game, protocol: Any, messages: int) -> None:
        """Raise `ValueError` before any work if the user cannot be used in this protocol."""
        return

    @property
    def acting(self) -> AbstractUser:
        """The user by which the final action is taken."""
        return self

    @property
    def favours(self) -> bool:
        """Whether ties go to the agent whose payoff is computed, so that responses differ between agents."""
        return False

    def axes(self):
        """A tree like `self`: how many axes each parameter has beside those of the batch."""
        return jax.tree.map(lambda _: 0, self)


validation.describe(("user",), AbstractUser, "a user such as em.RationalUser() or em.QuantalUser(20.0)")


def check_beliefs(user: AbstractUser, prior: Any, believed: Any) -> None:
    """Raise `ValueError` where `user` holds a cell (x_A, x_B) of a sound game to be impossible that can happen.

    prior, believed: NumPy arrays [..., XA, XB, Y], of which the batch axes are broadcast.
    """
    sound = ((prior >= 0) & np.isfinite(prior)).all(axis=(-3, -2, -1), keepdims=True)[..., 0]
    mass, happens = believed.sum(-1), prior.sum(-1) > 0
    if (sound & (~(mass >= 0) | (happens & ~(mass > 0)) | ~np.isfinite(believed).all(-1))).any():
        raise ValueError(
            f"believed_prior: of {type(user).__name__} it must be finite, with sums over outcomes that are positive "
            "at every (x_A, x_B) that can happen and nowhere negative; of several perceptions let a Conservative one "
            "with a weight above 1 be the outermost"
        )
