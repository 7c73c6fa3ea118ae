"""Certificates: what a profile of schemes is worth and how far it is from an equilibrium."""

from __future__ import annotations

import functools
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from emalign_jax.exact.checks.base import check_for, default_tolerance
from emalign_jax.exact.checks.batch import AbstractChecks, Examinations
from emalign_jax.exact.checks.examination import known_range, relative
from emalign_jax.exact.checks.one_by_one import make_checks
from emalign_jax.exact.guarantees.bounds import common_size, theorem_bounds, worst_distributions
from emalign_jax.games.game import Game, ReducedGame, faults, possible_utilities
from emalign_jax.games.units import LP_ERROR, NEGLIGIBLE_INFORMATION_VALUE
from emalign_jax.internal import batching
from emalign_jax.internal.arguments import POSITIVE, number
from emalign_jax.internal.transfers import fetch
from emalign_jax.internal.validation import on_host
from emalign_jax.lp.choice import check_word, of_guarantees
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.protocols.base import reduce_for
from emalign_jax.protocols.schemes import check_schemes
from emalign_jax.result import BatchedStarts, Result
from emalign_jax.users.base import AbstractUser

# Relative to the tolerance: the bracket of best responses, and the narrowest one, if a gain is close to the tolerance.
BRACKET = 0.1
NARROWEST = 1e-3
# Games that are checked together.
GAMES_AT_ONCE = 1024
# Of so many games, the LPs of both guarantees are worth a program each; of fewer, one that has room for both.
FEWEST_OF_OWN_SIZE = 256


class Certificate(BatchedStarts):
    """What a profile is worth and how far it is from an equilibrium; float64, on the host.

    Numbers are NaN where `result` is MALFORMED or FAILED.

    Attributes:
        user: [...] the user's value, in units of its utility.
        agents: [..., K] the agents' payoffs, in units of their utilities.
        gain_lower: [..., K] a lower bound of the deviation gain, attained or approached by a scheme.
        gain_upper: [..., K] an upper bound of the deviation gain.
        closed: [...] whether gain_upper - gain_lower <= tolerance * payoff_range for every agent.
        payoff_range: [..., K] best minus worst attainable payoff: the unit of `relative_gain`.
        full_information: [...] V_full, the value if x_B is revealed, under the user's own response rule.
        no_information: [...] V_none, the value without messages.
        guarantee: [...] the sharp form: the least user value of any distribution over actions that pays every
            agent at least the smaller of its payoff here and under full revelation. `user` may be
            below it by the effect of a rational user's tie tolerance.
        theorem: [...] the 2 eps form: V_full - 2 eps - sum_i w_i e_i with the best weights w. Like the
            guarantee, NaN if its LP was not solved, and where an agent that reveals x_B need not be
            picked (Comparison of fewer than all agents).
        result: [...] a `Result`.
        fallback: [...] whether HiGHS solved an LP (of best responses or guarantees) because the batched
            solver's answer was not proved.

    Example:
        >>> game, honest = em.catalog.judge(), em.full_revelation(1, 2, 2)
        >>> found = em.certify(game, honest, em.Selection(), em.RationalUser())
        >>> round(float(found.gain_lower[0]), 3), round(float(found.relative_gain[0]), 3), float(found.normalised_value)
        (0.3, 0.5, 1.0)

    Source: sections 4.2 and 6 of docs/model.md.
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

    _names: ClassVar[dict[str, str]] = {"user": "user_value", "agents": "agent_payoffs"}

    def _headline(self) -> dict[str, Any]:
        own = {"value": self.normalised_value} if self.batch_shape else {"user": self.user, "agents": self.agents}
        return own | {"largest relative gain": np.nanmax(self.relative_gain, initial=0)}

    def _columns(self, long: bool) -> dict[str, np.ndarray]:
        own = super()._columns(long) | {"certified": self.result == Result.CERTIFIED}
        gain = self.relative_gain if long else self.relative_gain.max(-1)
        return own | {"normalised_value": self.normalised_value, "relative_gain": gain}

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
    """Certify profiles: what they are worth, and bounds of what agents gain by deviating, in float64.

    A malformed game, or an LP that HiGHS does not solve, makes only its own row NaN.

    Args:
        games: [...] games.
        schemes: [..., K, XB, M], in conversations [..., K, rows, M]; or a `Solution`. Batch axes are broadcast.
        protocol: how the user talks to the agents.
        user: how the user acts.
        tolerance: as a share of the payoff range. A profile is CERTIFIED if every gain_upper is within it, UNREFUTED if
            only every gain_lower is. None: 1e-5 in Selection with a rational user, otherwise 1e-3.
        lp: how the LPs of best responses (Selection with a rational user, Pooled) and guarantees
            are solved: "batched" (all games together, compiled; HiGHS solves LPs that are too large or whose
            answers are not proved by their multipliers), "highs" (one by one) or "auto" (batched for many small
            games).
        progress: called with the number of games done since the last call.

    Returns:
        A `Certificate`.

    Raises:
        ValueError: for wrong shapes, rows that are no probabilities, and games too large for the exact methods.

    Example:
        >>> game, honest = em.catalog.judge(), em.full_revelation(1, 2, 2)
        >>> found = em.certify(game, honest, em.Selection(), em.RationalUser())
        >>> em.Result(int(found.result)).name, round(float(found.gain_lower[0]), 3)
        ('ABOVE_TOLERANCE', 0.3)

    Source: section 4.2 of docs/model.md.
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
    sound = np.broadcast_to(faults(games) == "", batch).reshape(-1) & np.isfinite(profiles).all((1, 2, 3))
    protocol, user = batching.flatten(protocol, batch), batching.flatten(user, batch)
    sizes = {"messages": profiles.shape[-1], "rows": profiles.shape[-2], "lp": lp, "count": len(profiles)}
    found = no_certificates(len(profiles), games.agents)
    for at in range(0, len(profiles), GAMES_AT_ONCE):
        some = slice(at, at + GAMES_AT_ONCE)
        here, who = (jax.tree.map(lambda x, some=some: x[some], module) for module in (protocol, user))
        checks = make_checks(reduce_for(flat[some], here, who, np), sound[some], here, who, **sizes)
        tell = _Progress(progress)
        asked = np.flatnonzero(sound[some])
        for first in range(0, len(asked), checks.at_once):
            part = asked[first : first + checks.at_once]
            own = profiles[at + part]
            told = functools.partial(tell.after, first)
            examined = checks.examine(part, own, BRACKET * tolerance, tell=told)
            rows, terms = certificates(checks, part, flat[some], own, tolerance, examined)
            put(found, at + part, add_guarantees(rows, terms, user, of_guarantees(lp, len(profiles)))[0])
            checks.release(part)
        tell(len(profiles[some]))
    return jax.tree.map(lambda x: x.reshape((*batch, *x.shape[1:])), found).replace(labels=games.labels)


