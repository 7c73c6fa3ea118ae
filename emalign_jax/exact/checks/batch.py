"""The interface through which batches of games are checked."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from emalign_jax.protocols.standard_units import StandardForm
from emalign_jax.users.base import AbstractUser


def ignore(done: int) -> None:
    """The default of arguments that report progress."""


class Examinations(NamedTuple):
    """Payoffs and deviation gains of n profiles, in standard units.

    user, agents:  [n], [n, K] the user's value and the agents' payoffs
    gains, upper:  [n, K] lower and upper bounds of the deviation gains; NaN if an LP failed
    relative:      [n, K] gains as shares of the payoff ranges
    bracketed:     [n] whether the upper bounds were worked for
    values, table: [n, K], [n, K, K] in Selection, the user's value of scheme j and agent i's payoff under scheme j;
                   NaN elsewhere
    details:       [n] what a check of one game found, an `Examination`; None elsewhere
    """

    user: Float[np.ndarray, "n"]
    agents: Float[np.ndarray, "n K"]
    gains: Float[np.ndarray, "n K"]
    upper: Float[np.ndarray, "n K"]
    relative: Float[np.ndarray, "n K"]
    bracketed: Bool[np.ndarray, "n"]
    values: Float[np.ndarray, "n K"]
    table: Float[np.ndarray, "n K K"]
    details: np.ndarray

    @property
    def worst(self) -> Float[np.ndarray, "n"]:
        """The largest relative gain of each profile; inf if an LP failed."""
        return np.where(np.isfinite(self.relative).all(1), self.relative.max(1), np.inf)

    def rows(self, some) -> Examinations:
        """Those profiles alone."""
        return Examinations(*(x[some] for x in self))

    def put(self, some, other: Examinations) -> None:
        """Replace those profiles' numbers by `other`, in place."""
        for mine, theirs in zip(self, other, strict=True):
            mine[some] = theirs


def not_examined(count: int, agents: int) -> Examinations:
    """Of profiles that nothing is known of: infinite gains."""
    one, many, table = (np.full((count, *shape), np.nan) for shape in ((), (agents,), (agents, agents)))
    infinite = np.full((count, agents), np.inf)
    return Examinations(
        one, many, infinite, infinite.copy(), infinite.copy(), np.zeros(count, bool), many.copy(), table,
        np.full(count, None),
    )  # fmt: skip


class Facts(NamedTuple):
    """What certificates need to know of n games, in standard units; NaN where an LP failed.

    full, none:   [n] the user's value V_full and V_none
    informed:     [n, K] the agents' payoffs if x_B is revealed
    payoff_range: [n, K] best minus worst attainable payoff; 0 where the difference is rounding
    negligible:   [n, K] payoffs below this are rounding, for an agent whose payoff range is 0
    stakes:       [n, K] the agents' units: 1, or 0 where actions do not matter
    scale:        [n] the user's unit
    """

    full: Float[np.ndarray, "n"]
    none: Float[np.ndarray, "n"]
    informed: Float[np.ndarray, "n K"]
    payoff_range: Float[np.ndarray, "n K"]
    negligible: Float[np.ndarray, "n K"]
    stakes: Float[np.ndarray, "n K"]
    scale: Float[np.ndarray, "n"]


