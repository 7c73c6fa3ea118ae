"""The equilibrium set of Selection with a rational user, computed, not searched for (section 6.5 of docs/model.md).

f_i(v) is the largest payoff of agent i over obedient distributions worth at least v to the user, and M(v) the largest
sum of all agents' payoffs over obedient distributions worth exactly v. For K >= 2 and V_none <= v < V_full (theorem 3)

    gap(v) = sum_i f_i(v) - M(v) >= 0

is the least total deviation gain of a profile that leaves the user with value v. So the user's values in pure
equilibria are the zeros of gap, and V_full. Where gap does not tend to 0 at V_full, V_full is an isolated point. With
K = 1 there is no rival: gap(v) = max U_1 - M(v), and V_full need not be an equilibrium value.

Ties are decided as recommended. Under the tie rules of `certify` (ties of both the user and the holder, and ties
between offers, go to the lowest index) some of these values are approached and not attained.

f_i and M are concave and piecewise linear. Their breakpoints are found by following supporting lines, so that isolated
zeros are found too, which a grid of v would miss.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from emalign_jax.exact.certificates.certificate import flatten_games, normalise
from emalign_jax.exact.checks.base import make_check
from emalign_jax.exact.checks.selection_rational import SelectionRational
from emalign_jax.exact.obedience import frontier
from emalign_jax.exact.obedience.program import ObedienceLP, check_size
from emalign_jax.games import units
from emalign_jax.games.game import Game, ReducedGame, faults, reduce_game
from emalign_jax.games.units import NEGLIGIBLE_INFORMATION_VALUE, NEGLIGIBLE_RANGE, VALUE_TIE
from emalign_jax.internal.arguments import integer
from emalign_jax.internal.validation import on_host
from emalign_jax.lp.choice import check_word
from emalign_jax.lp.highs import LPFailed
from emalign_jax.protocols import Selection
from emalign_jax.protocols.selection import check_agents
from emalign_jax.protocols.standard_units import StandardForm, likely_actions, standard_form
from emalign_jax.result import Batched, Result
from emalign_jax.result.batched import stacked
from emalign_jax.users.rational import RationalUser

# In the agents' units. A curve this close to its chord counts as straight.
STRAIGHT = 1e-11
# In the agents' units, summed over agents. A gap this small counts as 0: LPs are solved to 1e-9, and in random games
# gaps are below 1e-11 or above 1e-6.
ZERO_GAP = 1e-8


class Stability(Batched):
    """The stability profile: how far from an equilibrium a profile of a given user value must be.

    Float64, on the host, in the units of the utilities; NaN where `result` is bad. Games of a batch that have fewer
    breakpoints repeat their last point. `zero` is decided within 1e-8, each agent's payoff in its own unit; `gap` is
    accurate to about 1e-9 of the largest unit, and 0 where `zero`.

    Attributes:
        worst: [...] least user value of a pure equilibrium.
        best: [...] largest user value of a pure equilibrium.
        value: [..., P] values from V_none to V_full, ascending, with all breakpoints of gap.
        gap: [..., P] least total deviation gain (sum over agents, each in its own units) of a profile worth
            `value` to the user; linear between these points, so that `np.interp(v, value, gap)`
            is exact. Where gap jumps to 0 at V_full, V_full is listed twice.
        zero: [..., P] whether `value` is an equilibrium value; if two neighbours are, so is all in between.
        no_information: [...] V_none.
        full_information: [...] V_full.
        payoff_range: [..., K] best minus worst attainable payoff of each agent, as in a Certificate.
        result: [...] CERTIFIED (there are equilibria at `worst` and `best`), MALFORMED or FAILED.
        fallback: [...] whether HiGHS solved the game because the batched solver's answer failed its check.

    Example:
        >>> found = em.stability(em.catalog.two_prosecutors())
        >>> [(round(low, 3), round(high, 3)) for low, high in found.intervals()]
        [(0.7, 1.0)]
        >>> float(found.normalise(found.worst))
        0.0

    Source: section 6.5 of docs/model.md.
    """

    worst: Float[np.ndarray, "*batch"]
    best: Float[np.ndarray, "*batch"]
    value: Float[np.ndarray, "*batch P"]
    gap: Float[np.ndarray, "*batch P"]
    zero: Bool[np.ndarray, "*batch P"]
    no_information: Float[np.ndarray, "*batch"]
    full_information: Float[np.ndarray, "*batch"]
    payoff_range: Float[np.ndarray, "*batch K"]
    result: Int[np.ndarray, "*batch"]
    fallback: Bool[np.ndarray, "*batch"]

    _along: ClassVar[str] = "P"
    _names: ClassVar[dict[str, str]] = {"worst": "worst_equilibrium", "best": "best_equilibrium"}

    def _headline(self) -> dict[str, Any]:
        ends = self.worst, self.best
        worst, best = map(self.normalise, ends) if self.batch_shape else ends
        return {"worst": worst, "best": best}

    def _columns(self, long: bool) -> dict[str, np.ndarray]:
        ends = {name: self.normalise(getattr(self, name)) for name in ("worst", "best")}
        return super()._columns(long) | {f"normalised_{name}_equilibrium": value for name, value in ends.items()}

    def normalise(self, value: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
        """(V - V_none) / (V_full - V_none), for V [...] or [..., P]; NaN where information is worth nothing."""
        none, full = self.no_information, self.full_information
        if np.ndim(value) > np.ndim(none):
            none, full = none[..., None], full[..., None]
        return normalise(value, none, full)

    @property
    def relative_gap(self) -> Float[np.ndarray, "*batch P"]:
        """`gap` as a share of the sum of the payoff ranges; 0 where all payoff ranges are 0."""
        total = self.payoff_range.sum(-1)[..., None]
        return np.where(total == 0, 0.0, self.gap / np.where(total == 0, np.nan, total))

    def profile(self, index: tuple[int, ...] = ()) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(value, gap, zero) [P] of the game at `index` of the batch, without padding."""
        value, gap, zero = self.value[index], self.gap[index], self.zero[index]
        padding = np.append(False, (value[1:] == value[:-1]) & (gap[1:] == gap[:-1]))
        return value[~padding], gap[~padding], zero[~padding]

    def intervals(self, index: tuple[int, ...] = ()) -> list[tuple[float, float]]:
        """The equilibrium values of the game at `index`, as closed intervals (low, high), ascending.

        low = high for an isolated value.
        """
        value, _, zero = self.profile(index)
        return intervals(value, zero)