class _Progress:
    """Reports the number of games done to `progress`, each game once, although games are counted when they are
    prepared and again when they are certified."""

    def __init__(self, progress):
        self.progress, self.done = progress, 0

    def after(self, before: int, done: int) -> None:
        self(before + done)

    def __call__(self, done: int) -> None:
        if self.progress is not None and done > self.done:
            self.progress(done - self.done)
            self.done = done


class Terms(NamedTuple):
    """The data from which the guarantees of n profiles are computed, in standard units (value = unit * standard +
    zero)."""

    game: ReducedGame
    floors: Float[np.ndarray, "n K"]  # The smaller of each agent's payoff here and under full revelation; NaN: none.
    informed: Float[np.ndarray, "n K"]
    full: Float[np.ndarray, "n"]
    user_utility: Float[np.ndarray, "n A Y"]
    agent_utilities: Float[np.ndarray, "n K A Y"]
    unit: Float[np.ndarray, "n"]
    zero: Float[np.ndarray, "n"]


def certificates(
    checks: AbstractChecks, at: Int[np.ndarray, "n"], games: Game, schemes, tolerance: float, examined: Examinations
) -> tuple[Certificate, Terms]:
    """The certificates of n profiles without guarantees, and the terms from which `add_guarantees` computes them.

    at: numbers of the games of `checks`, sound ones, which are also those of `games`.
    """
    facts, form = checks.facts(at), checks.form_of(at)
    allowed = tolerance * facts.payoff_range + facts.negligible + LP_ERROR * facts.stakes
    with np.errstate(invalid="ignore"):
        undecided = (examined.worst < tolerance) & ~(examined.upper <= allowed).all(1)
        brackets = np.where(undecided, np.maximum((tolerance - examined.worst) / 2, NARROWEST * tolerance), np.inf)
    examined = checks.refine(at, schemes, examined, brackets, BRACKET * tolerance)
    proved = (examined.upper <= allowed).all(1)
    below = np.where(proved, Result.CERTIFIED, Result.UNREFUTED)
    verdict = np.where(examined.worst <= tolerance, below, Result.ABOVE_TOLERANCE)
    failed = ~np.isfinite(examined.worst) | ~np.isfinite(facts.payoff_range).all(1)
    with np.errstate(invalid="ignore"):
        closed = np.asarray((examined.upper - examined.gains <= allowed).all(1))
        matters = np.abs(facts.full - facts.none) > NEGLIGIBLE_INFORMATION_VALUE * np.maximum(facts.scale, 1.0)
        none = np.where(matters, facts.none, facts.full)
        known = known_range(facts.payoff_range, facts.negligible, examined.gains)
        unit, zero = form.user_unit, form.user_zero
        units, zeros = form.agent_unit, form.agent_zero
        open_ended = np.full(len(at), np.nan)
        row = Certificate(
            unit * examined.user + zero, units * examined.agents + zeros, units * examined.gains,
            units * examined.upper, closed, units * known, unit * facts.full + zero, unit * none + zero,
            open_ended, open_ended.copy(), verdict, checks.fallback[at],
        )  # fmt: skip
    floors = np.minimum(checks.floors(at, schemes, examined), facts.informed)
    floors[failed] = np.nan
    nothing = no_certificates(int(failed.sum()), schemes.shape[1])
    nothing.result[:] = Result.FAILED
    put(row, failed, nothing)
    user_utility, agent_utilities = (x[at] for x in possible_utilities(games))
    terms = Terms(
        form.game, floors, facts.informed, facts.full, user_utility / unit[:, None, None],
        agent_utilities / units[..., None, None], unit, zero,
    )  # fmt: skip
    return row, terms


