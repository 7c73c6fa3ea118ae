"""Certificates: what a profile of schemes is worth and how far it is from an equilibrium."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from emalign_jax.exact.checks.base import AbstractCheck, check_for, default_tolerance
from emalign_jax.exact.checks.examination import Examination, examine, relative, without_impossible_messages
from emalign_jax.exact.guarantees.bounds import theorem_bounds, worst_distributions
from emalign_jax.games.game import Game, ReducedGame, faults, possible_utilities, reduce_game
from emalign_jax.games.units import LP_ERROR, NEGLIGIBLE_INFORMATION_VALUE
from emalign_jax.internal import batching
from emalign_jax.internal.arguments import POSITIVE, number
from emalign_jax.internal.validation import on_host
from emalign_jax.lp.choice import check_word, for_all
from emalign_jax.lp.highs import LPFailed
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.protocols.schemes import check_schemes
from emalign_jax.result import Result
from emalign_jax.users.base import AbstractUser
from emalign_jax.users.rational import RationalUser

# Relative to the tolerance: the bracket of best responses, and the narrowest one, if a gain is close to the tolerance.
BRACKET = 0.1
NARROWEST = 1e-3


class Certificate(NamedTuple):
    """What a profile is worth and how far it is from an equilibrium; float64, on the host, NaN where `result` is bad.

    user, agents:     [...], [..., K]  the user's value and the agents' payoffs, in units of their utilities
    gain_lower:       [..., K]  a lower bound of the deviation gain, attained or approached by a scheme
    gain_upper:       [..., K]  an upper bound of the deviation gain
    closed:           [...]     whether gain_upper - gain_lower <= tolerance * payoff_range for every agent
    payoff_range:     [..., K]  best minus worst attainable payoff: the unit of `relative_gain`
    full_information: [...]     V_full, the value if x_B is revealed, under the user's own response rule
    no_information:   [...]     V_none, the value without messages
    guarantee:        [...]     the sharp form: the least user value of any distribution over actions that pays every
                                agent at least the smaller of its payoff here and under full revelation. `user` may be
                                below it by the effect of a rational user's tie tolerance
    theorem:          [...]     the 2 eps form: V_full - 2 eps - sum_i w_i e_i with the best weights w. Like the
                                guarantee, NaN if its LP was not solved, and where an agent that reveals x_B need not be
                                picked (Comparison of fewer than all agents)
    result:           [...]     a `Result`
    fallback:         [...]     whether HiGHS solved an LP (of best responses or guarantees) because the batched
                                solver's answer was not proved
    """

    user: Float[np.ndarray, "*batch"]
    agents: Float[np.ndarray, "*batch K"]
    gain_lower: Float[np.ndarray, "*batch K"]
    gain_upper: Float[np.ndarray, "*batch K"]
    closed: Bool[np.ndarray, "*batch"]
    payoff_range: Float[np.ndarray, "*batch K"]
    full_information: Float[np.ndarray, "*batch"]
    no_information: Float[np.ndarray, "*batch"]
    guarantee: Float[np.ndarray, "*batch"]
    theorem: Float[np.ndarray, "*batch"]
    result: Int[np.ndarray, "*batch"]
    fallback: Bool[np.ndarray, "*batch"]

    @property
    def relative_gain(self) -> Float[np.ndarray, "*batch K"]:
        """gain_lower as a share of the payoff range; 0 where the payoff range is 0."""
        return relative(self.gain_lower, self.payoff_range)

    @property
    def normalised_value(self) -> Float[np.ndarray, "*batch"]:
        """(V - V_none) / (V_full - V_none); NaN where information is worth nothing (or harms a quantal user)."""
        return normalise(self.user, self.no_information, self.full_information)


def normalise(value, no_information, full_information) -> np.ndarray:
    """(V - V_none) / (V_full - V_none); NaN where information is worth nothing (or harms a quantal user)."""
    return np.asarray((value - no_information) / value_of_information(no_information, full_information))


def value_of_information(no_information, full_information) -> np.ndarray:
    """V_full - V_none; NaN where it is not positive."""
    difference = np.asarray(full_information - no_information)
    return np.where(difference > 0, difference, np.nan)


def certify(
    games: Game,
    schemes,
    protocol: AbstractProtocol,
    user: AbstractUser,
    *,
    tolerance: float | None = None,
    lp: str = "auto",
    progress=None,
) -> Certificate:
    """Certify the profiles `schemes` [..., K, XB, M] of `games` in float64 (batch axes are broadcast).

    tolerance: as a share of the payoff range. A profile is CERTIFIED if every gain_upper is within it, UNREFUTED if
               only every gain_lower is. None: 1e-5 in Selection with a rational user, otherwise 1e-3.
    lp:        how the LPs of best responses (Selection with a rational user) and guarantees are solved: "batched" (all
               games together; HiGHS solves LPs that are too large or whose answers are not proved by their
               multipliers), "highs" (one by one) or "auto" (batched for many small games).
    progress:  called with the number of games done since the last call.
    In Pooled, long computations are distributed over processes, one per available core, with the same results. The
    processes are spawned, not forked, because a fork may hang after JAX was used; start your own processes with
    multiprocessing's "spawn" too.
    Raises `ValueError` for wrong shapes, rows that are no probabilities, and games too large for the exact methods.
    A bad game, or an LP that HiGHS does not solve, makes only its own row NaN.
    """
    games, schemes, protocol, user, progress = on_host(
        games=games, schemes=schemes, protocol=protocol, user=user, progress=progress
    )
    tolerance = number("tolerance", default_tolerance(protocol, user) if tolerance is None else tolerance, *POSITIVE)
    check_word(lp)
    schemes = check_schemes(games, schemes, protocol)
    user.check(games, protocol, schemes.shape[-1])
    kind = check_for(protocol, user)
    kind.check_size(games, protocol, user, schemes.shape[-1])
    batch = np.broadcast_shapes(games.batch_shape, schemes.shape[:-3])
    flat = flatten_games(games, batch)
    profiles = np.broadcast_to(schemes, (*batch, *schemes.shape[-3:])).reshape(-1, *schemes.shape[-3:])
    bad = np.broadcast_to(faults(games), batch).reshape(-1)
    protocol, user = batching.flatten(protocol, batch), batching.flatten(user, batch)
    reduced = reduce_game(flat, np)
    rows, word = [], for_all(lp, len(profiles))
    for at in range(0, len(profiles), kind.games_at_once):
        some = range(at, min(at + kind.games_at_once, len(profiles)))
        checks = {k: make_check(reduced, k, protocol, user, schemes.shape[-1]) for k in some if not bad[k]}
        sound = [k for k in checks if np.isfinite(profiles[k]).all()]
        kind.prepare_lps([checks[k] for k in sound], lp, len(profiles))
        progress_so_far = _Progress(progress)
        kind.prepare(
            [checks[k] for k in sound],
            [without_impossible_messages(profiles[k]) for k in sound],
            BRACKET * tolerance,
            progress=progress_so_far,
        )
        found, terms = [], []
        for k in some:
            row, of_guarantees = certify_game(flat[k], checks.pop(k, None), profiles[k], tolerance)
            found.append(row)
            terms.append(of_guarantees)
            progress_so_far(len(found))
        rows += add_guarantees(found, terms, word)[0]
    return stack_certificates(rows, batch, games.agents)


class _Progress:
    """Reports the number of games done to `progress`, each game once, although games are counted when they are
    prepared and again when they are certified."""

    def __init__(self, progress):
        self.progress, self.done = progress, 0

    def __call__(self, done: int) -> None:
        if self.progress is not None and done > self.done:
            self.progress(done - self.done)
            self.done = done


def make_check(
    reduced: ReducedGame,
    k: int | np.integer,
    protocol: AbstractProtocol,
    user: AbstractUser,
    messages: int | None = None,
    lossless: bool = False,
) -> AbstractCheck:
    """The exact check of game k of a flat batch, in standard units; `form` of the check converts its numbers.

    messages: M, which limits the deviations in conversations (None: as many as x_B).
    lossless: use units that do not round (`AbstractCheck.form_of`).
    """
    one = batching.item(protocol, k), batching.item(user, k)
    kind = check_for(protocol, user)
    form = kind.form_of(ReducedGame(*(np.asarray(x[k]) for x in reduced)), *one, lossless)
    check = kind(form.game, form.protocol, form.user)
    check.form = form
    check.messages = check.messages if messages is None else messages
    return check


class Terms(NamedTuple):
    """The data from which the guarantees of one profile are computed, in standard units (value = unit * standard +
    zero)."""

    game: ReducedGame
    floors: Float[np.ndarray, "K"]  # The smaller of each agent's payoff here and under full revelation.
    informed: Float[np.ndarray, "K"]
    full: float
    tie_tolerance: float | None  # None for a user that is not rational.
    user_utility: Float[np.ndarray, "A Y"]
    agent_utilities: Float[np.ndarray, "K A Y"]
    unit: float
    zero: float


def certify_game(
    game: Game, check: AbstractCheck | None, schemes, tolerance: float, examined: Examination | None = None
) -> tuple[Certificate, Terms | None]:
    """The certificate of one game without guarantees, and the terms from which `add_guarantees` computes them (None:
    they stay NaN). check: None for a malformed game; examined: the profile's examination, if known."""
    K = len(schemes)
    if check is None:
        return _failed(K, Result.MALFORMED), None
    if not np.isfinite(schemes).all():
        return _failed(K, Result.MALFORMED), None
    try:
        return _certified(game, check, schemes, tolerance, examined)
    except LPFailed:
        return _failed(K, Result.FAILED), None


