"""Bounds of the equilibria of Comparison: against all profiles of a fine grid, certified searches, and Selection."""

import itertools
import math
import os

import jax
import numpy as np
import pytest
from support.games import batch_of, random_game

import emalign_jax as em
from emalign_jax.exact.checks.base import make_check
from emalign_jax.exact.guarantees.comparison_search import ComparisonSearch
from emalign_jax.exact.obedience.curves import trace
from emalign_jax.result import columns

pytestmark = pytest.mark.host_only

NIGHTLY = os.environ.get("EMALIGN_NIGHTLY") == "1"
PLAIN = em.RationalUser()


def biased(seed, own=0.3, **sizes):
    """Agents who share a bias, so that the worst equilibrium is often worth less than V_full, and a user to whom
    information is worth something."""
    game = random_game(seed, **{"K": 3, "matching": 1.5} | sizes)
    common = np.random.default_rng(seed).normal(size=game.user_utility.shape)
    return em.Game(game.prior, game.user_utility, own * game.agent_utilities + common)


def chances(agents, compared):
    """With which each rank is picked."""
    return np.array([math.comb(agents - 1 - r, compared - 1) / math.comb(agents, compared) for r in range(agents)])


class Grid:
    """All profiles of K = 3 agents, XB = A = 2, in which schemes are from a grid; gains are against all schemes.

    A scheme recommends action 1 with probability z [XB]. The obedient ones are a polygon, whose corners are found from
    pairs of its sides, and the most that an agent gets at a user value is the upper hull of the corners.
    """

    def __init__(self, game, compared, points):
        g = np.einsum("by,ay->ba", game.prior[0], game.user_utility)
        G = np.einsum("by,kay->kba", game.prior[0], game.agent_utilities)
        better = g[:, 1] - g[:, 0]  # [XB] of action 1
        # Rows (normal, offset) with normal @ z >= offset: 0 <= z <= 1, and both recommendations are obeyed.
        sides = [((1, 0), 0), ((0, 1), 0), ((-1, 0), -1), ((0, -1), -1)]
        sides += [(tuple(better), 0), (tuple(better), better.sum())]
        inside = lambda z: all(np.dot(a, z) >= b - 1e-12 for a, b in sides)  # noqa: E731
        corners = []
        for (a, b), (c, d) in itertools.combinations(sides, 2):
            matrix = np.array([a, c], float)
            if abs(np.linalg.det(matrix)) > 1e-12:
                z = np.linalg.solve(matrix, [b, d])
                corners += [z] if inside(z) else []
        axis = np.linspace(0, 1, points)
        grid = [z for z in itertools.product(axis, axis) if inside(z)] + corners
        self.worth = lambda u, z: u[:, 0].sum() + np.asarray(z) @ (u[:, 1] - u[:, 0])
        self.V = self.worth(g, grid)
        self.G = np.array([self.worth(own, grid) for own in G])
        self.hulls = [self._hull(self.worth(g, corners), self.worth(own, corners)) for own in G]
        self.ranges = np.array([np.ptp(self.worth(own, corners)) for own in G])
        self.none, self.full = g.sum(0).max(), g.max(1).sum()
        self.p = chances(3, compared)
        self._evaluate()

    def _hull(self, v, paid):
        """The upper hull of points, as (v, paid)."""
        kept = []
        for point in sorted(zip(v, paid, strict=True)):
            if kept and point[0] - kept[-1][0] < 1e-12:
                point = (point[0], max(point[1], kept.pop()[1]))
            while len(kept) > 1 and (kept[-1][1] - kept[-2][1]) * (point[0] - kept[-2][0]) <= (
                point[1] - kept[-2][1]
            ) * (kept[-1][0] - kept[-2][0]):
                kept.pop()
            kept.append(point)
        return np.array(kept).T

    def most(self, agent, low, high):
        """[...] the most that the agent gets at user values from low to high."""
        v, paid = self.hulls[agent]
        top = v[paid.argmax()]
        return np.interp(np.clip(top, low, high), v, paid)

    def _evaluate(self):
        """The user's value [N, N, N] of all profiles, and their largest gain as a share of the payoff range."""
        N, p = len(self.V), self.p
        first = {}  # (i, j): whether i's scheme s beats j's scheme t
        for i, j in itertools.permutations(range(3), 2):
            first[i, j] = self.V[:, None] > self.V + 1e-12 if i > j else self.V[:, None] >= self.V - 1e-12
        self.value, self.gain = np.zeros((N, N, N)), np.zeros((N, N, N))
        place = lambda x, i: x.reshape([N if n == i else 1 for n in range(3)])  # noqa: E731
        pair = lambda x, i, j: np.expand_dims(x if i < j else x.T, 3 - i - j)  # noqa: E731
        beats = {(i, j): pair(first[i, j], i, j) for i, j in first}
        rank = [sum(beats[j, i].astype(int) for j in range(3) if j != i) for i in range(3)]
        for j in range(3):
            self.value += p[rank[j]] * place(self.V, j)
        for i in range(3):
            a, b = (j for j in range(3) if j != i)
            present = sum(p[rank[j]] * place(self.G[i], j) for j in range(3))
            top = first[a, b]  # [N, N] of the schemes of a and b
            high, low = (np.where(top == flag, self.V[:, None], self.V) for flag in (True, False))
            upper, lower = (np.where(top == flag, self.G[i][:, None], self.G[i]) for flag in (True, False))
            ahead = np.where(top, a < i, b < i)  # whether the better of the others has a lower index
            behind = np.where(top, i < b, i < a)
            above = p[0] * self.most(i, high, np.inf) + p[1] * upper + p[2] * lower
            between = p[1] * self.most(i, low, high) + p[0] * upper + p[2] * lower
            between = np.where((high - low > 1e-12) | (ahead & behind), between, -np.inf)
            most_value = high >= self.V.max() - 1e-12
            above = np.where(most_value & ahead, -np.inf, above)
            out = p[0] * upper + p[1] * lower + p[2] * self.most(i, -np.inf, low)
            least_value = low <= self.V.min() + 1e-12
            out = np.where(least_value & behind, -np.inf, out)
            best = np.maximum(np.maximum(above, between), out)
            gain = pair(best, a, b) - present
            self.gain = np.maximum(self.gain, gain / max(self.ranges[i], 1e-300))

    def least(self, tolerance):
        """The least value of a profile of the grid in which no agent gains more than the tolerance."""
        return self.value[self.gain <= tolerance].min(initial=np.inf)


