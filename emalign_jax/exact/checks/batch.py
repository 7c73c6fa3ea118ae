"""The interface through which batches of games are checked, and its form for checks of one game at a time."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from emalign_jax.exact.checks.base import AbstractCheck, check_for, make_check
from emalign_jax.exact.checks.examination import Examination, examine, without_impossible_messages
from emalign_jax.exact.obedience.fewer_messages import fit
from emalign_jax.games.game import ReducedGame
from emalign_jax.lp.highs import LPFailed
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.protocols.standard_units import StandardForm
from emalign_jax.users.base import AbstractUser


def _ignore(done: int) -> None:
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
    searched:  whether best responses are found by search, so that asking for them is expensive
    fallback:  [N] whether HiGHS solved a game because the batched solver's answer was not proved
    """

    searched = False
    user: AbstractUser
    K: int
    fallback: Bool[np.ndarray, "N"]

    @abc.abstractmethod
    def examine(
        self,
        at: Int[np.ndarray, "n"],
        schemes: Float[np.ndarray, "n K rows M"],
        bracket: float | None = None,
        tolerance: float | None = None,
        tell: Callable[[int], None] = _ignore,
    ) -> Examinations:
        """Payoffs and deviation gains.

        bracket:   the distance of upper from lower bounds that is worth work, as a share of the payoff range; None:
                   upper bounds are not worked for
        tolerance: with it, upper bounds are worked for only where no gain is above this share of the payoff range
        tell:      called with the number of profiles done so far
        """

    def after_move(self, at, schemes, before: Examinations, agents: Int[np.ndarray, "n"]) -> Examinations:
        """`examine` of profiles of which only the scheme of one agent has changed since `before`."""
        return self.examine(at, schemes)

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

    # What outbidding needs besides. Values are the user's.

    @abc.abstractmethod
    def can_outbid(self, at) -> Bool[np.ndarray, "n"]:
        """Whether the agent of the largest value is always picked."""

    @abc.abstractmethod
    def standing(self, at, schemes, examined: Examinations) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The values [n, K], the selected agent [n] and the best of its rivals [n], -1 if there is none."""

    @abc.abstractmethod
    def at_least(self, at, agents, values: Float[np.ndarray, "n"], messages: int) -> Float[np.ndarray, "n rows M"]:
        """The schemes that pay one agent most among those worth at least `values`; NaN as in `best_responses`."""

    @abc.abstractmethod
    def just_behind(self, at, schemes, selected, rivals) -> Float[np.ndarray, "n rows M"]:
        """The selected agents' schemes, garbled just enough to be worth less."""

    @abc.abstractmethod
    def worth(self, at) -> Float[np.ndarray, "n"]:
        """The largest value of a scheme less the smallest."""

    @abc.abstractmethod
    def limits(self, at, messages: int) -> Float[np.ndarray, "n rows M"]:
        """The schemes of the largest value, to which outbidding tends; NaN where there is no such limit."""