def intervals(value: Float[np.ndarray, "P"], zero: Bool[np.ndarray, "P"]) -> list[tuple[float, float]]:
    """The first and last value of each run of zeros."""
    edges = np.diff(np.concatenate([[0], zero, [0]]).astype(int))
    first, after = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return [(float(value[a]), float(value[b - 1])) for a, b in zip(first, after, strict=True)]


def stability(games: Game, *, exact: bool = False, of: int | None = None, lp: str = "auto", progress=None) -> Stability:
    """The user's values in all pure equilibria of Selection with a rational user (ties for the selected agent).

    A malformed game, or an LP that HiGHS does not solve, makes only its own row NaN.

    Args:
        games: [...] games, of two agents or more.
        exact: derive every LP's answer again in rational arithmetic (small games).
        of: the total number of games, if these are one block of them; see `solve`.
        lp: "batched" (the LPs of all games together; HiGHS solves games whose curves their multipliers do not
            prove), "highs" (one by one) or "auto" (batched for many small games).
        progress: called with the number of games done since the last call.

    Returns:
        A `Stability`.

    Raises:
        ValueError: for games too large for the obedience LP or for `exact`.

    Example:
        >>> found = em.stability(em.catalog.two_prosecutors())
        >>> round(float(found.worst), 6), round(float(found.best), 6)
        (0.7, 1.0)

    Source: section 6.5 of docs/model.md.
    """
    games, exact, _ = on_host(games=games, exact=exact, progress=progress)
    of = None if of is None else integer("of", of, 0)
    check_word(lp)
    check_agents(games)
    check_size(games.user_features, games.agent_features, games.actions)
    batch = games.batch_shape
    flat = flatten_games(games, batch)
    bad = (faults(games) != "").reshape(-1)
    reduced = reduce_game(flat, np)
    if exact and lp == "batched":
        raise ValueError('lp: exact answers are derived from HiGHS\'s: take lp="highs" with exact=True')
    batched = frontier.choose(lp, 0 if exact else max(of or 0, len(bad)), reduced)
    traced = _traced(reduced, np.flatnonzero(~bad)) if batched and not bad.all() else {}
    rows = []
    for k in range(len(bad)):
        try:
            if bad[k]:
                rows.append(_failed(games.agents, Result.MALFORMED))
            elif k in traced:
                rows.append(_stability_of_one(traced.pop(k)))
            else:
                check: Any = make_check(reduced, k, Selection(), RationalUser(), lossless=exact)
                if exact:
                    check.confirm()
                rows.append(_stability_of_one(_by_highs(check), fallback=batched))
        except LPFailed:
            rows.append(_failed(games.agents, Result.FAILED, fallback=batched))
        if progress is not None:
            progress(1)
    return _stack(rows, batch, games.agents, games.labels)


