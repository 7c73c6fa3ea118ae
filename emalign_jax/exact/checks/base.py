"""What a check of one game provides, and which check goes with a protocol and user."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.responses import by_agent
from emalign_jax.games import units
from emalign_jax.games.game import Game, ReducedGame
from emalign_jax.games.units import NEGLIGIBLE_RANGE
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.protocols.standard_units import (
    StandardForm,
    likely_actions,
    raw_form,
    standard_form,
    without_tiny_cells,
)
from emalign_jax.users.base import AbstractUser

# what an upper bound may cost an agent: belief cells times their numbers, a quarter of a minute or so
WORK = 120_000_000


class Deviation(NamedTuple):
    """The best that one agent can do, the others' schemes fixed.

    value:   payoff that `scheme` attains, or approaches as a supremum (NaN if an LP failed)
    upper:   no scheme pays more (the same number where the method is exact; loose where no bracket was asked for)
    scheme:  [XB, S]; S is what the optimum needs and may differ from M
    status:  "Optimal", or what HiGHS said instead
    exact:   the value as a rational, if that was asked for and an LP gave it
    """

    value: float
    upper: float
    scheme: Float[np.ndarray, "XB S"]
    status: str = "Optimal"
    exact: Fraction | None = None


class AbstractCheck(abc.ABC):
    """One game under one protocol and user. LPs are built once and kept for all profiles of the game.

    A new check is one file: a subclass with `payoffs`, `deviations` and `monopolist`, registered by `register_check`.
    What its `upper` bounds say is believed: a profile is CERTIFIED by them.
    """

    def __init__(self, game: ReducedGame, protocol: AbstractProtocol, user: AbstractUser):
        self.game: Any = without_tiny_cells(game)  # NumPy float64
        self.protocol: Any = protocol  # of the types that the check is registered for
        self.user: Any = user
        self.likely = likely_actions(self.game, user)  # [XA, XB, A] the largest probability of each action
        self.scale = float(units.unit(self.game.user, self.likely))  # the user's unit, to which tolerances are relative
        self.form = raw_form(self.game, protocol, user)  # how to read the numbers; `make_check` sets another
        self.messages = self.game.mass.shape[1]  # M where it matters to what a deviation may be; `make_check` sets it
        self._range: np.ndarray | None = None
        self._informed: dict[bool, tuple[float, np.ndarray]] = {}

    revealing_is_picked = False  # whether any agent, by revealing x_B, informs the user of it, as the guarantees need
    fallback = False  # HiGHS does what the batched solver's answer did not prove
    finds_monopolists = True  # whether `monopolist` can be asked
    exact_responses = True  # found by an exact method, one by one; else by search, in batches
    together = 256  # games whose checks are prepared, and kept, at a time
    tolerance = 1e-3  # of the payoff range, within which a profile counts as an equilibrium unless told otherwise

    @staticmethod
    def form_of(game: ReducedGame, protocol: Any, user: Any, lossless: bool) -> StandardForm:
        """The units in which the check counts."""
        return standard_form(game, protocol, user, lossless=lossless)

    @classmethod
    def check_size(cls, games: Game, protocol: Any, user: Any, messages: int) -> None:
        """Raise `ValueError` before any work if the method cannot do games of this size; this one has no limit."""
        return

    @classmethod
    def prepare(
        cls,
        checks: list[Any],
        profiles: list[Float[np.ndarray, "K rows M"]],
        bracket: float | None = None,
        tolerance: float | None = None,
        tell: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Do together what `deviations` will need of these profiles, one a check; this one needs nothing.

        bracket:   as in `deviations`.
        tolerance: do it with no bracket too, and with it where no gain is above this share of the payoff range.
        tell:      called now and then with the number of games that are done, if that takes long.
        """
        return

    @classmethod
    def prepare_lps(cls, checks: list[Any], lp: str, count: int) -> int:
        """Solve the LPs of these checks together, where there is a batched solver for them and `lp` wants it for
        `count` games, all of those that are checked; how many are left to HiGHS because an answer failed its check."""
        return 0

    def let_go(self) -> None:
        """Forget what only makes the next question about the same schemes faster, and would fill the memory."""
        return

    @classmethod
    def prepare_monopolists(cls, checks: list[Any]) -> None:
        """The same for `monopolist(0)` of checks of games with one agent."""
        return

    @abc.abstractmethod
    def payoffs(self, schemes: Float[np.ndarray, "K XB M"]) -> tuple[float, Float[np.ndarray, "K"]]:
        """User value and agents' payoffs, in NumPy float64."""

    def common_law_payoffs(self, schemes: Float[np.ndarray, "K XB M"]) -> Float[np.ndarray, "K"]:
        """Agents' payoffs under one law over actions, which the guarantees need."""
        return self.payoffs(schemes)[1]

    @abc.abstractmethod
    def deviations(
        self, schemes: Float[np.ndarray, "K XB M"], agents: range, bracket: float | None = None
    ) -> list[Deviation]:
        """The best response of each of `agents`, with an upper bound that is within `bracket` of it as a share of his
        payoff range, as far as `WORK` allows (None: no work is done for the upper bound)."""

    @abc.abstractmethod
    def monopolist(self, agent: int, sign: float = 1.0) -> Deviation:
        """What `agent` would do with no rival (sign=-1: his worst attainable payoff)."""

    def confirm(self) -> None:
        """From now on derive every LP's answer in rational arithmetic; `ValueError` where that cannot be done."""
        raise ValueError(
            f"exact: {type(self.protocol).__name__} with {type(self.user).__name__} has no finite LP to derive in "
            "rational arithmetic; Selection with a RationalUser has, elsewhere `upper` is the proof"
        )

    @property
    def payoff_range(self) -> Float[np.ndarray, "K"]:
        """Best minus worst attainable payoff of each agent, over everything the user may be told; 0 where
        that is rounding."""
        if self._range is None:
            K = len(self.game.agents)
            # all the best first, then all the worst: agents are alike, so a kept LP has less to change
            most, least = ([self._most_paid(i, sign) for i in range(K)] for sign in (1.0, -1.0))
            found = np.subtract(most, least)
            self._range = np.where(found <= NEGLIGIBLE_RANGE * self.stakes, 0.0, found)
        return self._range

    def _most_paid(self, agent: int, sign: float) -> float:
        """Best (or worst, for sign=-1) attainable payoff."""
        return self.monopolist(agent, sign).value

    def known_range(self, gains: Float[np.ndarray, "K"]) -> Float[np.ndarray, "K"]:
        """`payoff_range`, or a gain that was found where that is more (there the range comes from a search)."""
        return np.where(gains > self.negligible, np.maximum(self.payoff_range, gains), self.payoff_range)

    @property
    def negligible(self) -> Float[np.ndarray, "K"]:
        """Payoffs below it are rounding to an agent who has no payoff range."""
        return np.where(self.payoff_range > 0, 0.0, NEGLIGIBLE_RANGE * self.stakes)

    def _width(self, agent: int, bracket: float | None) -> float | None:
        """`bracket` in payoffs."""
        return None if bracket is None else bracket * self.payoff_range[agent] + self.negligible[agent] / 2

    @functools.cached_property
    def stakes(self) -> Float[np.ndarray, "K"]:
        """The unit of each agent (`units.unit`): 1 in standard units, 0 where actions do not matter."""
        return np.asarray(units.unit(self.game.agents, self.likely))

    @functools.cached_property
    def most(self) -> Float[np.ndarray, "K"]:
        """What no scheme pays more than (`units.attainable`)."""
        return np.asarray(units.attainable(self.game.agents, self.likely)[1])

    def informed(self, informed: bool) -> tuple[float, Float[np.ndarray, "K"]]:
        """User value and agents' payoffs if x_B is revealed (or nothing is told). Ties go as the user's
        rule says, under "agents" to the agent whose payoff it is."""
        if informed not in self._informed:
            together = (lambda x: x) if informed else (lambda x: x.sum(1, keepdims=True))  # over x_B
            laws = by_agent(self.user.acting, self.game, together)
            paid = np.array([(law * together(own)).sum() for law, own in zip(laws, self.game.agents, strict=True)])
            self._informed[informed] = float((laws[0] * together(self.game.user)).sum()), paid
        return self._informed[informed]