class OneByOne(AbstractChecks):
    """A check for each game, made when first asked for. This is how an `AbstractCheck` is used on a batch."""

    def __init__(
        self, reduced: ReducedGame, protocol: AbstractProtocol, user: AbstractUser, messages: int, rows: int,
        lp: str, count: int,
    ):  # fmt: skip
        self.reduced, self.protocol, self.user, self.messages, self.rows = reduced, protocol, user, messages, rows
        self.lp, self.count = lp, count
        self.kind = check_for(protocol, user)
        self.searched = not self.kind.exact_responses
        N, self.K = np.shape(reduced.agents)[:2]
        self.fallback = np.zeros(N, bool)
        self._made: dict[int, AbstractCheck] = {}

    def of(self, at) -> list[AbstractCheck]:
        """The checks of these games, with their LPs solved."""
        at = [int(k) for k in at]
        new = [k for k in dict.fromkeys(at) if k not in self._made]
        for first in range(0, len(new), self.kind.games_at_once):
            some = new[first : first + self.kind.games_at_once]
            for k in some:
                self._made[k] = make_check(self.reduced, k, self.protocol, self.user, self.messages)
                self._made[k].fallback |= bool(self.fallback[k])
            self.kind.prepare_lps([self._made[k] for k in some], self.lp, self.count)
            self.fallback[some] |= [self._made[k].fallback for k in some]
        return [self._made[k] for k in at]

    def examine(self, at, schemes, bracket=None, tolerance=None, tell=_ignore):
        found: list[Examination | None] = []
        schemes = without_impossible_messages(schemes)
        for first in range(0, len(at), self.kind.games_at_once):
            some = slice(first, first + self.kind.games_at_once)
            checks = self.of(at[some])
            self.kind.prepare(
                checks, list(schemes[some]), bracket, tolerance, lambda done, first=first: tell(first + done)
            )
            for check, profile in zip(checks, schemes[some], strict=True):
                one = _examined(check, profile, None if tolerance is not None else bracket)
                if tolerance is not None and one is not None and one.worst <= tolerance and not one.bracketed:
                    one = _examined(check, profile, bracket)  # More work may find a better deviation.
                check.release_caches()
                found.append(one)
                tell(len(found))
        return self.stack(found)

    def refine(self, at, schemes, examined, brackets, asked):
        some = np.flatnonzero(brackets < asked / 2)
        found = zip(self.of(at[some]), without_impossible_messages(schemes[some]), brackets[some], strict=True)
        examined.put(some, self.stack([_examined(check, profile, float(bracket)) for check, profile, bracket in found]))
        return examined

    def stack(self, found: list[Examination | None]) -> Examinations:
        """The examinations of several profiles; None where an LP failed."""
        out = not_examined(len(found), self.K)
        for n, one in enumerate(found):
            if one is not None:
                columns = one.user, one.agents, one.gains, one.upper, one.relative, one.bracketed
                for column, number in zip(out, columns, strict=False):
                    column[n] = number
            out.details[n] = one
        return out

    def best_responses(self, at, schemes, examined, agents):
        found = [
            None if one is None else one.deviations[i].scheme for one, i in zip(examined.details, agents, strict=True)
        ]
        return self._fitted(found, schemes.shape[-1])

    def monopolists(self, at, messages):
        found = [check.monopolist(i).scheme for check in self.of(at) for i in range(self.K)]
        return self._fitted(found, messages).reshape(len(at), self.K, self.rows, messages)

    def monopoly(self, at):
        found = np.full((2, len(at), self.K), np.nan)
        pairs = [(n, int(k), i) for n, k in enumerate(at) for i in range(self.K)]
        for first in range(0, len(pairs), self.kind.games_at_once):
            some, checks = pairs[first : first + self.kind.games_at_once], []
            for _, k, i in some:
                alone = self.reduced._replace(agents=self.reduced.agents[:, i : i + 1])
                checks.append(make_check(alone, k, self.protocol, self.user, self.messages))
            self.kind.prepare_monopolists(checks)
            for check, (n, _, i) in zip(checks, some, strict=True):
                best = check.monopolist(0)
                if best.status == "Optimal":
                    form = check.form
                    value = form.user_unit * check.payoffs(best.scheme[None])[0] + form.user_zero
                    found[:, n, i] = value, form.agent_unit[0] * best.value + form.agent_zero[0]
        return found

    def facts(self, at):
        return Facts(*(np.array(x, float) for x in zip(*(_facts(check, self.K) for check in self.of(at)), strict=True)))

    def form_of(self, at):
        forms = [check.form._replace(protocol=None, user=None) for check in self.of(at)]
        return jax.tree.map(lambda *parts: np.stack(parts), *forms)

    def floors(self, at, schemes, examined):
        checks = zip(self.of(at), without_impossible_messages(schemes), strict=True)
        nothing = np.full(self.K, np.nan)
        return np.array(
            [
                check.common_response_payoffs(profile) if check.revealing_is_picked else nothing
                for check, profile in checks
            ]
        )

    def release(self, at):
        for k in at:
            self._made.pop(int(k), None)

    def can_outbid(self, at):
        return np.array([check.can_outbid for check in self.of(at)], bool)

    def standing(self, at, schemes, examined):
        found = [check.standing(profile) for check, profile in self._selections(at, schemes)]
        values, _, selected, rivals = zip(*found, strict=True)
        return np.array(values), np.array(selected), np.array([-1 if rival is None else rival for rival in rivals])

    def at_least(self, at, agents, values, messages):
        found = zip(self._selections(at), agents, values, strict=True)
        return self._fitted([check.at_least(int(i), value).scheme for (check, _), i, value in found], messages)

    def just_behind(self, at, schemes, selected, rivals):
        found = zip(self._selections(at, schemes), selected, rivals, strict=True)
        return np.array([check.just_behind(profile, int(i), int(j)) for (check, profile), i, j in found])

    def worth(self, at):
        return np.array([check.most_value - check.least_value for check, _ in self._selections(at)])

    def limits(self, at, messages):
        return self._fitted([check.limit_scheme for check in self.of(at)], messages)

    def _selections(self, at, schemes=None):
        """The checks of Selection of these games, each with its profile."""
        return list(zip(self.of(at), [None] * len(at) if schemes is None else schemes, strict=True))

    def _fitted(self, found, messages: int) -> Float[np.ndarray, "n rows M"]:
        out = np.full((len(found), self.rows, messages), np.nan)
        for n, scheme in enumerate(found):
            fitted = None if scheme is None or not np.isfinite(scheme).all() else fit(scheme, messages)
            if fitted is not None:
                out[n] = fitted
        return out


