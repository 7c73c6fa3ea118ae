"""The interface of exact checks, and the registry of checks by protocol and user."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float

from emalign_jax.exact.responses import by_agent
from emalign_jax.games import units
from emalign_jax.games.game import Game, ReducedGame
from emalign_jax.games.units import NEGLIGIBLE_RANGE
from emalign_jax.internal import batching
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.protocols.standard_units import (
    StandardForm,
    likely_actions,
    raw_form,
    standard_form,
    without_tiny_cells,
)
from emalign_jax.users.base import AbstractUser

# The largest number of operations for an upper bound of one agent (cells of beliefs times their numbers), about 15 s.
WORK = 120_000_000


class Deviation(NamedTuple):
    """A best response of one agent, the others' schemes fixed.

    Attributes:
        value: the payoff that `scheme` attains, or approaches as a supremum; NaN if an LP failed.
        upper: an upper bound of the payoff of any scheme; equal to `value` where the method is exact.
        scheme: [XB, S]; S is as large as the optimum needs and may differ from M.
        status: "Optimal", or HiGHS's status instead.
        exact: the value as a rational number, if asked for and given by an LP.

    Example:
        >>> em.Deviation(value=0.5, upper=0.6, scheme=np.eye(2)).status
        'Optimal'
    """

    value: float
    upper: float
    scheme: Float[np.ndarray, "XB S"]
    status: str = "Optimal"
    exact: Fraction | None = None


class AbstractCheck(abc.ABC):
    """The exact check of one game under one protocol and user.

    A new check is one file: a subclass with `payoffs`, `deviations` and `monopolist`, registered by `register_check`.
    Its `upper` bounds must be proofs: profiles are CERTIFIED by them. LPs are built once and kept for all profiles.

    A class may declare:

    * `revealing_is_picked`: whether any agent, by revealing x_B, informs the user of it, as the guarantees need;
    * `can_outbid`: whether the agent of the largest value to the user is always picked, as outbidding needs;
    * `fallback`: whether HiGHS solved the game because the batched solver's answer was not proved;
    * `finds_monopolists`: whether `monopolist` is implemented;
    * `exact_responses`: whether an exact method finds best responses, one by one; otherwise a search does, in batches;
    * `has_proofs`: whether the verifier of proof files knows this protocol and user; not inherited;
    * `games_at_once`: number of games whose checks are prepared, and kept, at a time;
    * `tolerance`: default tolerance of `certify`, as a share of the payoff range.

    Args:
        game: one game, reduced, in NumPy float64.
        protocol: of the class that the check is registered for.
        user: likewise.

    Example:
        >>> class Silence(em.Pooled):  # the user hears no agent
        ...     def payoffs(self, game, schemes, user):
        ...         return em.Pooled().payoffs(game, jnp.ones_like(schemes) / schemes.shape[-1], user)
        >>> @em.register_check(Silence, em.RationalUser)
        ... class SilenceCheck(em.AbstractCheck):
        ...     def payoffs(self, schemes):
        ...         action = self.game.user.sum(1).argmax(-1)  # [XA] the best one without messages
        ...         both = np.concatenate([self.game.welfare[None], self.game.agents]).sum(2)  # [1 + K, XA, A]
        ...         paid = np.take_along_axis(both, action[None, :, None], -1).sum((1, 2))
        ...         return float(paid[0]), paid[1:]
        ...     def deviations(self, schemes, agents, bracket=None):
        ...         paid = self.payoffs(schemes)[1]
        ...         return [em.Deviation(paid[i], paid[i], schemes[i]) for i in agents]
        ...     def monopolist(self, agent, sign=1.0):
        ...         value = self.payoffs(None)[1][agent]
        ...         return em.Deviation(value, value, np.ones((self.game.mass.shape[1], 1)))
        >>> found = em.certify(em.catalog.judge(), em.full_revelation(1, 2, 2), Silence(), em.RationalUser())
        >>> em.Result(int(found.result)).name, round(float(found.user), 3)
        ('CERTIFIED', 0.7)

    Source: section 5 of docs/model.md.
    """

    def __init__(self, game: ReducedGame, protocol: AbstractProtocol, user: AbstractUser):
        self.game: Any = without_tiny_cells(game)  # NumPy float64
        self.protocol: Any = protocol  # Of a class that the check is registered for.
        self.user: Any = user
        self.likely = likely_actions(self.game, user)  # [XA, XB, A] upper bounds of the probability of each action
        self.scale = float(
            units.unit(self.game.welfare, self.likely)
        )  # The user's unit, to which tolerances are relative.
        self.form = raw_form(self.game, protocol, user)  # The units of the game's numbers; `make_check` sets another.
        self.messages = self.game.mass.shape[1]  # M, where it limits deviations; `make_check` sets it.
        self._range: np.ndarray | None = None
        self._informed: dict[bool, tuple[float, np.ndarray]] = {}

    revealing_is_picked = False
    can_outbid = False
    fallback = False
    finds_monopolists = True
    exact_responses = True
    stability_applies = False
    has_proofs = False
    games_at_once = 256
    tolerance = 1e-3

    @staticmethod
    def form_of(game: ReducedGame, protocol: Any, user: Any, lossless: bool) -> StandardForm:
        """The game in the units in which the check computes."""
        return standard_form(game, protocol, user, lossless=lossless)

    @classmethod
    def check_size(cls, games: Game, protocol: Any, user: Any, messages: int) -> None:
        """Raise `ValueError` before any work if the games are too large for the method; by default none are."""
        return

    @classmethod
    def prepare(
        cls,
        checks: list[Any],
        profiles: list[Float[np.ndarray, "K rows M"]],
        bracket: float | None = None,
        tolerance: float | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Compute for many games at once what `deviations` will need; by default nothing.

        Args:
            checks: one for each game.
            profiles: one for each check.
            bracket: as in `deviations`.
            tolerance: also compute without a bracket, and with the bracket only for games in which no gain is above
                this share of the payoff range.
            progress: called with the number of games done so far, if the work takes long.
        """
        return

    @classmethod
    def prepare_lps(cls, checks: list[Any], lp: str, count: int) -> int:
        """Solve the LPs of these checks batched, if the check has a batched solver and `lp` calls for it.

        Args:
            checks: one for each game.
            lp: as in `certify`.
            count: the number of games in all, by which "auto" decides.

        Returns:
            The number of games that are left to HiGHS because an answer failed its check.
        """
        return 0

    @classmethod
    def together(cls, checks: Any, sound: Bool[np.ndarray, "N"]) -> Any:
        """The checks of a batch of games, an `AbstractChecks`: by default `checks`, which has one check for each game.

        Args:
            checks: a `OneByOne`.
            sound: [N] which games are not malformed.
        """
        return checks

    @property
    def limit_scheme(self) -> Float[np.ndarray, "XB S"] | None:
        """The scheme to which outbidding tends; None where there is no such limit."""
        return None

    @classmethod
    def prepare_monopolists(cls, checks: list[Any]) -> None:
        """As `prepare`, for `monopolist(0)` of checks of games with one agent."""
        return

    @abc.abstractmethod
    def payoffs(self, schemes: Float[np.ndarray, "K XB M"]) -> tuple[float, Float[np.ndarray, "K"]]:
        """The user's value and the agents' payoffs [K] under schemes [K, XB, M], in NumPy float64."""

    def common_response_payoffs(self, schemes: Float[np.ndarray, "K XB M"]) -> Float[np.ndarray, "K"]:
        """The agents' payoffs [K] if the user breaks ties in one way for all agents, which the guarantees need."""
        return self.payoffs(schemes)[1]

    @abc.abstractmethod
    def deviations(
        self, schemes: Float[np.ndarray, "K XB M"], agents: range, bracket: float | None = None
    ) -> list[Deviation]:
        """The best responses of some agents.

        Args:
            schemes: [K, XB, M].
            agents: their indices.
            bracket: the upper bound is to be within this share of the agent's payoff range of the value, as far as
                `WORK` allows; None: no work is done for the upper bound.
        """

    @abc.abstractmethod
    def monopolist(self, agent: int, sign: float = 1.0) -> Deviation:
        """The optimum of `agent` alone with the user (sign=-1: its worst attainable payoff)."""

    def confirm(self) -> None:
        """From now on derive every LP's answer in rational arithmetic. Raises `ValueError` where that is impossible."""
        raise ValueError(
            f"exact: {type(self.protocol).__name__} with {type(self.user).__name__} has no finite LP to derive in "
            "rational arithmetic; Selection with a RationalUser has, elsewhere `upper` is the proof"
        )

    @property
    def payoff_range(self) -> Float[np.ndarray, "K"]:
        """Best minus worst attainable payoff of each agent; 0 where the difference is rounding."""
        if self._range is None:
            K = len(self.game.agents)
            # All maxima come before all minima, so that successive solves of a kept LP are similar.
            most, least = ([self._extreme_payoff(i, sign) for i in range(K)] for sign in (1.0, -1.0))
            found = np.subtract(most, least)
            self._range = np.where(found <= NEGLIGIBLE_RANGE * self.stakes, 0.0, found)
        return self._range

    def _extreme_payoff(self, agent: int, sign: float) -> float:
        """The best attainable payoff (sign=-1: the worst)."""
        return self.monopolist(agent, sign).value

    @property
    def negligible(self) -> Float[np.ndarray, "K"]:
        """Payoffs below this are rounding, for an agent whose payoff range is 0."""
        return np.where(self.payoff_range > 0, 0.0, NEGLIGIBLE_RANGE * self.stakes)

    def _width(self, agent: int, bracket: float | None) -> float | None:
        """`bracket` in units of payoff."""
        return None if bracket is None else bracket * self.payoff_range[agent] + self.negligible[agent] / 2

    @functools.cached_property
    def stakes(self) -> Float[np.ndarray, "K"]:
        """The unit of each agent (`units.unit`): 1 in standard units, 0 where actions do not matter."""
        return np.asarray(units.unit(self.game.agents, self.likely))

    @functools.cached_property
    def payoff_bounds(self) -> Float[np.ndarray, "K"]:
        """Upper bounds of the agents' payoffs under any schemes (`units.attainable`)."""
        return np.asarray(units.attainable(self.game.agents, self.likely)[1])

    def informed(self, informed: bool) -> tuple[float, Float[np.ndarray, "K"]]:
        """The user's value and the agents' payoffs if x_B is revealed (informed=False: without information).

        Under ties="agents" each agent's payoff is computed with ties in its favour.
        """
        if informed not in self._informed:
            pool = (lambda x: x) if informed else (lambda x: x.sum(1, keepdims=True))  # Sums over x_B, if uninformed.
            responses = by_agent(self.user.acting, self.game, pool)
            paid = np.array([(q * pool(own)).sum() for q, own in zip(responses, self.game.agents, strict=True)])
            self._informed[informed] = float((responses[0] * pool(self.game.welfare)).sum()), paid
        return self._informed[informed]


