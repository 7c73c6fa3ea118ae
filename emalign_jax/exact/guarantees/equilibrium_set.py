"""The equilibrium set of Selection with a rational user, computed, not searched for (section 6.5 of docs/model.md).

f_i(v) is the largest payoff of agent i over obedient distributions worth at least v to the user, and M(v) the largest
sum of all agents' payoffs over obedient distributions worth exactly v. For K >= 2 and V_least <= v < V_most, the least
and the largest value of a scheme (V_none and V_full, unless the user misreads beliefs), theorem 3 says that

    gap(v) = sum_i f_i(v) - M(v) >= 0

is the least total deviation gain of a profile that leaves the user with value v. So the user's values in pure
equilibria are the zeros of gap, and V_most. Where gap does not tend to 0 at V_most, V_most is an isolated point. With
K = 1 there is no rival: gap(v) = max U_1 - M(v), and V_most need not be an equilibrium value.

A user who misreads beliefs obeys by what it perceives and picks the agent by what it gets, a track record. So v is what
the user gets, and at a zero v the equilibria are the obedient distributions that pay f_i(v) to every agent; among these
what the user perceives has a least and a largest value (section 11.4).

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
from emalign_jax.exact.checks.base import check_for, make_check
from emalign_jax.exact.checks.selection_rational import SelectionRational
from emalign_jax.exact.guarantees.perceived_ends import perceived_ends
from emalign_jax.exact.obedience import frontier
from emalign_jax.exact.obedience.curves import Curve, distinct, trace
from emalign_jax.exact.obedience.program import check_size
from emalign_jax.exact.responses import by_agent
from emalign_jax.games import units
from emalign_jax.games.game import Game, ReducedGame, faults
from emalign_jax.games.units import NEGLIGIBLE_INFORMATION_VALUE, NEGLIGIBLE_RANGE, VALUE_TIE
from emalign_jax.internal import batching
from emalign_jax.internal.arguments import integer
from emalign_jax.internal.validation import on_host
from emalign_jax.lp.choice import check_word
from emalign_jax.lp.highs import LPFailed
from emalign_jax.protocols import AbstractProtocol, Selection
from emalign_jax.protocols.base import declares_revelation, reduce_for
from emalign_jax.protocols.selection import check_agents
from emalign_jax.protocols.standard_units import StandardForm, likely_actions, standard_form
from emalign_jax.result import Batched, Result
from emalign_jax.users.base import AbstractUser
from emalign_jax.users.rational import RationalUser

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
        perceived_worst: [...] the least that the user believes to get (`em.Payoffs.perceived`) in a pure equilibrium;
            `worst`, unless it misreads beliefs.
        perceived_best: [...] the most that the user believes to get in a pure equilibrium.
        value: [..., P] values from the least of a scheme to the largest, ascending, with all breakpoints of gap; they
            are V_none and V_full, unless the user misreads beliefs.
        gap: [..., P] least total deviation gain (sum over agents, each in its own units) of a profile worth
            `value` to the user; linear between these points, so that `np.interp(v, value, gap)`
            is exact. Where gap jumps to 0 at the last value, that is listed twice.
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

    Source: sections 6.5 and 11.4 of docs/model.md.
    """

    worst: Float[np.ndarray, "*batch"]
    best: Float[np.ndarray, "*batch"]
    perceived_worst: Float[np.ndarray, "*batch"]
    perceived_best: Float[np.ndarray, "*batch"]
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