def add_guarantees(
    rows: Certificate, terms: Terms, user: AbstractUser, lp: str
) -> tuple[Certificate, Bool[np.ndarray, "n"]]:
    """The certificates with both guarantees, their LPs solved as `lp` says, and which games fell back to HiGHS."""
    failed = np.zeros(len(rows.user), bool)
    known = np.isfinite(terms.floors).all(1)
    if not known.any():
        return rows, failed
    tie_tolerance = user.tie_tolerance if user.plain.acting.obeys else None
    terms = jax.tree.map(lambda x: x[known], terms)
    _, A, Y = terms.user_utility.shape
    size = common_size(terms.game, A, Y, tie_tolerance) if len(terms.floors) < FEWEST_OF_OWN_SIZE else (0, 0)
    worst = worst_distributions(terms.game, terms.floors, tie_tolerance=tie_tolerance, lp=lp, size=size)
    bounds = theorem_bounds(
        terms.user_utility, terms.agent_utilities, terms.full, terms.informed - terms.floors, lp=lp, size=size
    )
    failed[known] = [a.fallback or b.fallback for a, b in zip(worst, bounds, strict=True)]
    guarantee, theorem = rows.guarantee.copy(), rows.theorem.copy()
    guarantee[known] = terms.unit * np.array([one.value for one in worst]) + terms.zero
    theorem[known] = terms.unit * np.array([one.value for one in bounds]) + terms.zero
    return rows.replace(guarantee=guarantee, theorem=theorem, fallback=rows.fallback | failed), failed


def no_certificates(count: int, agents: int) -> Certificate:
    """The certificates of malformed games."""
    one, many, no = np.full(count, np.nan), np.full((count, agents), np.nan), np.zeros(count, bool)
    return Certificate(
        one, many, many.copy(), many.copy(), no, many.copy(), one.copy(), one.copy(), one.copy(), one.copy(),
        np.full(count, int(Result.MALFORMED)), no.copy(),
    )  # fmt: skip


def put(whole: Certificate, some, part: Certificate) -> None:
    """Write the certificates `part` at the places `some`."""
    for column, values in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
        column[some] = values


def flatten_games(games: Game, batch: tuple[int, ...]) -> Game:
    """`games` broadcast to `batch` and flattened to one batch axis, as NumPy arrays."""

    def flatten(x, core):
        return np.broadcast_to(x, (*batch, *x.shape[-core:])).reshape(-1, *x.shape[-core:])

    prior, user, agents = map(np.asarray, fetch((games.prior, games.user_utility, games.agent_utilities)))
    return Game(flatten(prior, 3), flatten(user, 2), flatten(agents, 3), check="shapes", labels=games.labels)
