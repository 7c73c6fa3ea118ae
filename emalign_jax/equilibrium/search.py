"""The state of a search for equilibria, as arrays over all profiles, and the moves that solvers make on it.

The only module that knows both the accelerated part (`play`) and the exact part (`exact`).
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from emalign_jax.equilibrium.best_response_dynamics import settle
from emalign_jax.equilibrium.solution import Solution
from emalign_jax.equilibrium.trajectory import Recorder, Trajectory
from emalign_jax.exact.certificates import certificate as exact
from emalign_jax.exact.checks.batch import AbstractChecks, Examinations, not_examined
from emalign_jax.exact.checks.one_by_one import make_checks
from emalign_jax.games.game import Game, ReducedGame, faults
from emalign_jax.internal import batching
from emalign_jax.lp.choice import of_guarantees
from emalign_jax.play import GradientPlay, play_games
from emalign_jax.play.tiles import bucket
from emalign_jax.protocols.base import reduce_for
from emalign_jax.protocols.schemes import ROW_SUM_TOLERANCE, numbered_schemes
from emalign_jax.protocols.standard_units import standard_form
from emalign_jax.result import FoundBy, Move, Result

VALUED_CELLS = 2**24  # Numbers in the largest tensor when payoffs are computed without checks.


class Search:
    """Profiles n = 0, 1, ..., N - 1, one for each start and game, and what is known of each.

    current:  [N, K, rows, M] the profiles that the solver moves
    schemes:  [N, K, rows, M] the best profiles yet, those that are returned
    best:     what is known of `schemes`
    result, found_by: [N] codes of `schemes`
    searched: whether best responses are found by search, so that asking for them is expensive
    verify:   whether profiles are to be examined at all
    recorder: of trajectories, None if they are not asked for
    """

    def __init__(
        self, games: Game, protocol, user, solver: Any, key, *, starts: int, messages: int, first: int, of: int,
        lp: str, verify: bool, progress, record: bool,
    ):  # fmt: skip
        self.solver, self.key, self.lp, self.verify = solver, key, lp, verify
        self.games, self.per_start, self.starts, self.first, self.of = games, len(games.prior), starts, first, of
        self.tolerance, self._progress = solver.tolerance, progress
        self.K, self.rows, self.M = games.agents, protocol.rows(games, messages), messages
        self.cells = protocol.cells(games, messages)
        self.N = N = self.per_start * starts
        self.protocol, self.user = (batching.flatten(module, games.batch_shape) for module in (protocol, user))
        reduced = reduce_for(games, self.protocol, self.user, np)
        # Play is in standard units, as checks are.
        self.form = standard_form(reduced, self.protocol, self.user.plain)
        sound = faults(games) == ""
        self.result = np.where(np.tile(sound, starts), Result.UNCHECKED, Result.MALFORMED)
        self.found_by = np.full(N, FoundBy.NOTHING)
        self.schemes = np.full((N, self.K, self.rows, self.M), np.nan)
        self.current = self.schemes.copy()
        self.best = not_examined(N, self.K)
        # What was examined last, and the place of each profile in it; -1: it is not there.
        self._now, self._place = not_examined(0, self.K), np.full(N, -1)
        self.certificate = exact.no_certificates(N, self.K)
        self._terms: list[tuple[np.ndarray, exact.Terms]] = []
        # The profile in whose place each one is searched, and which of its copies it is.
        self._origin, self._copy = np.arange(N), np.zeros(N, int)
        self.stats = {"games": N, "steps": 0, "best_responses": 0, "fresh_starts": 0, "lp_fallbacks": 0}
        self._reduced, self._sound = reduced, sound
        self.recorder = Recorder(self.K, self._recorded) if record else None
        # Of each current profile that is not recorded yet, how it came about; -1 once it is.
        self._moved = np.full(N, -1)

    @functools.cached_property
    def checks(self) -> AbstractChecks:
        """The exact checks, made when first needed: without `verify` they may never be."""
        sizes = {"messages": self.M, "rows": self.rows, "lp": self.lp, "count": self.of, "form": self.form}
        return make_checks(self._reduced, self._sound, self.protocol, self.user, **sizes)

    @property
    def searched(self) -> bool:
        return self.verify and self.checks.searched

    def report(self, stage: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(stage, done, total)

    def _at(self, profiles):
        """The games of profiles."""
        return self._origin[profiles] % self.per_start

    # starting points

    def begin(self, start: Any) -> Int[np.ndarray, "n"]:
        """Set the first profiles. start: "random", "monopolist" or schemes [starts, games, K, rows, M]. Returns the
        profiles to search from."""
        pending = np.flatnonzero(self.result != Result.MALFORMED)
        self._moved[pending] = Move.START
        if not isinstance(start, str):
            self.current[pending] = start.reshape(self.schemes.shape)[pending]
            broken = ~np.isfinite(self.current[pending]).all((1, 2, 3))
            self.result[pending[broken]] = Result.MALFORMED
            return pending[~broken]
        random = pending
        if start == "monopolist":
            alone = pending[pending < self.per_start]
            self.current[alone] = self.checks.monopolists(alone, self.M)
            fits = np.isfinite(self.current[alone]).all((1, 2, 3))
            random = np.concatenate([alone[~fits], pending[pending >= self.per_start]])
            self.report("monopolists", len(alone), len(alone))
        self._restart(random, 0)
        return pending

    def restart(self, pending, attempt: int) -> None:
        """Give profiles new random schemes, which depend on the numbers of start, attempt and game alone."""
        self._restart(pending, attempt)
        self.stats["fresh_starts"] += len(pending)

    def _restart(self, pending, attempt: int) -> None:
        starts, self._moved[pending] = self._origin[pending] // self.per_start, Move.START
        for start, copy in np.unique(np.stack([starts, self._copy[pending]], 1), axis=0):
            some = pending[(starts == start) & (self._copy[pending] == copy)]
            key = jax.random.fold_in(jax.random.fold_in(self.key, int(start)), attempt)
            key = jax.random.fold_in(key, int(copy)) if copy else key
            drawn = numbered_schemes(key, self.first, self.per_start, self.K, self.rows, self.M)
            self.current[some] = np.asarray(drawn)[self._at(some)]

    def split(self, pending, copies: int) -> Int[np.ndarray, "n"]:
        """Search each of these profiles `copies` times side by side, from what is known of it, until one of the copies
        is an equilibrium. Returns all copies; they differ once they are restarted."""
        if not len(pending) or copies < 2:
            return pending
        origin = np.tile(pending, copies - 1)
        if self.recorder is not None:
            self.recorder.copied()
        self._origin = np.concatenate([self._origin, self._origin[origin]])
        self._copy = np.concatenate([self._copy, np.repeat(np.arange(1, copies), len(pending))])
        for name in ("current", "schemes", "result", "found_by", "_place", "_moved"):
            setattr(self, name, np.concatenate([getattr(self, name), getattr(self, name)[origin]]))
        copied = lambda column: np.concatenate([column, column[origin]])  # noqa: E731
        self.best = Examinations(*map(copied, self.best))
        self.certificate = jax.tree.map(copied, self.certificate)
        return np.concatenate([pending, np.arange(len(self._origin) - len(origin), len(self._origin))])

    def without_settled(self, pending) -> Int[np.ndarray, "n"]:
        """`pending` without the copies of profiles one of whose copies is an equilibrium."""
        left = np.zeros(len(self._origin), bool)
        left[pending] = True
        settled = np.zeros(self.N, bool)
        settled[self._origin[~left & (self.best.worst <= self.tolerance)]] = True
        return pending[~settled[self._origin[pending]]]

    def _join(self) -> None:
        """Keep of each profile the best of its copies, of equilibria the first."""
        done = self.best.worst <= self.tolerance
        order = np.lexsort((self._copy, np.where(done, 0.0, self.best.worst), self._origin))
        first = order[np.flatnonzero(np.diff(self._origin[order], prepend=-1))]  # By origin.
        for name in ("current", "schemes", "result", "found_by", "_moved"):
            setattr(self, name, getattr(self, name)[first])
        self.best = self.best.rows(first)
        self.certificate = self.certificate[first]
        place = np.full(len(self._origin), -1)
        place[first] = np.arange(self.N)
        if self.recorder is not None:
            self.recorder.joined(place)
        kept = [(place[some], terms) for some, terms in self._terms]
        self._terms = [
            (some[some >= 0], jax.tree.map(lambda x, some=some: x[some >= 0], terms)) for some, terms in kept
        ]
        self._origin, self._copy = np.arange(self.N), np.zeros(self.N, int)

    # moves

    def play(self, pending, *, late: bool = False, solver: GradientPlay | None = None) -> Int[np.ndarray, "n"]:
        """Gradient play, by default with the hyper-parameters of the solver; returns the profiles whose numbers stayed
        finite. late: with the last half of its schedules."""
        chosen: Any = solver or self.solver
        stage = "play on" if late else "play"
        total = len(chosen.schedule(late).learning_rate) * len(pending)
        done = 0

        def count(steps):
            nonlocal done
            done = min(done + steps, total)
            self.report(stage, done * len(pending) // total, len(pending))

        self._record(pending)
        recorder, watch = self.recorder, None
        if recorder is not None:
            watch = lambda at, schemes: recorder.note(pending[at], Move.PLAY, schemes)  # noqa: E731
        setting = self.form.game, self.form.protocol, self.form.user
        game, protocol, user = jax.tree.map(lambda x: x[self._at(pending)], setting)
        played = play_games(
            game,
            self.current[pending],
            protocol,
            user,
            chosen,
            cells=self.cells,
            late=late,
            progress=count,
            watch=watch,
        )
        self.stats["steps"] += played.steps
        self.report(stage, len(pending), len(pending))
        self.current[pending], self._moved[pending] = played.schemes, Move.PLAY
        self.result[pending[~played.finite]] = Result.FAILED
        return pending[played.finite]

    def respond(self, pending, attempt: int) -> None:
        """Play the best response of the agent that gains most in the profiles last examined. Where it needs more
        messages than there are, restart."""
        if (self._place[pending] < 0).any():
            raise ValueError("pending: respond moves profiles that were examined last; call `examine` first")
        now = self._now.rows(self._place[pending])
        movers, known = now.relative.argmax(1), np.isfinite(now.worst)
        moved = np.full((len(pending), self.rows, self.M), np.nan)
        if known.any():
            moved[known] = self.checks.best_responses(
                self._at(pending[known]), self.current[pending[known]], now.rows(known), movers[known]
            )
        fits = np.isfinite(moved).all((1, 2))
        self.current[pending[fits], movers[fits]] = moved[fits]
        self._moved[pending[fits]] = Move.BEST_RESPONSE
        self.stats["best_responses"] += int(fits.sum())
        if not fits.all():
            self.restart(pending[~fits], attempt)

    def examine(self, pending, found_by: FoundBy) -> Int[np.ndarray, "n"]:
        """Examine the current profiles and record them. Returns those that are not equilibria."""
        total, profiles = len(pending), self._profiles(pending)
        self._place[:] = -1
        self._place[pending] = np.arange(total)
        self._now = self.checks.examine(
            self._at(pending), profiles, exact.BRACKET * self.tolerance, self.tolerance,
            lambda done: self.report("check", done, total),
        )  # fmt: skip
        self._moved[pending] = np.where(self._moved[pending] < 0, Move.OTHER, self._moved[pending])
        self._record(pending, self._now.relative)
        return self._keep_better(pending, profiles, self._now, found_by)

    def _profiles(self, pending) -> Float[np.ndarray, "n K rows M"]:
        """The current profiles. Raises `ValueError` if the solver has left something else than distributions there."""
        profiles = self.current[pending]
        sums = profiles.sum(-1)
        if not ((profiles >= 0).all() and (np.abs(sums - 1) <= ROW_SUM_TOLERANCE).all()):
            raise ValueError(
                f"solver: {type(self.solver).__name__} left schemes in `current` that are no distributions: rows must "
                f"be >= 0 and sum to 1 over M (within {ROW_SUM_TOLERANCE:g})"
            )
        return profiles

    def settle(self, pending, max_steps: int | None = None) -> Int[np.ndarray, "n"]:
        """Best-response dynamics from the current profiles, which stay. Returns those that do not end at equilibria."""
        if not len(pending):
            return pending
        at, total, watch = self._at(pending), len(pending), None
        if self.recorder is not None:
            watch = functools.partial(self._met, self.recorder, pending, np.zeros(total, bool))
        ended = settle(
            self.checks, at, self._profiles(pending), self.tolerance, max_steps=max_steps,
            tell=lambda done: self.report("best responses", done, total),
            watch=watch,
        )  # fmt: skip
        self.stats["best_responses"] += int(ended.steps.sum())
        more = np.flatnonzero((ended.examined.worst <= self.tolerance) & ~ended.examined.bracketed)
        if len(more):
            bracket = exact.BRACKET * self.tolerance
            examined = self.checks.examine(at[more], ended.schemes[more], bracket, self.tolerance)
            ended.examined.put(more, examined)
        self.report("best responses", total, total)
        return self._keep_better(pending, ended.schemes, ended.examined, FoundBy.BEST_RESPONSE_DYNAMICS)

    def can_outbid(self, pending):
        """Of each profile, whether outbidding is defined (`AbstractChecks.can_outbid`)."""
        return self.checks.can_outbid(self._at(pending))

    def keep(self, pending, found_by: FoundBy) -> None:
        """Take the current profiles without examining them."""
        self.schemes[pending], self.found_by[pending] = self._profiles(pending), found_by

    def _keep_better(self, pending, schemes, examined, found_by: FoundBy) -> Int[np.ndarray, "n"]:
        """Keep what is better than before, and certify the equilibria; returns the other profiles."""
        better = np.isnan(self.schemes[pending, 0, 0, 0]) | (examined.worst < self.best.worst[pending])
        some = pending[better]
        self.best.put(some, examined.rows(better))
        self.schemes[some], self.found_by[some] = schemes[better], found_by
        done = self.best.worst[pending] <= self.tolerance
        self._certify(pending[done])
        return pending[~done]

    def _certify(self, some) -> None:
        """Write the certificates of these profiles, but for their guarantees."""
        if not len(some):
            return
        at = self._at(some)
        best = self.best.rows(some)
        rough = np.flatnonzero(~best.bracketed)
        if len(rough):
            bracket = exact.BRACKET * self.tolerance
            best.put(rough, self.checks.examine(at[rough], self.schemes[some[rough]], bracket))
        rows, terms = exact.certificates(self.checks, at, self.games, self.schemes[some], self.tolerance, best)
        exact.put(self.certificate, some, rows)
        self._terms.append((some, terms))
        self.result[some] = rows.result
        self.checks.release(at)
        self.best.details[some] = None

    # trajectories

    def _record(self, profiles, relative: Any = np.nan) -> None:
        """Note the current schemes of those profiles that are not recorded yet. relative: their gains where known."""
        new = self._moved[profiles] >= 0
        if self.recorder is not None and new.any():
            some = profiles[new]
            gains = np.broadcast_to(relative, (len(profiles), self.K))[new]
            self.recorder.note(some, self._moved[some], self.current[some], gains)
        self._moved[profiles] = -1

    def _met(self, recorder: Recorder, pending, begun, rows, schemes, examined) -> None:
        """Note what best-response dynamics from the profiles `pending` meet: first these, then where they move. begun:
        [n] of which of them the former is done."""
        moved = begun[rows]
        self._record(pending[rows[~moved]], examined.relative[~moved])
        begun[rows] = True
        recorder.note(pending[rows[moved]], Move.BEST_RESPONSE, schemes[moved], examined.relative[moved])

    def _recorded(self, profiles, schemes):
        """The values and the picked agents of profiles that were recorded. Groups of few sizes are few programs."""
        schemes = schemes / schemes.sum(-1, keepdims=True)  # which play keeps in its own precision
        size = bucket(len(profiles))
        padded = (np.pad(x, [(0, size - len(x))] + [(0, 0)] * (x.ndim - 1), mode="edge") for x in (profiles, schemes))
        user, agents, picked = (x[: len(profiles)] for x in self._valued(*padded, "float64", True))
        return user, agents, np.where(np.isnan(picked).any(1), -1, picked.argmax(1))

    # the end

    def solution(self) -> Solution:
        """What was found, with its certificate."""
        if len(self._origin) > self.N:
            self._join()
        certificate = None
        if self.verify:
            left = np.isin(self.result, (Result.UNCHECKED, Result.FAILED)) & np.isfinite(self.schemes).all((1, 2, 3))
            self._certify(np.flatnonzero(left))
            self.certificate.result[:] = self.result
            self.stats["lp_fallbacks"] = int(self.checks.fallback.sum()) + self._add_guarantees()
            self.report("certify", self.N, self.N)
            certificate = self.certificate
        user, agents = self._payoffs() if certificate is None else (certificate.user, certificate.agents)
        codes = self.result.astype(int), self.found_by.astype(int)
        found = Solution(self.schemes, user, agents, *codes, None, self.stats, certificate)
        return found if self.recorder is None else found.replace(trajectory=self._trajectory(found, self.recorder))

    def _trajectory(self, found: Solution, recorder: Recorder) -> Trajectory:
        """The trajectories, to which the profiles that are returned are added."""
        there = np.flatnonzero(np.isfinite(self.schemes).all((1, 2, 3)))
        gains = np.full((self.N, self.K), np.nan) if found.certificate is None else found.certificate.relative_gain
        recorder.note(there, Move.RETURNED, self.schemes[there], gains[there])
        return recorder.trajectory(self.N)

    def _add_guarantees(self) -> int:
        if not self._terms:
            return 0
        some = np.concatenate([where for where, _ in self._terms])
        terms = jax.tree.map(lambda *parts: np.concatenate(parts), *(terms for _, terms in self._terms))
        rows = self.certificate[some]
        rows, failed = exact.add_guarantees(rows, terms, self.user, of_guarantees(self.lp, self.of))
        exact.put(self.certificate, some, rows)
        return int(failed.sum())

    def _payoffs(self):
        """Payoffs of profiles that are not checked."""
        return self._valued(np.arange(self.N), self.schemes, getattr(self.solver, "dtype", "float32"))[:2]

    def _valued(self, profiles, schemes, dtype: str, picks: bool = False):
        """The user's values, the agents' payoffs and (NaN without `picks`) the chances of agents to be picked, by the
        accelerated route; in standard units, for which float32 has room whatever the utilities are."""
        from emalign_jax.protocols.batched_payoffs import compiled

        at = self._at(profiles)
        with np.errstate(over="ignore"):  # What the dtype cannot hold becomes infinite, and costs its own game.
            game = ReducedGame(*(np.asarray(x[at], dtype) for x in self.form.game))
        modules = jax.tree.map(lambda x: x[at], (self.form.protocol, self.form.user))
        everything = game, schemes.astype(dtype), *modules
        together = max(1, VALUED_CELLS // self.cells)
        value, paid, chance = np.full(len(at), np.nan), *np.full((2, len(at), self.K), np.nan)
        x64 = jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()
        with x64, np.errstate(over="ignore"):
            for at_once in range(0, len(at), together):
                some = slice(at_once, at_once + together)
                part = jax.tree.map(lambda x, some=some: x[some], everything)
                found = compiled("payoffs", *part)
                value[some], paid[some] = found.user, found.agents
                if picks:
                    chance[some] = compiled("picked", *part)
        unit, zero, units, zeros = (x[at] for x in self.form[3:7])
        return unit * value + zero, units * paid + zeros, chance
