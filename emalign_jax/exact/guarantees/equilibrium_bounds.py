"""The worst and the best equilibrium of Comparison: a bound, what attains it, and an exact value (section 6.9 of
docs/model.md).

Where the user meets one agent alone every agent is a monopolist, and where it meets all of them this is Selection. In
between an equilibrium of the largest value always exists, and `comparison_search` bounds the least one by branch and
bound. That the bound is attained is known where a profile was certified there.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from emalign_jax.exact.certificates.certificate import certify, flatten_games, normalise
from emalign_jax.exact.checks.base import make_check
from emalign_jax.exact.guarantees.comparison_search import SLACK, ComparisonSearch
from emalign_jax.exact.guarantees.equilibrium_set import check_setting
from emalign_jax.exact.obedience.curves import trace
from emalign_jax.exact.obedience.program import ObedienceLP, check_size
from emalign_jax.games.game import Game, faults
from emalign_jax.games.units import NEGLIGIBLE_INFORMATION_VALUE
from emalign_jax.internal import batching
from emalign_jax.internal.arguments import integer, number
from emalign_jax.internal.validation import on_host
from emalign_jax.lp.highs import KeptLP, LPFailed
from emalign_jax.protocols import AbstractProtocol, Comparison, Selection
from emalign_jax.protocols.base import reduce_for
from emalign_jax.result import Batched, Result
from emalign_jax.users.base import AbstractUser
from emalign_jax.users.rational import RationalUser

SHARE = "a number from 0 to 1", lambda x: 0 <= x <= 1
# Of the agents that may be picked: all of up to 5 agents, and of 11 if all but one are compared.
MOST_ORDERS = 120
# As shares of payoff ranges: a profile that is certified so closely is called an equilibrium.
CLOSE = 1e-4
# Tie tolerances by which a recommended action must be better where ties would not be broken as recommended.
STRICT = 1.25


class EquilibriumBounds(Batched):
    """The user's values in the pure equilibria of Comparison: from a bound of the worst to the best.

    Float64, on the host, in the unit of the user's utility; NaN where `result` is bad.

    Attributes:
        at_least: [...] no pure equilibrium is worth less to the user (a bound).
        worst_found: [...] the value of a profile that is certified to be an equilibrium (gains within `tolerance` and
            1e-4 of the payoff ranges), constructed as near to `at_least` as was possible; NaN where none was. Because
            of these gains it may lie a little below `at_least`, by which it says how sharp the bound is.
        best: [...] the best pure equilibrium, exact; V_full for two agents that are compared or more, unless the user
            misreads beliefs.
        complete: [...] whether the search ended before `most_lps`; otherwise the bound holds, but a better one exists.
        lps: [...] number of linear programs solved.
        no_information: [...] V_none.
        full_information: [...] V_full.
        result: [...] CERTIFIED (the bound holds), MALFORMED or FAILED.

    Example:
        >>> found = em.equilibrium_bounds(em.catalog.judge(prosecutors=3), em.Comparison(2))
        >>> round(float(found.at_least), 3), round(float(found.worst_found), 3), float(found.best)
        (0.7, 0.7, 1.0)

    Source: section 6.9 of docs/model.md.
    """

    at_least: Float[np.ndarray, "*batch"]
    worst_found: Float[np.ndarray, "*batch"]
    best: Float[np.ndarray, "*batch"]
    complete: Bool[np.ndarray, "*batch"]
    lps: Int[np.ndarray, "*batch"]
    no_information: Float[np.ndarray, "*batch"]
    full_information: Float[np.ndarray, "*batch"]
    result: Int[np.ndarray, "*batch"]

    _names: ClassVar[dict[str, str]] = {"best": "best_equilibrium"}

    def _headline(self) -> dict[str, Any]:
        ends = self.at_least, self.best
        low, high = map(self.normalise, ends) if self.batch_shape else ends
        return {"worst at least": low, "best": high}

    def normalise(self, value: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
        """(V - V_none) / (V_full - V_none) for V [...]; NaN where information is worth nothing."""
        return normalise(value, self.no_information, self.full_information)


class _Row(NamedTuple):
    """The fields of `EquilibriumBounds` of one game, in units of the user's utility."""

    at_least: float = np.nan
    worst_found: float = np.nan
    best: float = np.nan
    complete: bool = False
    lps: int = 0
    no_information: float = np.nan
    full_information: float = np.nan
    result: int = int(Result.FAILED)


