"""What the theorem promises, on random games and profiles; both bounds against LPs built by hand."""

import jax
import numpy as np
import pytest
from scipy.optimize import linprog
from support.games import check

import emalign_jax as em
from emalign_jax.exact.checks.base import make_check
from emalign_jax.exact.guarantees import coverage_lp
from emalign_jax.exact.guarantees.bounds import theorem_bound, worst_distribution

pytestmark = pytest.mark.host_only

RATIONAL = em.RationalUser("agents")


def hull_game(seed, K=3, XA=1, XB=3, A=3):
    """U_i = u + noise whose mean under known `weights` is zero, plus an offset c(y): eps = 0."""
    rng = np.random.default_rng(seed)
    prior = rng.dirichlet(np.ones(XA * XB * XB)).reshape(XA, XB, XB) * (0.1 + np.eye(XB))
    u, noise, weights = rng.normal(size=(A, XB)), rng.normal(size=(K, A, XB)), rng.dirichlet(np.ones(K))
    U = u + noise - np.tensordot(weights, noise, 1) + rng.normal(size=(K, 1, XB))
    return em.Game(prior / prior.sum(), u, U), weights


def some_profiles(rng, exact, game, M):
    K, XB = game.agents, game.agent_features
    yield rng.dirichlet(np.full(M, 0.4), (K, XB))
    yield em.full_revelation(K, XB, M)
    monopoly = np.zeros((K, XB, M))
    for i in range(K):
        scheme = exact.monopolist(i).scheme
        monopoly[i, :, : scheme.shape[1]] = scheme
    yield monopoly


OFTEN = {"hull": (), "opposed": pytest.mark.slow}


@pytest.mark.parametrize("user", [RATIONAL, em.QuantalUser(8.0)], ids=["rational", "quantal"])
@pytest.mark.parametrize("protocol", [em.Selection(), em.Pooled()], ids=["selection", "pooled"])
@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=OFTEN.get(f, pytest.mark.nightly)) for f in sorted(em.FAMILIES)],
)
def test_no_profile_is_worse_than_promised(family, protocol, user):
    """Whatever jax draws, both bounds must hold."""
    rng = np.random.default_rng(0)
    games = em.random_games(jax.random.key(3), 2, family=family, agents=2, states=3, actions=3, user_features=2)
    for k in range(2):
        game = games[k]
        for schemes in some_profiles(rng, check(game, protocol, user), game, 4):
            c = em.certify(game, schemes, protocol, user)
            assert c.result in (em.Result.CERTIFIED, em.Result.UNREFUTED, em.Result.ABOVE_TOLERANCE)
            assert c.user >= c.guarantee - 1e-6  # the tie tolerance, and feasibility of the LP
            assert c.user >= c.theorem - (1e-9 if user is not RATIONAL else 1e-6)
            assert c.theorem <= c.full_information + 1e-9


def by_hand(game, full, gains):
    """min 2 eps + w e over w >= 0, c(y), eps >= 0, one pair of rows a cell."""
    K, A, Y = game.agent_utilities.shape
    rows, bounds = [], []
    for a in range(A):
        for y in range(Y):
            fit = [*game.agent_utilities[:, a, y], *np.eye(Y)[y]]
            rows += [[*fit, -1.0], [*(-x for x in fit), -1.0]]
            bounds += [game.user_utility[a, y], -game.user_utility[a, y]]
    cost = [*gains, *[0.0] * Y, 2.0]
    limits = [(0, None)] * K + [(None, None)] * Y + [(0, None)]
    return full - linprog(cost, A_ub=rows, b_ub=bounds, bounds=limits).fun


@pytest.mark.parametrize("seed", range(5))
def test_theorem_in_hull_games(seed):
    """eps = 0 at the known weights: V_full - w e is a bound, and exact when e = 0."""
    game, weights = hull_game(seed)
    u, U = game.user_utility, game.agent_utilities
    nothing = theorem_bound(u, U, 1.7, np.zeros(3))
    assert nothing.value == pytest.approx(1.7, abs=1e-8)
    assert nothing.eps == pytest.approx(0, abs=1e-8)
    gap = np.tensordot(nothing.weights, U, 1) - u
    np.testing.assert_allclose(gap - gap[:1], 0, atol=1e-7)  # the same for every action: an offset c(y)
    gains = np.random.default_rng(seed).uniform(0, 0.2, 3)
    found = theorem_bound(u, U, 1.7, gains)
    assert found.value >= 1.7 - weights @ gains - 1e-8
    assert found.value == pytest.approx(by_hand(game, 1.7, gains), abs=1e-7)
    assert found.weights.min() >= 0


