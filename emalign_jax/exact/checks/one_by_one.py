"""Batches of games with a check for each game, and the checks of any batch."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from emalign_jax.exact.checks.base import AbstractCheck, check_for, make_check
from emalign_jax.exact.checks.batch import AbstractChecks, Examinations, Facts, ignore, not_examined
from emalign_jax.exact.checks.examination import Examination, examine, without_impossible_messages
from emalign_jax.exact.obedience.fewer_messages import fit
from emalign_jax.games.game import ReducedGame
from emalign_jax.lp.highs import LPFailed
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.protocols.standard_units import StandardForm
from emalign_jax.users.base import AbstractUser


class OneByOne(AbstractChecks):
    """A check for each game, made when first asked for. This is how an `AbstractCheck` is used on a batch."""

    batched = False

    def __init__(
        self, reduced: ReducedGame, protocol: AbstractProtocol, user: AbstractUser, messages: int, rows: int,
        lp: str, count: int, form: StandardForm | None = None,
    ):  # fmt: skip
        self.form = form
        self.reduced, self.protocol, self.messages, self.rows = reduced, protocol, messages, rows
        self.lp, self.count = lp, count
        self.kind, self.user = check_for(protocol, user), user.plain
        self.searched = not self.kind.exact_responses
        self.at_once = self.kind.games_at_once
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
                self._made[k] = make_check(self.reduced, k, self.protocol, self.user, self.messages, kind=self.kind)
                self._made[k].fallback |= bool(self.fallback[k])
            self.kind.prepare_lps([self._made[k] for k in some], self.lp, self.count)
            self.fallback[some] |= [self._made[k].fallback for k in some]
        return [self._made[k] for k in at]

    def examine(self, at, schemes, bracket=None, tolerance=None, tell=ignore):
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
                settled = tolerance is not None and one is not None and one.worst <= tolerance and not one.bracketed
                if settled and bracket is not None:
                    one = _examined(check, profile, bracket)  # More work may find a better deviation.
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
                checks.append(make_check(alone, k, self.protocol, self.user, self.messages, kind=self.kind))
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

    def _selections(self, at, schemes=None) -> list[tuple[Any, Any]]:
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


def make_checks(
    reduced: ReducedGame, sound: Bool[np.ndarray, "N"], protocol: AbstractProtocol, user: AbstractUser, *,
    messages: int, rows: int, lp: str, count: int, form: StandardForm | None = None,
) -> AbstractChecks:  # fmt: skip
    """The exact checks of the games of a flat batch, protocol and user with it.

    reduced:  the games as the user perceives them (`reduce_for`).
    sound:    which games are not malformed; of the others nothing may be asked.
    messages: M, which limits deviations in conversations; rows: information sets of an agent.
    lp:       "auto", "batched" or "highs"; count: the number of games by which "auto" decides.
    form:     the games in standard units, with `user.plain`, where that is known.
    """
    checks = OneByOne(reduced, protocol, user, messages, rows, lp, count, form)
    return checks.kind.together(checks, sound)