def equilibrium_bounds(
    games: Game,
    protocol: AbstractProtocol | None = None,
    user: AbstractUser | None = None,
    *,
    tolerance: float = 0.0,
    most_lps: int = 20_000,
    progress=None,
) -> EquilibriumBounds:
    """The user's worst and best pure equilibrium of Comparison with a rational user (ties for the picked agent).

    The best is exact, the worst is bounded. In Comparison of fewer than all agents full revelation is heard by chance
    alone, so that the worst may be below V_full where that of Selection is V_full. `stability` has all equilibrium
    values of Selection, exactly.

    Args:
        games: [...] games; of few agents, unless nearly all are compared.
        protocol: Comparison(m) with m agents or fewer in the games, or Selection(), which is the default.
        user: RationalUser() by default, or a user who misreads beliefs and else acts as that one does.
        tolerance: the bounds also hold for profiles in which agents gain at most this share of their payoff ranges.
        most_lps: about the largest number of linear programs for a game.
        progress: called with the number of games done since the last call.

    Returns:
        An `EquilibriumBounds`.

    Raises:
        ValueError: for other protocols and users, for too many agents (orders of K - m + 1 of them are enumerated), and
            for games too large for the obedience LP.

    Example:
        >>> game = em.catalog.prosecutor_against_defender()
        >>> found = em.equilibrium_bounds(game, em.Comparison(1))  # each alone with the user: no one need reveal
        >>> round(float(found.at_least), 3), round(float(found.best), 3)
        (0.7, 0.7)

    Source: section 6.9 of docs/model.md.
    """
    rule: Any = Selection() if protocol is None else protocol
    person: Any = RationalUser() if user is None else user
    games, rule, person, _ = on_host(games=games, protocol=rule, user=person, progress=progress)
    tolerance = number("tolerance", tolerance, *SHARE)
    most_lps = integer("most_lps", most_lps, 1)
    check_size(games.user_features, games.agent_features, games.actions)
    check_setting(games, rule, person)
    _check_count(games.agents, getattr(rule, "compared", games.agents))
    batch = games.batch_shape
    flat, users = flatten_games(games, batch), batching.flatten(person, batch)
    bad = (faults(games) != "").reshape(-1)
    reduced = reduce_for(flat, Selection(), users, np)
    rows = []
    for k in range(len(bad)):
        row = _Row(result=int(Result.MALFORMED))
        if not bad[k]:
            check = make_check(reduced, k, Selection(), RationalUser())
            one = _Game(flat[k], batching.item(users, k), rule, check, tolerance)
            try:
                row = one.bounds(most_lps)
            except LPFailed:
                row = _Row()
        rows.append(row)
        if progress is not None:
            progress(1)
    fields = {name: np.array([getattr(row, name) for row in rows]).reshape(batch) for name in _Row._fields}
    kinds = {"complete": bool, "lps": int, "result": int}
    return EquilibriumBounds(
        **{name: x.astype(kinds.get(name, float)) for name, x in fields.items()}, labels=games.labels
    )


def _check_count(agents: int, compared: int) -> None:
    """Raise `ValueError` where there are too many orders of agents."""
    orders = math.perm(agents, agents - compared + 1) if compared > 1 else 1
    if orders > MOST_ORDERS:
        raise ValueError(
            f"games: with {compared} of K = {agents} agents compared there are {orders} orders of those that may be "
            f"picked, the limit is {MOST_ORDERS}: take fewer agents, or compare more of them"
        )