class AbstractChecks(abc.ABC):
    """The exact checks of N games under one protocol and user.

    In all methods `at` [n] holds numbers of games, which may be repeated, and `schemes` [n, K, rows, M] their profiles.

    K:         the number of agents
    at_once:   number of games about which to ask, and then to `release`, so that memory stays bounded
    searched:  whether best responses are found by search, so that asking for them is expensive
    batched:   whether many profiles of one game are examined in little more time than one
    fallback:  [N] whether HiGHS solved a game because the batched solver's answer was not proved
    """

    searched = False
    batched = True
    user: AbstractUser
    K: int
    at_once: int
    fallback: Bool[np.ndarray, "N"]

    @abc.abstractmethod
    def examine(
        self,
        at: Int[np.ndarray, "n"],
        schemes: Float[np.ndarray, "n K rows M"],
        bracket: float | None = None,
        tolerance: float | None = None,
        tell: Callable[[int], None] = ignore,
    ) -> Examinations:
        """Payoffs and deviation gains.

        bracket:   the distance of upper from lower bounds that is worth work, as a share of the payoff range; None:
                   upper bounds are not worked for
        tolerance: with it, gains need only be known well enough to tell whether they are above this share of the payoff
                   range, and upper bounds are worked for only where none is, to prove that
        tell:      called with the number of profiles done so far
        """

    def after_move(
        self, at, schemes, before: Examinations, agents: Int[np.ndarray, "n"], tolerance: float | None = None
    ) -> Examinations:
        """`examine` of profiles of which only the scheme of one agent has changed since `before`."""
        return self.examine(at, schemes, None, tolerance)

    def refine(
        self, at, schemes, examined: Examinations, brackets: Float[np.ndarray, "n"], asked: float
    ) -> Examinations:
        """`examined` with upper bounds as close as `brackets`, where more work can bring them closer.

        asked: the bracket of the examination.
        """
        return examined

    @abc.abstractmethod
    def best_responses(
        self, at, schemes, examined: Examinations, agents: Int[np.ndarray, "n"]
    ) -> Float[np.ndarray, "n rows M"]:
        """The best response of one agent in each profile; NaN where it needs more than M messages."""

    @abc.abstractmethod
    def monopolists(self, at, messages: int) -> Float[np.ndarray, "n K rows M"]:
        """Each agent's best scheme without rivals; NaN where it needs more than M messages or an LP failed."""

    @abc.abstractmethod
    def monopoly(self, at) -> Float[np.ndarray, "2 n K"]:
        """The user's value and the agent's payoff with each agent's best scheme without rivals, in the games' units;
        NaN where an LP failed."""

    @abc.abstractmethod
    def facts(self, at) -> Facts:
        """What certificates need of these games."""

    @abc.abstractmethod
    def form_of(self, at) -> StandardForm:
        """The games in standard units, with these units; the fields `protocol` and `user` are None."""

    @abc.abstractmethod
    def floors(self, at, schemes, examined: Examinations) -> Float[np.ndarray, "n K"]:
        """The agents' payoffs if the user breaks ties in one way for all agents, as the guarantees need; NaN where
        there are no guarantees because an agent that reveals x_B need not be picked."""

    def release(self, at) -> None:
        """Free the memory of games about which nothing more will be asked soon."""
        return

    # What outbidding needs besides, where it is possible. Values are the user's.

    def can_outbid(self, at) -> Bool[np.ndarray, "n"]:
        """Whether the agent of the largest value is always picked; nowhere by default."""
        return np.zeros(len(at), bool)

    def standing(self, at, schemes, examined: Examinations) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The values [n, K], the selected agent [n] and the best of its rivals [n], -1 if there is none."""
        raise NotImplementedError

    def at_least(self, at, agents, values: Float[np.ndarray, "n"], messages: int) -> Float[np.ndarray, "n rows M"]:
        """The schemes that pay one agent most among those worth at least `values`; NaN as in `best_responses`."""
        raise NotImplementedError

    def just_behind(self, at, schemes, selected, rivals) -> Float[np.ndarray, "n rows M"]:
        """The selected agents' schemes, garbled just enough to be worth less."""
        raise NotImplementedError

    def worth(self, at) -> Float[np.ndarray, "n"]:
        """The largest value of a scheme less the smallest."""
        raise NotImplementedError

    def limits(self, at, messages: int) -> Float[np.ndarray, "n rows M"]:
        """The schemes of the largest value, to which outbidding tends; NaN where there is no such limit."""
        return np.full((len(at), 1, messages), np.nan)