def stability(
    games: Game,
    protocol: AbstractProtocol | None = None,
    user: AbstractUser | None = None,
    *,
    exact: bool = False,
    of: int | None = None,
    lp: str = "auto",
    progress=None,
) -> Stability:
    """The user's values in all pure equilibria of Selection with a rational user (ties for the selected agent).

    A malformed game, or an LP that HiGHS does not solve, makes only its own row NaN.

    Args:
        games: [...] games.
        protocol: Selection() by default, or Comparison of all agents, which is the same. Comparison of fewer has bounds
            (`equilibrium_bounds`).
        user: RationalUser() by default, or a user who misreads beliefs and else acts as that one does.
        exact: derive every LP's answer again in rational arithmetic (small games).
        of: the total number of games, if these are one block of them; see `solve`.
        lp: "batched" (the LPs of all games together; HiGHS solves games whose curves their multipliers do not
            prove), "highs" (one by one) or "auto" (batched for many small games).
        progress: called with the number of games done since the last call.

    Returns:
        A `Stability`.

    Raises:
        ValueError: for games too large for the obedience LP or for `exact`, for other protocols and users, and for
            `exact` with a user who misreads beliefs.

    Example:
        >>> found = em.stability(em.catalog.two_prosecutors())
        >>> round(float(found.worst), 6), round(float(found.best), 6)
        (0.7, 1.0)
        >>> timid = em.Conservative(em.RationalUser(), 0.5)  # convicts on strong evidence alone, to its own good
        >>> found = em.stability(em.catalog.two_prosecutors(), user=timid)
        >>> round(float(found.worst), 3), round(float(found.perceived_worst), 3)
        (0.871, 0.7)

    Source: sections 6.5 and 11.4 of docs/model.md.
    """
    rule: Any = Selection() if protocol is None else protocol
    person: Any = RationalUser() if user is None else user
    games, rule, person, exact, _ = on_host(games=games, protocol=rule, user=person, exact=exact, progress=progress)
    of = None if of is None else integer("of", of, 0)
    check_word(lp)
    check_agents(games)
    check_size(games.user_features, games.agent_features, games.actions)
    check_setting(games, rule, person)
    if games.agents > 1 and not declares_revelation(rule, games.agents):
        raise ValueError(
            f"protocol: {rule.title} of K = {games.agents}: of fewer than all agents take em.equilibrium_bounds"
        )
    batch = games.batch_shape
    flat = flatten_games(games, batch)
    bad = (faults(games) != "").reshape(-1)
    reduced = reduce_for(flat, Selection(), batching.flatten(person, batch), np)
    if exact and lp == "batched":
        raise ValueError('lp: exact answers are derived from HiGHS\'s: take lp="highs" with exact=True')
    if exact and person.plain is not person:
        raise ValueError("exact: for users who misread beliefs answers are not derived in rational arithmetic")
    batched = frontier.choose(lp, 0 if exact else max(of or 0, len(bad)), reduced)
    traced = _traced(reduced, np.flatnonzero(~bad)) if batched and not bad.all() else {}
    rows, perceived_zero = [], [None] * len(bad)
    if reduced.is_perceived:
        perceived_zero = np.asarray(reduced.user).max(-1).sum((-2, -1))
    for k in range(len(bad)):
        try:
            if bad[k]:
                rows.append(_failed(games.agents, Result.MALFORMED))
            elif k in traced:
                rows.append(_stability_of_one(traced.pop(k), perceived_zero[k]))
            else:
                check: Any = make_check(reduced, k, Selection(), RationalUser(), lossless=exact)
                if exact:
                    check.confirm()
                rows.append(_stability_of_one(_by_highs(check), perceived_zero[k], batched))
        except LPFailed:
            rows.append(_failed(games.agents, Result.FAILED, fallback=batched))
        if progress is not None:
            progress(1)
    return _stack(rows, batch, games.agents, games.labels)


def check_setting(games: Game, protocol: AbstractProtocol, user: AbstractUser) -> None:
    """Raise `ValueError` unless the equilibria of this protocol with this user are those of section 6.5 or 6.9."""
    kind: Any = check_for(protocol, user)
    if not (kind.stability_applies and user.plain.favours):
        raise ValueError(
            "protocol, user: equilibrium sets are known of Selection and Comparison at temperature 0 and in one round, "
            f'with RationalUser(ties="agents") or one who misreads beliefs, got {protocol.title} and {user.title}'
        )
    kind.check_setting(protocol, user.plain)
    protocol.check(games, games.agent_features)
    user.check(games, protocol, games.agent_features)


class _Curves(NamedTuple):
    """The curves that determine the stability profile of one game, in standard units."""

    form: StandardForm
    ends: tuple[float, float]  # the least and the largest value of a scheme to the user
    known: tuple[float, float]  # V_none and V_full
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


def _benchmarks(game: Any) -> tuple[np.ndarray, np.ndarray]:
    """V_none and V_full of games in standard units."""
    if not game.is_perceived:
        return np.asarray(game.user.sum(-2).max(-1).sum(-1)), np.asarray(game.user.max(-1).sum((-2, -1)))
    found = []
    for pool in (lambda x: x.sum(-2, keepdims=True), lambda x: x):
        responses = by_agent(RationalUser(), game, pool)
        found.append(np.asarray((responses[0] * pool(game.welfare)).sum((-3, -2, -1))))
    return found[0], found[1]


def _by_highs(check: SelectionRational) -> _Curves:
    low, high = ends = (check.least_value, check.most_value)
    known = (check.informed(False)[0], check.informed(True)[0]) if check.game.is_perceived else ends
    payoff_range = check.payoff_range
    if not np.isfinite(payoff_range).all():
        raise LPFailed
    form = check.form._replace(game=check.game)
    payoffs, weighed = check.game.agents, _weights(check.game, form)
    if high - low <= NEGLIGIBLE_INFORMATION_VALUE:
        return _Curves(form, ends, known, *weighed, payoff_range, None, None, [])
    joint = trace(check.lp, payoffs.sum(0), low, high, exactly=True)
    joint_common = trace(check.lp, np.tensordot(weighed[0], payoffs, 1), low, high, exactly=True)
    own = [trace(check.lp, payoff, low, high, exactly=False) for payoff in payoffs]
    return _Curves(form, ends, known, *weighed, payoff_range, joint, joint_common, own)


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
    known = low, high = _benchmarks(game)
    if game.is_perceived:
        worth = np.stack([-game.welfare, game.welfare], 1)
        low, high = frontier.largest_payoffs(game, worth).T * np.array([[-1.0], [1.0]])
    done = np.isfinite(low) & np.isfinite(high)
    done &= alone.proved.all(1) & both_ways.proved.all(1) & np.isfinite(least).all(1)
    curves = {}
    for n in map(int, np.flatnonzero(done)):
        own = [_joined(alone, n, (i,), float(low[n]), float(high[n])) for i in range(K)]
        both = [_joined(both_ways, n, (j, 2 + j), float(low[n]), float(high[n])) for j in range(2)]
        one: Any = form._replace(
            game=game.at(n), user_unit=form.user_unit[n], user_zero=form.user_zero[n],
            agent_unit=form.agent_unit[n], perceived_unit=form.perceived_unit[n],
        )  # fmt: skip
        worthless = high[n] - low[n] <= NEGLIGIBLE_INFORMATION_VALUE
        shared, own = (both, own) if not worthless else ([None, None], [])
        ends, of_one = ((float(x[n]), float(y[n])) for x, y in ((low, high), known))
        curves[int(sound[n])] = _Curves(
            one, ends, of_one, weights[n], largest[n], ranges[n], shared[0], shared[1], own
        )  # fmt: skip
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