class _Game:
    """One game, with its check in standard units."""

    def __init__(self, game: Game, user: AbstractUser, protocol: AbstractProtocol, check: Any, tolerance: float):
        self.game, self.user, self.check, self.tolerance = game, user, check, tolerance
        K = game.agents
        self.protocol = Comparison(min(getattr(protocol, "compared", K), K))
        self.ends = float(check.least_value), float(check.most_value)
        self.known = [float(check.informed(heard)[0]) for heard in (False, True)]
        self.strict = check.lp
        if check.game.is_perceived:
            A = game.actions
            self.strict = ObedienceLP(check.game, tie_tolerance=-STRICT * check.user.tolerance * (1 - np.eye(A)))

    def bounds(self, most_lps: int) -> _Row:
        if not np.isfinite(self.check.payoff_range).all():
            raise LPFailed
        unit, zero = self.check.form.user_unit, self.check.form.user_zero
        allowed = self.tolerance * self.check.payoff_range
        none, full = (float(unit * value + zero) for value in self.known)
        if self.ends[1] - self.ends[0] <= NEGLIGIBLE_INFORMATION_VALUE:
            value = float(unit * self.ends[1] + zero)
            return _Row(value, value, value, True, 0, none, full, int(Result.CERTIFIED))
        if self.protocol.compared == 1:
            low, found, high, lps = self._alone(allowed)
            complete = True
        else:
            low, found, complete, lps = self._together(allowed, most_lps)
            high = self.ends[1]
        low, high = (float(unit * value + zero) for value in (low, high))
        return _Row(low, found, high, complete, lps, none, full, int(Result.CERTIFIED))

    def _alone(self, allowed) -> tuple[float, float, float, int]:
        """Where one agent is met: all that are best for each agent, whatever the others do."""
        lp, game, K = self.check.lp, self.check.game, len(allowed)
        rows, bounds = lp.constraints
        ends, schemes = np.zeros(2), []
        upper = np.full(len(rows) + 1, np.inf)
        upper[: game.mass.shape[-1]] = 1
        gets = lp.column(game.welfare)
        for agent, room in zip(game.agents, K * allowed, strict=True):
            pays, least = lp.column(agent), lp.price(agent).value - SLACK - room
            model = np.array([*rows, pays])
            low, high = (KeptLP(model, np.append(bounds, least), upper, cost=sign * gets).solve() for sign in (-1, 1))
            if not (low.optimal and high.optimal):
                raise LPFailed
            ends += [-low.value / K, high.value / K]
            schemes.append(lp.distribution(np.maximum(low.x, 0)))
        return float(ends[0]), self._certified(schemes), float(ends[1]), 3 * K

    def _together(self, allowed, most_lps: int) -> tuple[float, float, bool, int]:
        lp, game, K = self.check.lp, self.check.game, len(allowed)
        m = self.protocol.compared
        chances = np.array([math.comb(K - 1 - r, m - 1) / math.comb(K, m) for r in range(K - m + 1)])
        curves = [trace(lp, agent, *self.ends, exactly=True) for agent in game.agents]
        search = ComparisonSearch(game, lp, self.strict, curves, self.ends, chances, allowed)
        found = []

        def accept(pattern, ranks) -> bool:
            found.append(self._certified(self._schemes(pattern, ranks)))
            return bool(np.isfinite(found[-1]))

        bound, complete = search.extreme(-1.0, most_lps, accept)
        if not np.isfinite(bound):  # There always is an equilibrium.
            raise LPFailed
        return max(-bound, self.ends[0]), (found or [np.nan])[-1], complete, search.solved

    def _schemes(self, pattern, ranks: list[np.ndarray]) -> list[np.ndarray]:
        """The schemes of all agents; those that are never picked offer the least value, but for the one that waits."""
        least = self._least()
        schemes = [least] * len(self.check.game.agents)
        for agent, distribution in zip(pattern.order, ranks, strict=False):
            schemes[agent] = distribution
        if len(ranks) > len(pattern.order):
            schemes[pattern.next] = ranks[-1]
        return schemes

    def _least(self) -> np.ndarray:
        found = self.check.lp.best(-self.check.game.welfare)
        if not found.optimal:
            raise LPFailed
        return found.distribution

    def _certified(self, schemes: list[np.ndarray]) -> float:
        """The user's value under these schemes if they are certified to be an equilibrium, otherwise NaN."""
        profile = np.stack(schemes)
        used = profile.max((0, 1)) > 0
        found = certify(self.game, profile[..., used], self.protocol, self.user, tolerance=self.tolerance + CLOSE)
        return float(found.user) if found.result == Result.CERTIFIED else np.nan