def _certified(
    game: Game, check: AbstractCheck, schemes, tolerance: float, examined: Examination | None
) -> tuple[Certificate, Terms | None]:
    K = len(schemes)
    if examined is None or not examined.bracketed:
        examined = examine(check, schemes, BRACKET * tolerance)
    allowed = tolerance * check.payoff_range + check.negligible + LP_ERROR * check.stakes
    room = tolerance - examined.worst
    if 0 < room < BRACKET * tolerance and not (examined.upper <= allowed).all():  # A narrower bracket may decide.
        examined = examine(check, schemes, max(room / 2, NARROWEST * tolerance))
    if not np.isfinite(examined.worst):
        return _failed(K, Result.FAILED), None
    upper = examined.upper
    closed = bool((upper - examined.gains <= allowed).all())
    verdict = Result.ABOVE_TOLERANCE
    if examined.worst <= tolerance:
        proved = (upper <= allowed).all()
        verdict = Result.CERTIFIED if proved else Result.UNREFUTED
    (full, informed), none = check.informed(True), check.informed(False)[0]
    none = full if abs(full - none) <= NEGLIGIBLE_INFORMATION_VALUE * max(check.scale, 1.0) else none
    unit, zero, units, zeros = check.form[3:]
    terms = None
    if check.revealing_is_picked:
        rational = isinstance(check.user.acting, RationalUser)
        user_utility, agent_utilities = possible_utilities(game)
        terms = Terms(
            check.game, np.minimum(check.common_response_payoffs(schemes), informed), informed, full,
            check.user.tie_tolerance if rational else None,
            user_utility / unit, agent_utilities / np.reshape(units, (-1, 1, 1)), float(unit), float(zero),
        )  # fmt: skip
    row = _row(
        unit * examined.user + zero, units * examined.agents + zeros, units * examined.gains, units * upper, closed,
        units * check.known_range(examined.gains), unit * full + zero, unit * none + zero,
        np.nan, np.nan, int(verdict), check.fallback,
    )  # fmt: skip
    return row, terms