Check = TypeVar("Check", bound=AbstractCheck)
_CHECKS: dict[tuple[tuple[type, ...], type, type], type[AbstractCheck]] = {}
# Of these, those that also hold for users who misread beliefs.
_WITH_PERCEPTION: set[tuple[tuple[type, ...], type, type]] = set()


def register_check(
    protocol: type[AbstractProtocol] | tuple[type, ...],
    user: type[AbstractUser],
    acting: type[AbstractUser] | None = None,
    *,
    counts_welfare: bool = False,
):
    """Class decorator: registers the check of exactly this protocol class and user class, not of their subclasses.

    Args:
        protocol: a class; a tuple for a protocol in stages, such as (Selection, Conversation).
        user: a class.
        acting: the class of `user.acting`, where it is another one (`FixedReplies`); by default `user`.
        counts_welfare: whether the check also holds for such users when they misread beliefs: it takes the user's
            behaviour from `game.mass` and `game.user` alone, counts the user's value from `game.welfare`, and does not
            assume that this value is largest with full information, or least without any. Otherwise such users are
            checked by a search.

    Raises:
        ValueError: if there is a check already.

    Example:
        >>> from emalign_jax.exact.checks.pooled import PooledCheck
        >>> class Broadcast(em.Pooled):
        ...     pass  # the same payoffs, so that the check of Pooled holds
        >>> em.register_check(Broadcast, em.QuantalUser)(PooledCheck).__name__
        'PooledCheck'

    Source: section 5 of docs/model.md.
    """
    kind = protocol if isinstance(protocol, tuple) else (protocol,), user, acting or user

    def add(cls: type[Check]) -> type[Check]:
        if _CHECKS.setdefault(kind, cls) is not cls:
            raise ValueError(f"protocol, user: {_name(kind[0])} with {user.__name__} has a check already")
        if counts_welfare:
            _WITH_PERCEPTION.add(kind)
        return cls

    return add