Check = TypeVar("Check", bound=AbstractCheck)
_CHECKS: dict[tuple[tuple[type, ...], type, type], type[AbstractCheck]] = {}


def register_check(
    protocol: type[AbstractProtocol] | tuple[type, ...],
    user: type[AbstractUser],
    acting: type[AbstractUser] | None = None,
):
    """Class decorator: the check to use for this protocol and user, and for no subclass of theirs.

    protocol: a class; a tuple for a protocol in stages, such as (Selection, Conversation).
    user:     a class.
    acting:   how the user takes the final action, where that is another user's part (`FixedReplies`); default `user`.
    Raises `ValueError` where there is one already.

    Example:
        @em.register_check(Lottery, em.QuantalUser)
        class LotteryCheck(em.AbstractCheck): ...
    """
    kind = protocol if isinstance(protocol, tuple) else (protocol,), user, acting or user

    def add(cls: type[Check]) -> type[Check]:
        if _CHECKS.setdefault(kind, cls) is not cls:
            raise ValueError(f"protocol, user: {_name(kind[0])} with {user.__name__} has a check already")
        return cls

    return add


def check_for(protocol: AbstractProtocol, user: AbstractUser) -> type[AbstractCheck]:
    """The registered check of exactly these classes, or else the generic one."""
    from emalign_jax.exact.checks.generic import GenericCheck

    return _CHECKS.get((protocol.kind, type(user), type(user.acting)), GenericCheck)


def default_tolerance(protocol: AbstractProtocol, user: AbstractUser) -> float:
    """The tolerance of the check for this protocol and user."""
    return check_for(protocol, user).tolerance


def _name(kind: tuple[type, ...]) -> str:
    return " then ".join(part.__name__ for part in kind)