def _examined(check: AbstractCheck, profile, bracket: float | None) -> Examination | None:
    """The examination of one profile; None if an LP failed."""
    try:
        return examine(check, profile, bracket)
    except LPFailed:
        return None


def _facts(check: AbstractCheck, K: int):
    try:
        payoff_range, negligible = check.payoff_range, check.negligible
    except LPFailed:
        payoff_range = negligible = np.full(K, np.nan)
    full, informed = check.informed(True)
    none = check.informed(False)[0]
    return full, none, informed, payoff_range, negligible, np.broadcast_to(check.stakes, K), check.scale


class Divided(AbstractChecks):
    """Some games checked in one way and the others in another."""

    def __init__(self, first: AbstractChecks, second: AbstractChecks, is_first: Bool[np.ndarray, "N"]):
        self.parts, self.is_first = (first, second), is_first
        self.searched = any(part.searched for part in self.parts)
        self.user, self.K = first.user, first.K

    @property
    def fallback(self):
        return np.where(self.is_first, self.parts[0].fallback, self.parts[1].fallback)

    def _each(self, method: str, at, *arguments, **words):
        """The answers of both parts, in the order of `at`. Arrays and `Examinations` among `arguments` are divided."""
        mine = self.is_first[at]
        if mine.all() or not mine.any():
            return getattr(self.parts[0 if mine.all() else 1], method)(at, *arguments, **words)
        sides = [np.flatnonzero(mine), np.flatnonzero(~mine)]
        answers = [
            getattr(part, method)(at[some], *(_rows(x, some) for x in arguments), **words)
            for part, some in zip(self.parts, sides, strict=True)
        ]
        back = np.argsort(np.concatenate(sides))
        return jax.tree.map(lambda *both: np.concatenate(both)[back], *answers)

    def examine(self, at, schemes, bracket=None, tolerance=None, tell=_ignore):
        return self._each("examine", at, schemes, bracket=bracket, tolerance=tolerance, tell=tell)

    def after_move(self, at, schemes, before, agents):
        return self._each("after_move", at, schemes, before, agents)

    def refine(self, at, schemes, examined, brackets, asked):
        return self._each("refine", at, schemes, examined, brackets, asked=asked)

    def best_responses(self, at, schemes, examined, agents):
        return self._each("best_responses", at, schemes, examined, agents)

    def monopolists(self, at, messages):
        return self._each("monopolists", at, messages=messages)

    def monopoly(self, at):
        found = np.empty((2, len(at), self.K))
        for part, some in zip(self.parts, (self.is_first[at], ~self.is_first[at]), strict=True):
            found[:, some] = part.monopoly(at[some])
        return found

    def facts(self, at):
        return self._each("facts", at)

    def form_of(self, at):
        return self._each("form_of", at)

    def floors(self, at, schemes, examined):
        return self._each("floors", at, schemes, examined)

    def release(self, at):
        self.parts[0].release(at[self.is_first[at]])
        self.parts[1].release(at[~self.is_first[at]])

    def can_outbid(self, at):
        return self._each("can_outbid", at)

    def standing(self, at, schemes, examined):
        return self._each("standing", at, schemes, examined)

    def at_least(self, at, agents, values, messages):
        return self._each("at_least", at, agents, values, messages=messages)

    def just_behind(self, at, schemes, selected, rivals):
        return self._each("just_behind", at, schemes, selected, rivals)

    def worth(self, at):
        return self._each("worth", at)

    def limits(self, at, messages):
        return self._each("limits", at, messages=messages)


def _rows(x, some):
    return x.rows(some) if isinstance(x, Examinations) else x[some]


def make_checks(
    reduced: ReducedGame, sound: Bool[np.ndarray, "N"], protocol: AbstractProtocol, user: AbstractUser, *,
    messages: int, rows: int, lp: str, count: int,
) -> AbstractChecks:  # fmt: skip
    """The exact checks of the games of a flat batch, protocol and user with it.

    sound:    which games are not malformed; of the others nothing may be asked.
    messages: M, which limits deviations in conversations; rows: information sets of an agent.
    lp:       "auto", "batched" or "highs"; count: the number of games by which "auto" decides.
    """
    checks = OneByOne(reduced, protocol, user, messages, rows, lp, count)
    return checks.kind.together(checks, sound)