def add_guarantees(
    rows: Sequence[Certificate], terms: Sequence[Terms | None], lp: str
) -> tuple[list[Certificate], Bool[np.ndarray, "N"]]:
    """The certificates with both guarantees, their LPs solved as `lp` says, and which games fell back to HiGHS."""
    rows, failed = list(rows), np.zeros(len(rows), bool)
    known = [(n, of) for n, of in enumerate(terms) if of is not None]
    if not known:
        return rows, failed
    games, *numbers, _, _ = zip(*(of for _, of in known), strict=True)
    game = ReducedGame(*(np.stack(x) for x in zip(*games, strict=True)))
    floors, informed, full, user, agents = (np.stack(numbers[i]) for i in (0, 1, 2, 4, 5))
    answers = worst_distributions(game, floors, tie_tolerance=numbers[3][0], lp=lp)
    bounds = theorem_bounds(user, agents, full, informed - floors, lp=lp)
    for (n, of), worst, bound in zip(known, answers, bounds, strict=True):
        failed[n] = worst.fallback or bound.fallback
        rows[n] = rows[n]._replace(
            guarantee=np.asarray(of.unit * worst.value + of.zero),
            theorem=np.asarray(of.unit * bound.value + of.zero),
            fallback=rows[n].fallback | failed[n],
        )
    return rows, failed


def _row(*values) -> Certificate:
    return Certificate(*(np.asarray(value) for value in values))


def _failed(K: int, result: Result) -> Certificate:
    nan, many = np.nan, np.full(K, np.nan)
    return _row(nan, many, many, many, False, many, nan, nan, nan, nan, int(result), False)


def stack_certificates(rows: list[Certificate], batch: tuple[int, ...], agents: int) -> Certificate:
    """One batched certificate from the certificates of the games."""
    per_agent = ("agents", "gain_lower", "gain_upper", "payoff_range")
    fields = []
    for name in Certificate._fields:
        column = np.array([getattr(row, name) for row in rows])
        fields.append(column.reshape((*batch, agents) if name in per_agent else batch))
    return Certificate(*fields)


def flatten_games(games: Game, batch: tuple[int, ...]) -> Game:
    """`games` broadcast to `batch` and flattened to one batch axis, as NumPy arrays."""

    def flatten(x, core):
        x = np.asarray(x)
        return np.broadcast_to(x, (*batch, *x.shape[-core:])).reshape(-1, *x.shape[-core:])

    return Game(
        flatten(games.prior, 3), flatten(games.user_utility, 2), flatten(games.agent_utilities, 3), check="shapes"
    )