def check_for(protocol: AbstractProtocol, user: AbstractUser) -> type[AbstractCheck]:
    """The check registered for exactly these classes, or the generic check. For a user who misreads beliefs it is that
    of the user's plain class, if it was registered for such users too."""
    from emalign_jax.exact.checks.generic import GenericCheck

    kind = protocol.kind, type(user.plain), type(user.plain.acting)
    known = user.plain is user or kind in _WITH_PERCEPTION
    return _CHECKS.get(kind, GenericCheck) if known else GenericCheck


def default_tolerance(protocol: AbstractProtocol, user: AbstractUser) -> float:
    """The default tolerance of `certify` for this protocol and user (section 4.2 of docs/model.md)."""
    return check_for(protocol, user).tolerance


def _name(kind: tuple[type, ...]) -> str:
    return " then ".join(part.__name__ for part in kind)


def make_check(
    reduced: ReducedGame,
    k: int | np.integer,
    protocol: AbstractProtocol,
    user: AbstractUser,
    messages: int | None = None,
    lossless: bool = False,
    kind: type[AbstractCheck] | None = None,
) -> AbstractCheck:
    """The exact check of game k of a flat batch, in standard units; `form` of the check converts its numbers.

    reduced:  the games as the user perceives them (`reduce_for`).
    messages: M, which limits the deviations in conversations (None: as many as x_B).
    lossless: use units that do not round (`AbstractCheck.form_of`).
    kind:     the class of the check (None: `check_for`).
    """
    one = batching.item(protocol, k), batching.item(user.plain, k)
    kind = kind or check_for(protocol, user)
    form = kind.form_of(ReducedGame(*(np.asarray(x[k]) for x in reduced)), *one, lossless)
    check = kind(form.game, form.protocol, form.user)
    check.form = form
    check.messages = check.messages if messages is None else messages
    return check