@pytest.mark.parametrize("seed", range(5))
def test_theorem_in_any_game(seed):
    rng = np.random.default_rng(seed)
    game = em.Game(np.full((1, 3, 4), 1 / 12), rng.normal(size=(3, 4)), rng.normal(size=(2, 3, 4)))
    gains = rng.uniform(0, 1, 2)
    found = theorem_bound(game.user_utility, game.agent_utilities, 0.4, gains)
    assert found.value == pytest.approx(by_hand(game, 0.4, gains), abs=1e-7)
    assert found.value == pytest.approx(0.4 - 2 * found.eps - found.weights @ gains, abs=1e-8)


def test_prosecutor_against_defender_is_half_a_unit_from_the_hull():
    game = em.catalog.prosecutor_against_defender()
    found = theorem_bound(game.user_utility, game.agent_utilities, 1.0, np.zeros(2))
    assert found.eps == pytest.approx(0.5, abs=1e-9)
    assert found.value == pytest.approx(0, abs=1e-9)
    # the sharp bound is higher, for payoffs of .3 and .7 at least fix the probabilities of the verdicts
    small = em.reduce_game(game, np)
    sharp = worst_distribution(small, np.array([0.3, 0.7]), tie_tolerance=0.0)
    assert sharp.status == "Optimal"
    assert sharp.value > 0.7 - 1e-6


def linprog_worst_distribution(game, floors, obedient):
    """(user value, q[xa, xb, a]) of the distribution worst for the user, by linprog on the game's own arrays."""
    _, g, G, _ = em.reduce_game(game, np)
    XA, XB, A = g.shape
    cells = np.arange(g.size).reshape(g.shape)
    rows, bounds = list(-G.reshape(len(G), -1)), list(-floors)
    for xa in range(XA) if obedient else ():
        for a in range(A):
            for b in range(A):
                row = np.zeros(g.size)
                row[cells[xa, :, a]] = g[xa, :, b] - g[xa, :, a]
                rows.append(row)
                bounds.append(0.0)
    total = np.zeros((XA * XB, g.size))
    for k in range(XA * XB):
        total[k, cells.reshape(-1, A)[k]] = 1
    result = linprog(g.ravel(), A_ub=rows, b_ub=bounds, A_eq=total, b_eq=np.ones(XA * XB))
    assert result.status == 0
    return result.fun, result.x.reshape(g.shape)


@pytest.mark.parametrize("obedient", [True, False], ids=["rational", "quantal"])
@pytest.mark.parametrize("seed", range(4))
def test_the_sharp_bound_is_attained(seed, obedient):
    """A distribution that meets floors and obedience constraints is worth the bound: 1e-3 more would be false."""
    rng = np.random.default_rng(seed)
    game = em.Game(*(hull_game(seed, XA=2)[0].prior, rng.normal(size=(3, 3)), rng.normal(size=(2, 3, 3))))
    m, g, G, _ = em.reduce_game(game, np)
    informed = np.eye(3)[g.argmax(-1)]
    floors = (G * informed).sum((1, 2, 3)) - 0.1
    found = worst_distribution(em.ReducedGame(m, g, G, g), floors, tie_tolerance=0.0 if obedient else None)
    bound = found.value
    assert found.status == "Optimal"
    value, q = linprog_worst_distribution(game, floors, obedient)
    assert bound == pytest.approx(value, abs=1e-6)
    # the solver's distribution is checked here, because its status alone proves nothing
    np.testing.assert_allclose(q.sum(-1), 1, atol=1e-7)
    assert q.min() >= -1e-9
    assert ((G * q).sum((1, 2, 3)) >= floors - 1e-7).all()
    if obedient:
        kept = np.einsum("xba,xba->xa", q, g)
        switched = np.einsum("xba,xbd->xad", q, g)
        assert (kept[..., None] >= switched - 1e-7).all()
    assert (q * g).sum() < bound + 1e-3
    assert (q * g).sum() < (informed * g).sum() - 1e-3  # the bound says less than V_full here


