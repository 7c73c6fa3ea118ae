"""Equilibrium search: play in batches, check exactly, move what is stuck, play on; or best responses alone.

The only module that knows both the accelerated part (`play`) and the exact part (`exact`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np

from emalign_jax.equilibrium.best_response_dynamics import BestResponseDynamics, best_response_dynamics, fit, outbid
from emalign_jax.equilibrium.outbidding import outbid_from_monopolies
from emalign_jax.equilibrium.outbidding import schemes as schemes_of
from emalign_jax.equilibrium.solution import Solution
from emalign_jax.exact.certificates import certificate as exact
from emalign_jax.exact.checks.base import default_tolerance
from emalign_jax.exact.checks.examination import Examination, examine, without_impossible_messages
from emalign_jax.exact.checks.selection_rational import SelectionCheck, SelectionRational
from emalign_jax.exact.obedience import frontier
from emalign_jax.games.game import Game, ReducedGame, faults, reduce_game
from emalign_jax.internal import batching
from emalign_jax.internal.arguments import integer
from emalign_jax.internal.validation import checked, on_host
from emalign_jax.lp.choice import check_word, for_all
from emalign_jax.play import GradientPlay, Implicit, SmoothPlay, Unrolled, differentiable, play_games
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.protocols.schemes import check_schemes, check_shape, numbered_schemes
from emalign_jax.protocols.standard_units import standard_form
from emalign_jax.result import Derivative, FoundBy, Result
from emalign_jax.users.base import AbstractUser

STARTS = ("random", "monopolist")
Solver = GradientPlay | BestResponseDynamics | SmoothPlay
LPS_TOGETHER = 1024  # games whose LPs are solved at a time
SEARCHED = 6  # so much less often is a game moved by best responses that must be searched for
VALUED_CELLS = 2**24  # numbers in the largest tensor when payoffs are computed without checks
PLAYS_BEFORE_DYNAMICS = 1  # one best response and more play first, then best responses alone


def solve(
    games: Game,
    protocol: AbstractProtocol,
    user: AbstractUser,
    solver: Solver | None = None,
    *,
    key: jax.Array | SupportsIndex | None = None,
    starts: int = 1,
    start: Any = "random",
    messages: int | None = None,
    first: int = 0,
    of: int | None = None,
    verify: bool = True,
    lp: str = "auto",
    progress=None,
    differentiation: Implicit | Unrolled | None = None,
) -> Solution:
    """Search an equilibrium of each game (many exist as a rule; this finds one a start).

    solver:   `GradientPlay` (the default), whose results are checked and moved on by exact best responses, or
              `BestResponseDynamics`, exact from the first step.
    key:      a key or an integer seed, needed for random starts; game i's start depends on (key, start, i) alone.
    start:    "random", "monopolist" (each agent's best response with no rival; key not needed for it), or
              schemes [..., K, XB, M] to go on from (with a leading axis of starts if there are several).
    messages: M; by default enough for every scheme that an agent can want.
    first, of: number of the first game, and how many there are in all: a batch may be solved in blocks. The starts
              depend on first, and `lp` "auto" on of (None: on the games at hand), so that both make a game's result
              that of the whole batch.
    verify:   check exactly and move stuck games by best responses; False returns what play ended with.
    lp:       how best responses in Selection with a rational user, and guarantees, are found, see `certify`.
    progress: called as progress(name of the stage, games done in it, games in it).
    differentiation: `Implicit()` or `Unrolled()` finds smoothed equilibria with `SmoothPlay` instead: pure JAX, to be
              used under jit, vmap and grad, with derivatives by games, protocol, user and solver. Nothing is verified
              (`certify` the schemes afterwards); `derivative` says SMOOTH, or why it cannot be trusted.
    Raises `ValueError` for arguments that cannot be right; a bad game only gets a result code.
    """
    games, protocol, user, solver = checked(games=games, protocol=protocol, user=user, solver=solver)
    key, start, differentiation = checked(key=key, start=start, differentiation=differentiation)
    checked(verify=verify, progress=progress)
    check_word(lp)
    starts, first = integer("starts", starts, 1), integer("first", first, 0)
    of = None if of is None else integer("of", of, 0)
    messages = None if messages is None else integer("messages", messages, 1)
    if differentiation is not None or isinstance(solver, SmoothPlay):
        return _solve_smooth(games, protocol, user, solver, differentiation, key, starts, start, messages, first)
    on_host(games=games, protocol=protocol, user=user, key=key, start=start)
    solver = GradientPlay() if solver is None else solver
    if solver.tolerance is None:
        solver = dataclasses.replace(solver, tolerance=default_tolerance(protocol, user))
    given = None if isinstance(start, str) else check_schemes(games, start, protocol, "start")
    if given is None and start not in STARTS:
        raise ValueError(f"start: expected {' or '.join(STARTS)} or an array of schemes, got {start!r}")
    if key is None and given is None and (start == "random" or starts > 1):
        raise ValueError("key: random starts need one, such as jax.random.key(0)")
    if not verify and isinstance(solver, BestResponseDynamics):
        raise ValueError("verify: best-response dynamics consist of exact checks; leave it True with this solver")
    if key is None:
        key = jax.random.key(0)
    M = given.shape[-1] if given is not None else messages or protocol.messages(games)
    alone = given is None and start == "monopolist"
    check_sizes(games, protocol, user, M, alone=alone, exactly=verify or alone)
    if given is not None and starts > 1 and given.shape[:-3][:1] != (starts,):
        raise ValueError(
            f"start: with starts = {starts} given schemes need a leading axis of {starts}, got {list(given.shape)}"
        )
    search = _Search(games, protocol, user, solver, key, starts, M, first, of, lp, progress)
    search.begin(start if given is None else given)
    return search.run(verify)


def _solve_smooth(games, protocol, user, solver, differentiation, key, starts, start, messages, first) -> Solution:
    solver = SmoothPlay() if solver is None else solver
    differentiation = Implicit() if differentiation is None else differentiation
    differentiable.check(protocol, user, solver)
    if isinstance(start, str):
        if start != "random":
            raise ValueError(f'start: with differentiation expected "random" or an array of schemes, got {start!r}')
        if key is None:
            raise ValueError("key: random starts need one, such as jax.random.key(0)")
        M = messages or protocol.messages(games)
        check_sizes(games, protocol, user, M, alone=False, exactly=False)
        start = differentiable.starts_of(games, protocol, key, starts, M, first)
    else:
        check_shape(games, np.shape(start), protocol, "start")
        check_sizes(games, protocol, user, np.shape(start)[-1], alone=False, exactly=False)
        if starts > 1 and np.shape(start)[:-3][:1] != (starts,):
            raise ValueError(f"start: with starts = {starts} given schemes need a leading axis of {starts}")
    schemes, value, paid, derivative = differentiable.solve_smooth(
        games, protocol, user, solver, differentiation, start
    )
    finite = derivative != int(Derivative.NOT_FINITE)
    result = jnp.where(finite, int(Result.UNCHECKED), int(Result.FAILED))
    found_by = jnp.where(finite, int(FoundBy.PLAY), int(FoundBy.NOTHING))
    return Solution(schemes, value, paid, result, found_by, derivative, {"starts": starts}, None)


def check_sizes(
    games: Game, protocol: AbstractProtocol, user: AbstractUser, messages: int, *, alone: bool, exactly: bool
) -> None:
    """Raise the `ValueError` of whatever cannot be done with games of this size, before any work; values are not read.

    alone: whether monopolists' schemes are needed; exactly: whether exact checks are needed.
    """
    protocol.check(games, messages)
    user.check(games, protocol, messages)
    protocol.check_user(games, user, messages)
    if alone:  # a reply rule that fits all agents may not fit one
        user.check(games.of_one_agent, protocol, messages)
    if exactly:
        exact.check_for(protocol, user).check_size(games, protocol, user, messages)


class _Search:
    """The flat list of (start, game) pairs and what is known of each."""

    def __init__(self, games, protocol, user, solver: Any, key, starts, messages, first, of, lp, progress):
        self.games, self.solver, self.key, self.M, self.lp = games, solver, key, messages, lp
        self.tolerance = solver.tolerance
        self.batch = (starts, *games.batch_shape) if starts > 1 else games.batch_shape
        self.flat = exact.flatten_games(games, self.batch)
        self.N, self.K, self.rows = len(self.flat.prior), games.agents, protocol.rows(games, messages)
        self.per_start, self.first = self.N // starts, first
        self.of = max(of or 0, self.per_start)  # games by which `lp` chooses, whatever else is in their block
        self.protocol, self.user = (batching.flatten(module, self.batch) for module in (protocol, user))
        self.reduced = reduce_game(self.flat, np)
        form = standard_form(self.reduced, self.protocol, self.user)  # play is in standard units, like the checks
        self.form, self.standard = form, (form.game, form.protocol, form.user)
        self.cells = protocol.cells(games, messages)
        self.certificates: list[exact.Certificate | None] = [None] * self.N
        self.terms: list[exact.Terms | None] = [None] * self.N  # of the certificates' guarantees
        self.result = np.full(self.N, Result.UNCHECKED)
        self.result[np.broadcast_to(faults(games), self.batch).ravel() != ""] = Result.MALFORMED
        self.found_by = np.full(self.N, FoundBy.NOTHING)
        self.sound = np.flatnonzero(self.result != Result.MALFORMED)
        self.schemes = np.full((self.N, self.K, self.rows, self.M), np.nan)
        self.best: list[Examination | None] = [None] * self.N  # of self.schemes
        self.stats = {"games": self.N, "steps": 0, "best_responses": 0, "fresh_starts": 0, "lp_fallbacks": 0}
        self._checks: dict[int, exact.AbstractCheck] = {}
        self.first_found_by = FoundBy.START
        self._progress = progress

    def certify(self, k) -> None:
        """Write the certificate of game k, but for its guarantees, and let go of its LPs."""
        check = None if self.result[k] == Result.MALFORMED else self.check(k)
        row, terms = exact.certify_game(self.flat[k], check, self.schemes[k], self.tolerance, self.best[k])
        if self.result[k] == Result.FAILED and row.result == Result.MALFORMED:  # play left no schemes to check
            row = row._replace(result=np.asarray(int(Result.FAILED)))
        self.certificates[k], self.terms[k] = row, terms
        self.result[k] = row.result
        self._checks.pop(k % self.per_start, None)
        self.best[k] = None

    def check(self, k: Any) -> exact.AbstractCheck:
        """The exact check of game k, shared by its starts."""
        k %= self.per_start
        if k not in self._checks:
            self._checks[k] = exact.make_check(self.reduced, k, self.protocol, self.user, self.M)
        return self._checks[k]

    def report(self, stage: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(stage, done, total)

    def _report_of(self, stage: str, first: int, total: int, done: int) -> None:
        self.report(stage, first + done, total)

    # starting points

    def begin(self, start) -> None:
        self.started_on_purpose = not isinstance(start, str) or start == "monopolist"
        if not isinstance(start, str):
            shape = (*self.batch, *start.shape[-3:])
            self.schemes[self.sound] = np.broadcast_to(start, shape).reshape(-1, *shape[-3:])[self.sound]
            broken = ~np.isfinite(self.schemes[self.sound]).all((1, 2, 3))
            self.result[self.sound[broken]] = Result.MALFORMED
            self.sound = self.sound[~broken]
            return
        first = self.sound[self.sound < self.per_start]
        random = self.sound  # games that need a random start: all of them, or those of further starts
        if start == "monopolist":
            random = list(self.sound[self.sound >= self.per_start])
            first = self.outbid_together(first)
            self.prepare_lps(first)
            for done, k in enumerate(first):
                own = [fit(self.check(k).monopolist(i).scheme, self.M) for i in range(self.K)]
                if all(scheme is not None and np.isfinite(scheme).all() for scheme in own):
                    self.schemes[k] = own
                else:
                    random.append(k)
                self.report("monopolists", done + 1, len(first))
        if len(random):
            self.schemes[random] = self.random(0)[random]

    def outbid_together(self, first) -> np.ndarray:
        """Best-response dynamics of these games together from the monopoly start, where all frontiers are proved;
        returns the other games."""
        check = exact.check_for(self.protocol, self.user)
        together = isinstance(self.solver, BestResponseDynamics) and check is SelectionRational and len(first)
        if not together or not frontier.choose(self.lp, self.of, self.standard[0]):
            return first
        game = ReducedGame(*(x[first] for x in self.standard[0]))
        ended = outbid_from_monopolies(game, self.tolerance, max_steps=self.solver.steps)
        found = schemes_of(ended.distributions, game, self.M)
        done = ended.proved & np.isfinite(found).all((1, 2, 3))
        self.schemes[first[done]] = found[done]
        self.stats["best_responses"] += int(ended.steps[done].sum())
        self.first_found_by = FoundBy.BEST_RESPONSE_DYNAMICS
        self.report("monopolists", len(first), len(first))
        return first[~done]

    def random(self, attempt: int) -> np.ndarray:
        starts = range(self.N // self.per_start)
        keys = [jax.random.fold_in(jax.random.fold_in(self.key, s), attempt) for s in starts]
        sizes = self.per_start, self.K, self.rows, self.M
        return np.concatenate([numbered_schemes(k, self.first, *sizes) for k in keys])

    # the search

    def run(self, verify: bool) -> Solution:
        pending, current = self.sound, self.schemes.copy()
        if verify and self.started_on_purpose:
            pending = self.examine(pending, current, self.first_found_by)
        if isinstance(self.solver, BestResponseDynamics):
            self.respond(pending, current)
        else:
            self.play_and_check(pending, current, verify)
        return self.solution(verify)

    def respond(self, pending, current) -> None:
        """Best-response dynamics, and again from random starts where they do not settle."""
        for attempt in range(self.solver.fresh_starts + 1):
            if not len(pending):
                break
            if attempt:
                current[pending] = self.random(attempt)[pending]
                self.stats["fresh_starts"] += len(pending)
            pending = self.finish(pending, current, self.solver.steps)

    def play_and_check(self, pending, current, verify: bool) -> None:
        """Gradient play, with best responses and fresh starts for what the exact check does not pass."""
        searched = not exact.check_for(self.protocol, self.user).exact_responses if verify else False
        for attempt in range(self.solver.best_responses // (SEARCHED if searched else 1) + 1):
            if not len(pending):
                break
            fresh = attempt % self.solver.fresh_starts == 0
            if attempt:
                self.move(pending, current, fresh, attempt)
                if searched and not fresh:  # play may leave what a best response has brought about, such as ties
                    pending = self.examine(pending, current, FoundBy.PLAY_AND_BEST_RESPONSES)
                    if not len(pending):
                        break
            played = self.play(pending, current, late=not fresh)
            self.result[pending[~played.finite]] = Result.FAILED
            current[pending] = played.schemes
            pending = pending[played.finite]
            if not verify:
                self.schemes[pending], self.found_by[pending] = current[pending], FoundBy.PLAY
                break
            pending = self.examine(pending, current, FoundBy.PLAY_AND_BEST_RESPONSES if attempt else FoundBy.PLAY)
            if attempt >= PLAYS_BEFORE_DYNAMICS and not searched:
                pending = self.finish(pending, current)

    def play(self, pending, current, late: bool):
        stage = "play on" if late else "play"
        total = len(self.solver.schedule(late).learning_rate) * len(pending)
        done = 0

        def count(steps):
            nonlocal done
            done = min(done + steps, total)
            self.report(stage, done * len(pending) // total, len(pending))

        game, protocol, user = jax.tree.map(lambda x: x[pending], self.standard)
        played = play_games(
            game, current[pending], protocol, user, self.solver, cells=self.cells, late=late, progress=count
        )
        self.stats["steps"] += played.steps
        self.report(stage, len(pending), len(pending))
        return played

    def prepare_lps(self, games) -> None:
        """Solve together what the checks of these games will ask for; only checks that are not yet known."""
        for at in range(0, len(games), LPS_TOGETHER):
            checks = [self.check(k) for k in games[at : at + LPS_TOGETHER]]
            failed = exact.check_for(self.protocol, self.user).prepare_lps(checks, self.lp, self.of)
            self.stats["lp_fallbacks"] += failed

    def examine(self, pending, current, found_by: FoundBy) -> np.ndarray:
        """Record what is within the tolerance, and the best of the rest. Returns the games left."""
        self.now = {}
        self.prepare_lps(pending)
        kind, bracket = exact.check_for(self.protocol, self.user), exact.BRACKET * self.tolerance
        for at in range(0, len(pending), kind.games_at_once):
            some = pending[at : at + kind.games_at_once]
            profiles = [without_impossible_messages(current[k]) for k in some]
            tell = functools.partial(self._report_of, "look for deviations", at, len(pending))
            kind.prepare([self.check(k) for k in some], profiles, bracket, self.tolerance, tell)
            self.report("look for deviations", at + len(some), len(pending))
            for done, k in enumerate(some):
                check = self.check(k)
                self.now[k] = self.record(k, current[k], examine(check, current[k]), found_by)
                check.release_caches()
                self.report("check", at + done + 1, len(pending))
        return pending[[self.certificates[k] is None for k in pending]]

    def record(self, k, schemes, examined, found_by: FoundBy) -> Examination:
        """Keep the profile if it is the best yet, certify it if it is good; returns what is known of it in the end."""
        if examined.worst <= self.tolerance and not examined.bracketed:
            # the work for upper bounds may yet find a better deviation
            examined = examine(self.check(k), schemes, exact.BRACKET * self.tolerance)
        if self.best[k] is None or examined.worst < self.best[k].worst:
            self.best[k], self.schemes[k], self.found_by[k] = examined, schemes, found_by
        if self.best[k].worst <= self.tolerance:
            self.certify(k)
        return examined

    def finish(self, pending, current, max_steps: int | None = None) -> np.ndarray:
        """Exact best-response dynamics from `current`; returns the games still left."""
        limit = {} if max_steps is None else {"max_steps": max_steps}
        for done, k in enumerate(pending):
            check = self.check(k)
            if isinstance(check, SelectionCheck) and check.can_outbid:
                ended = outbid(check, current[k], self.tolerance, **limit)
            else:
                ended = best_response_dynamics(check, current[k], self.tolerance, **limit)
            self.stats["best_responses"] += ended.steps
            self.record(k, ended.schemes, ended.examined, FoundBy.BEST_RESPONSE_DYNAMICS)
            check.release_caches()
            self.report("best responses", done + 1, len(pending))
        return pending[[self.certificates[k] is None for k in pending]]

    def move(self, pending, current, fresh: bool, attempt: int) -> None:
        """Play the best response of the agent that gains most, or give the game a fresh random start."""
        random = self.random(attempt) if fresh else None
        for k in pending:
            examined = self.now[k]
            best = None
            if not fresh and examined.worst < np.inf:
                mover = int(examined.relative.argmax())
                best = fit(examined.deviations[mover].scheme, self.M)
            if best is not None:
                current[k, mover] = best
                self.stats["best_responses"] += 1
            else:
                random = self.random(attempt) if random is None else random
                current[k] = random[k]
                self.stats["fresh_starts"] += 1

    def solution(self, verify: bool) -> Solution:
        shape = lambda x: x.reshape((*self.batch, *x.shape[1:]))  # noqa: E731
        for k in range(self.N if verify else 0):
            if self.certificates[k] is None:
                self.certify(k)
            self.report("certify", k + 1, self.N)
        certificate = self.stacked() if verify else None
        user, agents = (certificate.user, certificate.agents) if certificate else self.values()
        for kind, found in ((Result, self.result), (FoundBy, self.found_by)):
            counts = {code.name.lower(): int((found == code).sum()) for code in kind}
            self.stats |= {name: count for name, count in counts.items() if count}
        result, found_by = (shape(codes.astype(int)) for codes in (self.result, self.found_by))
        return Solution(shape(self.schemes), user, agents, result, found_by, None, self.stats, certificate)

    def stacked(self) -> exact.Certificate:
        known = [row for row in self.certificates if row is not None]
        rows, failed = exact.add_guarantees(known, self.terms, for_all(self.lp, self.of))
        self.stats["lp_fallbacks"] += int(failed.sum())
        return exact.stack_certificates(rows, self.batch, self.K)

    def values(self):
        """Payoffs by the accelerated route, for schemes that are not checked; in standard units, for which float32 has
        room whatever the utilities are."""
        from emalign_jax.protocols.batched_payoffs import compiled

        game, protocol, user = self.standard
        with np.errstate(over="ignore"):  # what the solver's dtype cannot hold becomes infinite, and costs its own game
            game = ReducedGame(*(np.asarray(x, self.solver.dtype) for x in game))
        everything = game, self.schemes.astype(self.solver.dtype), protocol, user
        together = max(1, VALUED_CELLS // self.cells)
        value, paid = np.full(self.N, np.nan), np.full((self.N, self.K), np.nan)
        x64 = jax.enable_x64(True) if self.solver.dtype == "float64" else contextlib.nullcontext()
        with x64, np.errstate(over="ignore"):
            for at in range(0, self.N, together):
                some = slice(at, at + together)
                value[some], paid[some] = compiled("payoffs", *jax.tree.map(lambda x, some=some: x[some], everything))
        unit, zero, units, zeros = self.form[3:]
        return (unit * value + zero).reshape(self.batch), (units * paid + zeros).reshape((*self.batch, self.K))