@pytest.mark.slow
@pytest.mark.parametrize("compared", [2, 3])
def test_no_profile_of_a_fine_grid_is_worth_less(compared):
    """Of all profiles of the grid with small gains, none is below the bound, and some are near it."""
    near = tried = 0
    for seed in range(120 if NIGHTLY else 12):
        game = biased(seed, own=(0.1, 1.0)[seed % 2], XB=2, A=2)
        grid = Grid(game, compared, 16)
        if grid.full - grid.none < 1e-3 or grid.ranges.min() < 1e-3:
            continue
        for tolerance in (1e-9, 0.01, 0.1):
            found = em.equilibrium_bounds(game, em.Comparison(compared), tolerance=tolerance)
            least = grid.least(tolerance)
            assert least >= found.at_least - 1e-6, (seed, tolerance)
            if tolerance == 0.1:
                tried += 1
                near += least <= found.at_least + 0.25 * (grid.full - grid.none)
    assert tried >= 5
    assert near >= 0.75 * tried


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("agents", [2, 3])
def test_of_all_agents_it_is_selection(seed, agents):
    game = biased(seed, K=agents)
    for user in (PLAIN, em.Conservative(PLAIN, 0.6), em.BaseRateNeglect(PLAIN, 0.9)):
        exact, found = em.stability(game, user=user), em.equilibrium_bounds(game, user=user)
        assert found.at_least == pytest.approx(exact.worst, abs=1e-6)
        assert found.best == pytest.approx(exact.best, abs=1e-7)
        same = em.equilibrium_bounds(game, em.Comparison(agents), user)
        assert same.at_least == found.at_least