def _stability_of_one(curves: _Curves, perceived_zero: float | None, fallback: bool = False) -> _Row:
    """perceived_zero: what the user perceives where standard units have 0, in units of utility; None if it does not
    misread beliefs."""
    form, (none, full), high = curves.form, curves.known, curves.ends[1]
    if curves.joint is None or curves.joint_common is None:  # Every distribution has the same user value.
        v, gap, zero = np.array([high]), np.zeros(1), np.ones(1, bool)
        none = none if form.game.is_perceived else full
    else:
        v, gap, zero = _profile(curves, curves.joint, curves.joint_common, high)
    unit, origin, agent_unit = form.user_unit, form.user_zero, form.agent_unit
    value = unit * v + origin
    worst, best = perceived = value[zero][0], value[zero][-1]
    if perceived_zero is not None:
        low, most = v[zero][0], v[zero][-1]  # Where what it perceives and what it gets differ in their units alone.
        if form.game.is_perceived:
            own = curves.own
            if curves.joint is not None and len(own) == 1:
                own = [Curve(curves.joint.v, np.full(len(curves.joint.v), curves.joint.value.max()))]
            low, most = perceived_ends(form.game, v, zero, own)
        perceived = form.perceived_unit * low + perceived_zero, form.perceived_unit * most + perceived_zero
    return _Row(
        worst, best, *perceived, value, gap, zero, unit * none + origin, unit * full + origin,
        agent_unit * curves.payoff_range, int(Result.CERTIFIED), fallback,
    )  # fmt: skip


def _profile(curves: _Curves, joint: Curve, joint_common: Curve, high: float):
    """v [P] in standard units, gap [P] in the units of the utilities, and which are zeros [P]. Zeros are decided with
    each agent's payoff in its own unit."""
    weights, K = curves.weights, len(curves.weights)
    own = curves.own if K > 1 else []
    v = distinct(np.concatenate([curve.v for curve in (joint, joint_common, *own)]))
    most = np.array([curve.at(v) for curve in own]) if K > 1 else np.full((1, len(v)), joint.value.max())
    zero = most.sum(0) - joint.at(v) <= ZERO_GAP
    gap = np.where(zero, 0, np.maximum(weights @ most - joint_common.at(v), 0))
    if K > 1 and not zero[-1]:  # The largest value is an equilibrium value: no rival can outbid it.
        v, gap, zero = np.append(v, high), np.append(gap, 0), np.append(zero, True)
    return v, curves.largest * gap, zero


class _Row(NamedTuple):
    """The fields of the `Stability` of one game."""

    worst: float
    best: float
    perceived_worst: float | np.ndarray
    perceived_best: float | np.ndarray
    value: Float[np.ndarray, "P"]
    gap: Float[np.ndarray, "P"]
    zero: Bool[np.ndarray, "P"]
    no_information: float | np.ndarray
    full_information: float | np.ndarray
    payoff_range: Float[np.ndarray, "K"]
    result: int
    fallback: bool


def _failed(K: int, result: Result, fallback: bool = False) -> _Row:
    nan, one = np.nan, np.full(1, np.nan)
    return _Row(nan, nan, nan, nan, one, one, np.zeros(1, bool), nan, nan, np.full(K, nan), int(result), fallback)


def _stack(rows: list[_Row], batch: tuple[int, ...], agents: int, labels: Any) -> Stability:
    """One batched Stability from those of the games, short profiles padded with their last point."""
    most = max((len(row.value) for row in rows), default=1)

    def padded(row: _Row) -> _Row:
        at = np.minimum(np.arange(most), len(row.value) - 1)
        return row._replace(value=row.value[at], gap=row.gap[at], zero=row.zero[at])

    columns = zip(*map(padded, rows or [_failed(agents, Result.MALFORMED)]), strict=True)
    whole = (np.stack(column)[: len(rows)] for column in columns)
    return Stability(*(x.reshape((*batch, *x.shape[1:])) for x in whole)).replace(labels=labels)