@pytest.mark.slow
def test_the_guarantee_of_a_certificate_uses_the_profiles_payoffs():
    """Its floors are what agents get, or full revelation if less: rebuilt with linprog from the payoffs."""
    rng = np.random.default_rng(7)
    for seed in range(3):
        game, _ = hull_game(seed, XA=2)
        schemes = rng.dirichlet(np.ones(3), (3, 3))
        for protocol in (em.Selection(), em.Pooled()):
            c = em.certify(game, schemes, protocol, em.QuantalUser(9.0))
            g = em.reduce_game(game, np)
            mean = g.user / g.mass[..., None]
            q = np.exp(9 * (mean - mean.max(-1, keepdims=True)))
            q /= q.sum(-1, keepdims=True)
            assert c.full_information == pytest.approx((q * g.user).sum(), abs=1e-12)
            informed = (q * g.agents).sum((1, 2, 3))
            value, _ = linprog_worst_distribution(game, np.minimum(c.agents, informed), False)
            assert c.guarantee == pytest.approx(value, abs=1e-6)
            assert c.theorem == pytest.approx(
                by_hand(game, float(c.full_information), np.maximum(informed - c.agents, 0)), abs=1e-6
            )


DISASTERS = [  # one outcome is as bad under one action as it is rare: prior, user's utility, agents' utilities
    (
        [[0.0505, 0.0669, 0.00297], [0.00324, 0.146, 0.0116], [0.00643, 0.0275, 0.685]],
        [[-0.717, -8100000.0, -0.0952], [1.69, 1.04, -0.338], [1.18, -0.366, -0.197]],
        [
            [[0.593, 2.51, -0.0716], [1.99, -0.116, -8100000.0], [1.34, 0.803, 0.842]],
            [[-0.101, -1.48, 0.169], [-8100000.0, 1.91, 0.238], [0.453, 0.676, -0.548]],
        ],
    ),
    (
        [[7.12e-13, 0.0317, 6.38e-09], [2.46e-13, 0.936, 5.83e-08], [1.71e-13, 0.032, 1.07e-06]],
        [[-0.52, -0.946, 1.23], [-0.424, 0.429, 1.61], [0.723, 0.667, -624000.0]],
        [
            [[0.145, -2.42, 1.56], [-624000.0, 1.93, 4.35], [1.46, 1.65, 0.0345]],
            [[-1.11, -1.75, 0.681], [1.21, 0.164, 2.24], [-624000.0, 2.05, -0.451]],
        ],
    ),
]


@pytest.mark.parametrize("game", DISASTERS)
def test_bounds_are_tight_beside_disasters(game):
    """In units of the user, not of the disaster: multipliers of HiGHS are rounded where numbers of very different size
    meet."""
    prior, u, U = (np.array(x) for x in game)
    game = em.Game(prior[None] / prior.sum(), u, U)
    batch = em.reduce_game(em.Game(*(x[None] for x in (game.prior, u, U))), np)
    unit = make_check(batch, 0, em.Selection(), em.RationalUser()).form.user_unit
    assert 0 <= em.worst_case(game, exact=True) - em.worst_case(game) <= 1e-7 * unit  # what the tie tolerance is worth


@pytest.mark.parametrize("bound", [em.worst_case, em.coverage])
@pytest.mark.parametrize("protocol", [em.Selection(), em.Conversation(2, 2)])
def test_fixed_replies_are_refused_before_any_work(bound, protocol, monkeypatch):
    monkeypatch.setattr(coverage_lp, "_of_sound", None)
    user = em.FixedReplies("babbling", em.RationalUser(ties="lowest"))
    with pytest.raises(ValueError, match=r"^user: bounds of all equilibria know .*, got FixedReplies$"):
        bound(em.catalog.two_prosecutors(), 0.0, user, protocol)