@pytest.mark.parametrize("seed", range(4))
def test_one_that_is_met_is_a_monopolist(seed):
    game = biased(seed)
    found = em.equilibrium_bounds(game, em.Comparison(1))
    alone = [em.stability(em.Game(game.prior, game.user_utility, own[None])) for own in game.agent_utilities]
    assert found.at_least == pytest.approx(np.mean([one.worst for one in alone]), abs=1e-6)
    assert found.best == pytest.approx(np.mean([one.best for one in alone]), abs=1e-6)
    assert found.worst_found == pytest.approx(found.at_least, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("compared", [2, 3])
def test_the_search_for_the_best_finds_the_largest_value(seed, compared):
    """What is proved of the best equilibrium, found by the same search, and by a certificate where all reveal."""
    game = biased(seed, K=4, XB=2 + seed % 2, A=2 + seed % 2)
    found = em.equilibrium_bounds(game, em.Comparison(compared))
    certificate = em.certify(game, em.full_revelation(4, 2 + seed % 2, 2 + seed % 2), em.Comparison(compared), PLAIN)
    assert certificate.user == pytest.approx(found.best, abs=1e-9)
    assert certificate.gain_upper.max() <= 1e-7
    check = make_check(em.reduce_game(batch_of([game]), np), 0, em.Selection(), PLAIN)
    ends = check.least_value, check.most_value
    if ends[1] - ends[0] < 1e-6:
        return
    curves = [trace(check.lp, agent, *ends, exactly=True) for agent in check.game.agents]
    p = chances(4, compared)
    search = ComparisonSearch(check.game, check.lp, check.lp, curves, ends, p[p > 0], np.zeros(4))
    bound, complete = search.extreme(1.0, 5000, lambda *_: True)
    assert complete
    assert bound == pytest.approx(ends[1], abs=1e-6)


def test_what_a_deviator_can_have_between_two_values():
    """F is the largest e_i on the interval, in front of its top, behind it and around it."""
    game = biased(0)
    aligned = em.Game(game.prior, game.user_utility, np.stack([game.user_utility, *game.agent_utilities[1:]]))
    check = make_check(em.reduce_game(batch_of([aligned]), np), 0, em.Selection(), PLAIN)
    low, high = ends = check.least_value, check.most_value
    curves = [trace(check.lp, agent, *ends, exactly=True) for agent in check.game.agents]
    search = ComparisonSearch(check.game, check.lp, check.lp, curves, ends, chances(3, 2)[:2], np.zeros(3))
    inner = [c for found in search.conditions for c in found if None not in (c.lower, c.upper) and c.lower != c.upper]
    assert {condition.agent for condition in inner} == {0, 1, 2}
    for condition in inner:
        curve = search.exactly[condition.agent]
        for behind, before in itertools.combinations_with_replacement(np.linspace(low, high, 6), 2):
            at = {condition.lower: behind, condition.upper: before}
            found = min(piece.at(np.array([at[rank]]))[0] for piece, rank in search._pieces(condition))
            inside = [behind, before, *curve.v[(curve.v > behind) & (curve.v < before)]]
            assert found == pytest.approx(curve.at(np.array(inside)).max(), abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("family", em.FAMILIES if NIGHTLY else ["shared_bias", "opposed"])
@pytest.mark.parametrize(("agents", "compared"), [(3, 1), (3, 2), (4, 2), (4, 3)] if NIGHTLY else [(3, 2)])
def test_certified_profiles_are_worth_no_less(family, agents, compared):
    """Whatever a search finds, by play or by best responses, with the gains that are certified."""
    count, protocol = 72 if NIGHTLY else 3, em.Comparison(compared)
    games = em.random_games(jax.random.key(agents), count, family=family, agents=agents, states=3, actions=3)
    for solver in (em.GradientPlay(), em.BestResponseDynamics()):
        solution = em.solve(games, protocol, PLAIN, key=jax.random.key(1), starts=3, solver=solver)
        found = em.certify(games, solution.schemes, protocol, PLAIN)
        share = (found.gain_upper / np.where(found.payoff_range > 0, found.payoff_range, np.inf)).max(-1)
        for n, tolerance in itertools.product(range(count), (1e-7, 1e-3, 0.05)):
            values = found.user[:, n][share[:, n] <= tolerance]
            if len(values):
                bounds = em.equilibrium_bounds(games[n], protocol, tolerance=1.01 * tolerance)
                assert values.min() >= bounds.at_least - 2e-6
                assert values.max() <= bounds.best + 2e-6


@pytest.mark.slow
@pytest.mark.parametrize(("agents", "compared"), [(3, 2), (4, 2), (4, 3)])
def test_the_bound_is_attained(agents, compared):
    """By profiles that are certified with the public function, at the bound or near it; some below V_full."""
    below = 0
    for seed in range(40 if NIGHTLY else 4):
        game = biased(seed, K=agents)
        found = em.equilibrium_bounds(game, em.Comparison(compared))
        assert found.complete
        spread = max(1e-6, found.full_information - found.no_information)
        assert abs(found.worst_found - found.at_least) <= 1e-3 * spread
        below += found.at_least < found.best - 0.01 * spread
    assert below >= 1


@pytest.mark.slow
def test_it_may_be_worth_less_than_in_selection():
    """An agent that reveals is not heard where it is not met."""
    game = random_game(2, K=3)
    exact, found = em.stability(game), em.equilibrium_bounds(game, em.Comparison(2))
    assert found.worst_found < exact.worst - 0.05
    assert found.at_least == pytest.approx(found.worst_found, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_units(seed):
    """Values are in the user's unit, and do not depend on those of the agents."""
    game = biased(seed)
    scales = np.array([1e-3, 1.0, 40.0])[:, None, None]
    other = em.Game(game.prior, 100 * game.user_utility - 7, scales * game.agent_utilities + 3)
    one, two = (em.equilibrium_bounds(x, em.Comparison(2)) for x in (game, other))
    for name in ("at_least", "best", "no_information", "full_information"):
        assert getattr(two, name) == pytest.approx(100 * getattr(one, name) - 7, abs=1e-4), name
    assert two.worst_found == pytest.approx(100 * one.worst_found - 7, abs=1e-2)


def test_information_worth_nothing():
    game = random_game(0, K=3)
    idle = em.Game(game.prior, np.zeros((3, 3)), game.agent_utilities)
    found = em.equilibrium_bounds(idle, em.Comparison(2))
    assert found.at_least == found.worst_found == found.best == found.no_information
    assert np.isnan(found.normalise(found.best))
    assert set(found.to_pandas()) == {column.name for column in columns.BOUNDS}


@pytest.mark.slow
def test_a_batch_and_a_malformed_game():
    games = batch_of([biased(seed, XB=2, A=2) for seed in range(4)])
    utility = games.agent_utilities.copy()
    utility[1, 0, 0, 0] = np.inf
    done = []
    bad = em.Game(games.prior, games.user_utility, utility, check="shapes")
    found = em.equilibrium_bounds(bad, em.Comparison(2), progress=done.append)
    assert sum(done) == 4
    assert list(found.result == em.Result.MALFORMED) == [False, True, False, False]
    assert np.isnan(found.at_least[1])
    for n in (0, 2, 3):
        assert found.at_least[n] == em.equilibrium_bounds(games[n], em.Comparison(2)).at_least
    few = em.equilibrium_bounds(games[0], em.Comparison(2), most_lps=1)
    assert few.at_least <= found.at_least[0] + 1e-9


def test_what_is_refused():
    game = em.catalog.judge(prosecutors=3)
    with pytest.raises(ValueError, match="protocol, user"):
        em.equilibrium_bounds(game, em.Pooled())
    with pytest.raises(ValueError, match="protocol, user"):
        em.equilibrium_bounds(game, em.Comparison(2), em.QuantalUser(3.0))
    with pytest.raises(ValueError, match="temperature"):
        em.equilibrium_bounds(game, em.Comparison(2, 0.1))
    with pytest.raises(ValueError, match="orders"):
        em.equilibrium_bounds(em.catalog.judge(prosecutors=8), em.Comparison(4))
    with pytest.raises(ValueError, match="compared"):
        em.equilibrium_bounds(game, em.Comparison(4))
    with pytest.raises(ValueError, match="tolerance"):
        em.equilibrium_bounds(game, em.Comparison(2), tolerance=-1.0)