class Point(NamedTuple):
    """A point of a concave curve with a supergradient."""

    v: float
    value: float
    slope: float


class Curve(NamedTuple):
    """A concave piecewise linear function, given by its breakpoints."""

    v: Float[np.ndarray, "P"]
    value: Float[np.ndarray, "P"]

    def at(self, v: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
        return np.interp(v, self.v, self.value)


def _trace(lp: ObedienceLP, payoff: Float[np.ndarray, "XA XB A"], low: float, high: float, exactly: bool) -> Curve:
    """The largest `payoff` at user value at least v (f), or `exactly` v (M), with all its breakpoints between V_none =
    `low` and V_full = `high`.

    Between two points the curve lies above their chord and below their supporting lines. At the crossing of these lines
    there is a breakpoint, or the supporting line of the curve splits the interval in two.
    """

    def evaluate(v: float) -> Point:
        found = lp.price(payoff, v, v if exactly else np.inf)
        if not found.optimal:
            raise LPFailed
        return Point(v, found.value, found.slope)

    # At the ends themselves rounding may make the LP infeasible, and supergradients are unbounded.
    done, todo = [evaluate(low + VALUE_TIE)], [evaluate(high - VALUE_TIE)]
    while todo:
        crossing = kink_between(done[-1], todo[-1])
        if crossing is None:
            done.append(todo.pop())
        else:
            todo.append(evaluate(crossing))
    v, value, slope = np.array(done).T
    value[0] -= slope[0] * VALUE_TIE
    value[-1] += slope[-1] * VALUE_TIE
    v[[0, -1]] = low, high
    return Curve(v, value)


def kink_between(left: Point, right: Point) -> float | None:
    """Where the supporting lines at two points cross; None if the curve is straight in between."""
    width = right.v - left.v
    above_right = left.value + left.slope * width - right.value
    above_left = right.value - right.slope * width - left.value
    if min(above_left, above_right) <= STRAIGHT:
        return None
    share = above_left / (above_left + above_right)
    return left.v + share * width if min(share, 1 - share) * width > VALUE_TIE else None


class _Curves(NamedTuple):
    """The curves that determine the stability profile of one game, in standard units."""

    form: StandardForm
    weights: Float[np.ndarray, "K"]  # the agents' units as shares of the largest unit (`_weights`)
    largest: Float[np.ndarray, ""]
    payoff_range: Float[np.ndarray, "K"]
    joint: Curve | None  # M, each agent's payoff in its own unit; None where information is worthless
    joint_common: Curve | None  # M, all payoffs in the largest of the agents' units
    own: list[Curve]  # f_i


def _weights(game: Any, form: Any):
    """The agents' units as shares of the largest unit, and the largest unit. The unit of an agent with no payoff range
    is 0."""
    least, most = units.attainable(game.agents, likely_actions(game, RationalUser())[..., None, :, :, :])
    weights = form.agent_unit * (most - least > NEGLIGIBLE_RANGE)
    largest = weights.max(-1, keepdims=True)
    largest = np.where(largest > 0, largest, 1.0)
    return weights / largest, largest[..., 0]


def _benchmarks(user) -> Any:
    """V_none and V_full."""
    return np.asarray(user.sum(-2).max(-1).sum(-1)), np.asarray(user.max(-1).sum((-2, -1)))


def _by_highs(check: SelectionRational) -> _Curves:
    low, high = map(float, _benchmarks(check.game.user))
    payoff_range = check.payoff_range
    if not np.isfinite(payoff_range).all():
        raise LPFailed
    form = check.form._replace(game=check.game)
    payoffs, weighed = check.game.agents, _weights(check.game, form)
    if high - low <= NEGLIGIBLE_INFORMATION_VALUE:
        return _Curves(form, *weighed, payoff_range, None, None, [])
    joint = _trace(check.lp, payoffs.sum(0), low, high, exactly=True)
    joint_common = _trace(check.lp, np.tensordot(weighed[0], payoffs, 1), low, high, exactly=True)
    own = [_trace(check.lp, payoff, low, high, exactly=False) for payoff in payoffs]
    return _Curves(form, *weighed, payoff_range, joint, joint_common, own)


def _traced(reduced: ReducedGame, sound: Int[np.ndarray, "N"]) -> dict[int, _Curves]:
    """The curves of the `sound` games whose batched LPs pass all checks, by number of the game."""
    form: Any = standard_form(reduced.at(sound), Selection(), RationalUser())
    game = form.game
    payoffs, (weights, largest) = game.agents, _weights(game, form)
    joint, joint_common = payoffs.sum(1), np.einsum("nk,nkxba->nxba", weights, payoffs)
    K = payoffs.shape[1]
    sums = np.stack([joint, joint_common, joint, joint_common], 1)
    alone, both_ways = frontier.trace(game, payoffs), frontier.trace(game, sums, np.array([1.0, 1.0, -1.0, -1.0]))
    least = -frontier.largest_payoffs(game, -payoffs)
    ranges = alone.paid[..., 0] - least
    ranges = np.where(ranges <= NEGLIGIBLE_RANGE, 0.0, ranges)
    low, high = _benchmarks(game.user)
    done = alone.proved.all(1) & both_ways.proved.all(1) & np.isfinite(least).all(1)
    curves = {}
    for n in map(int, np.flatnonzero(done)):
        own = [_joined(alone, n, (i,), float(low[n]), float(high[n])) for i in range(K)]
        both = [_joined(both_ways, n, (j, 2 + j), float(low[n]), float(high[n])) for j in range(2)]
        one: Any = form._replace(
            game=game.at(n), user_unit=form.user_unit[n], user_zero=form.user_zero[n],
            agent_unit=form.agent_unit[n],
        )  # fmt: skip
        worthless = high[n] - low[n] <= NEGLIGIBLE_INFORMATION_VALUE
        shared, own = (both, own) if not worthless else ([None, None], [])
        curves[int(sound[n])] = _Curves(one, weights[n], largest[n], ranges[n], shared[0], shared[1], own)
    return curves


def _joined(found: frontier.Frontier, n: int, parts: tuple[int, ...], low: float, high: float) -> Curve:
    """Curve parts[0] of game n, continued to the left by curve parts[1] (of user value at most v) or a constant."""
    up = parts[0]
    count = found.count[n, up]
    v, value = found.user_value[n, up, :count], found.paid[n, up, :count]
    if len(parts) > 1:
        count = found.count[n, parts[1]]
        v = np.concatenate([-found.user_value[n, parts[1], :count][::-1], v])
        value = np.concatenate([found.paid[n, parts[1], :count][::-1], value])
    else:
        v, value = np.concatenate([[low], v]), np.concatenate([value[:1], value])
    v = np.maximum.accumulate(np.minimum(np.maximum(v, low), high))
    new = np.ones(len(v), bool)
    new[1:] = v[1:] - v[:-1] > VALUE_TIE
    return Curve(v[new], value[new]) if new[-1] or new.sum() > 1 else Curve(v[:1], value[:1])


def _stability_of_one(curves: _Curves, fallback: bool = False) -> Stability:
    form = curves.form
    low, high = map(float, _benchmarks(form.game.user))
    if curves.joint is None or curves.joint_common is None:  # Every distribution has the same user value.
        low, v, gap, zero = high, np.array([high]), np.zeros(1), np.ones(1, bool)
    else:
        v, gap, zero = _profile(curves, curves.joint, curves.joint_common, high)
    unit, origin, agent_unit = form.user_unit, form.user_zero, form.agent_unit
    value = unit * v + origin
    return _row(
        value[zero][0], value[zero][-1], value, gap, zero, unit * low + origin, unit * high + origin,
        agent_unit * curves.payoff_range, int(Result.CERTIFIED), fallback,
    )  # fmt: skip


def _profile(curves: _Curves, joint: Curve, joint_common: Curve, high: float):
    """v [P] in standard units, gap [P] in the units of the utilities, and which are zeros [P]. Zeros are decided with
    each agent's payoff in its own unit."""
    weights, K = curves.weights, len(curves.weights)
    own = curves.own if K > 1 else []
    v = _distinct(np.concatenate([curve.v for curve in (joint, joint_common, *own)]))
    most = np.array([curve.at(v) for curve in own]) if K > 1 else np.full((1, len(v)), joint.value.max())
    zero = most.sum(0) - joint.at(v) <= ZERO_GAP
    gap = np.where(zero, 0, np.maximum(weights @ most - joint_common.at(v), 0))
    if K > 1 and not zero[-1]:  # V_full is an equilibrium value: no rival can outbid it.
        v, gap, zero = np.append(v, high), np.append(gap, 0), np.append(zero, True)
    return v, curves.largest * gap, zero


def _distinct(v: np.ndarray) -> np.ndarray:
    """Sorted, without values that differ from the one before by rounding; both ends are kept."""
    v = np.unique(v)
    kept = [v[0]]
    for x in v[1:-1]:
        if kept[-1] + VALUE_TIE < x < v[-1] - VALUE_TIE:
            kept.append(x)
    return np.array([*kept, v[-1]])


def _row(*values) -> Stability:
    return Stability(*(np.asarray(value) for value in values))


def _failed(K: int, result: Result, fallback: bool = False) -> Stability:
    nan, one = np.nan, np.full(1, np.nan)
    return _row(nan, nan, one, one, np.zeros(1, bool), nan, nan, np.full(K, nan), int(result), fallback)


def _stack(rows: list[Stability], batch: tuple[int, ...], agents: int, labels: Any) -> Stability:
    """One batched Stability from those of the games, short profiles padded with their last point."""
    most = max((len(row.value) for row in rows), default=1)

    def padded(row: Stability) -> Stability:
        at = np.minimum(np.arange(most), len(row.value) - 1)
        return row.replace(value=row.value[at], gap=row.gap[at], zero=row.zero[at])

    failed = _failed(agents, Result.MALFORMED)
    return stacked([padded(row) for row in rows], batch, failed).replace(labels=labels)
