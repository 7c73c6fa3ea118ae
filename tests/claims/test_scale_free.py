"""Units and ties by brute force: payoffs of integer games in exact fractions; transfers, budgets and guarantees."""

import itertools
from fractions import Fraction

import jax
import numpy as np
import pytest

import emalign_jax as em

pytestmark = pytest.mark.host_only

FACTORS = [3.0, 1 / 3, 0.1, 7e-9, 1e-12, 1.7e6, 1e12]


def parts(rng, whole, *shape):
    """Fractions with this denominator that sum to 1 over the last axis."""
    counts = rng.multinomial(whole, np.ones(shape[-1]) / shape[-1], shape[:-1])
    return np.vectorize(lambda n: Fraction(int(n), whole), otypes=[object])(counts)


def exact_payoffs(prior, u, U, schemes, ties, pooled):
    """User value and agents' payoffs in rational arithmetic, by the definitions of section 2 of docs/model.md."""
    (XA, XB, _), (K, M), A = prior.shape, schemes.shape[::2], len(u)

    def act(after, favour):
        """The distribution over actions at the unnormalised belief `after` [Y]."""
        worth = [sum(after * u[a]) for a in range(A)]
        tied = [a for a in range(A) if worth[a] == max(worth)]
        if ties == "agents":
            own = [sum(after * U[favour, a]) for a in tied]
            tied = [a for a, x in zip(tied, own, strict=True) if x == max(own)][:1]
        tied = {"lowest": tied[:1], "highest": tied[-1:]}.get(ties, tied)
        return {a: Fraction(1, len(tied)) for a in tied}

    def paid(likelihoods, favour):
        """(user value, agents' payoffs) after messages of which each has this likelihood by x_B."""
        user, agents = Fraction(0), [Fraction(0)] * K
        for likelihood, xa in itertools.product(likelihoods, range(XA)):
            after = sum(likelihood[b] * prior[xa, b] for b in range(XB))
            for a, share in act(after, favour).items():
                user += share * sum(after * u[a])
                agents = [own + share * sum(after * U[i, a]) for i, own in enumerate(agents)]
        return user, agents

    if pooled:
        every = [
            [np.prod([schemes[i, b, m[i]] for i in range(K)]) for b in range(XB)]
            for m in itertools.product(range(M), repeat=K)
        ]
        each = [paid(every, i) for i in range(K)]
        return each[0][0], [each[i][1][i] for i in range(K)]
    each = [paid(list(schemes[j].T), j) for j in range(K)]
    return max(each, key=lambda x: x[0])  # the first of equals


@pytest.mark.slow
@pytest.mark.parametrize("ties", ["agents", "lowest", "highest", "uniform"])
@pytest.mark.parametrize("pooled", [False, True])
def test_integer_games_pay_the_fractions_in_any_unit(pooled, ties):
    """The lowest index within double ties, whatever both utilities are multiplied by, in payoffs and certificates."""
    rng = np.random.default_rng(2)
    protocol, user = em.Pooled() if pooled else em.Selection(), em.RationalUser(ties)
    drawn, expected = [], []
    for _ in range(10 if pooled else 60):  # tenths and thirds, which floats do not have
        prior, schemes = parts(rng, 10, 6).reshape(1, 2, 3), parts(rng, 3, 2, 2, 2)
        u, U = rng.integers(0, 2, (4, 3)).astype(object), rng.integers(0, 3, (3, 4, 3)).astype(object)[:2]
        u[2], u[3], U[0, 3] = u[1, [1, 0, 2]], u[1], U[0, 1]  # double ties of the user and agent 0
        value, agents = exact_payoffs(prior, u, U, schemes, ties, pooled)
        drawn.append((prior, u, U, schemes))
        expected.append([value, *agents])
    prior, u, U, schemes = (np.stack(x).astype(float) for x in zip(*drawn, strict=True))
    expected = np.array(expected, float)
    for factor in (1.0, *FACTORS):
        own = np.array([1, 7.3])[:, None, None] * factor  # agents have units of their own
        many = em.Game(prior, factor * u, own * U)
        with jax.enable_x64(True):
            played = em.payoffs(many, schemes, protocol, user)
        every = [played]
        if ties == "agents" and not pooled and factor in (1.0, 3.0):  # where certificates take little time
            every.append(em.certify(many, schemes, protocol, user))
        for found in every:
            np.testing.assert_allclose(np.asarray(found.user) / factor, expected[:, 0], atol=1e-12)
            np.testing.assert_allclose(np.asarray(found.agents) / own[:, 0, 0], expected[:, 1:], atol=1e-12)


def transfer_games():
    rng = np.random.default_rng(0)
    for seed in range(4):
        K, Y = 2 + seed % 2, 3
        prior = rng.dirichlet(np.ones(6)).reshape(1, 2, 3) if seed % 2 else np.diag(rng.dirichlet(np.ones(3)))[None]
        yield em.Game(prior, rng.normal(size=(3, Y)), rng.normal(size=(K, 3, Y)))


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1e-12, 1e-8, 1e-3, 1e3, 1e8, 1e12])
def test_transfers_in_any_unit(factor):
    for game in transfer_games():
        scaled = em.Game(game.prior, factor * game.user_utility, factor * game.agent_utilities)
        for kind, weights in itertools.product(("outcome", "action"), ("simplex", "cone")):
            plain = em.least_budget(game, kind=kind, weights=weights)
            if np.isfinite(plain):
                other = em.least_budget(scaled, kind=kind, weights=weights)
                np.testing.assert_allclose(other / factor, plain, rtol=1e-6, atol=1e-9)
        # the user's and the agents' units apart
        apart = em.Game(game.prior, game.user_utility, factor * game.agent_utilities)
        for kind in ("outcome", "action"):
            plain = em.best_transfers(game, 0.1, kind=kind)
            for other, unit in ((scaled, factor), (apart, 1.0)):
                found = em.best_transfers(other, 0.1 * factor, kind=kind)
                np.testing.assert_allclose(found.guarantee / unit, plain.guarantee, atol=1e-6)
                np.testing.assert_allclose(found.without / unit, plain.without, atol=1e-6)


@pytest.mark.parametrize("ratio", [1e-20, 1e-12, 1e-6, 1e6, 1e12, 1e20])
def test_budgets_where_the_user_has_far_more_or_less_at_stake(ratio):
    """Beside u * ratio the agents' utilities are negligible or dominate; the budget is that of the larger part."""
    for game in transfer_games():
        u, U = game.user_utility * ratio, game.agent_utilities
        found = em.least_budget(em.Game(game.prior, u, U))
        if ratio > 1:
            np.testing.assert_allclose(found, np.ptp(u, axis=0).max() / 2, rtol=10 / ratio + 1e-9)
        else:
            most_alike = em.least_budget(em.Game(game.prior, np.zeros_like(u), U))
            np.testing.assert_allclose(found, most_alike, rtol=20 * ratio + 1e-7)
        assert em.least_budget(em.Game(game.prior, u, U), weights="cone") <= found * (1 + 1e-9)


def promised(game):
    """Every number that depends on outcomes and not on schemes alone."""
    certificate = em.certify(game, np.ones((game.agents, game.agent_features, 1)), em.Selection(), em.RationalUser())
    transfers = em.best_transfers(game, 0.1)
    return {
        "theorem": certificate.theorem, "guarantee": certificate.guarantee, "worst case": em.worst_case(game),
        "slack": em.coverage(game).slack, "budget": em.least_budget(game),
        "budget in the cone": em.least_budget(game, weights="cone"), "best transfers": transfers.guarantee,
        "without": transfers.without, "worst": em.stability(game).worst, "range": certificate.payoff_range,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("size", [1.0, 1e3, 1e9, 1e30, 1e90])
def test_impossible_outcomes_promise_nothing(size):
    """An outcome of probability zero, whatever it would be worth, changes no number."""
    rng = np.random.default_rng(1)
    for game in transfer_games():
        (A, _), K = game.user_utility.shape, game.agents
        more = em.Game(
            np.concatenate([game.prior, np.zeros((*game.prior.shape[:2], 1))], -1),
            np.concatenate([game.user_utility, size * rng.normal(size=(A, 1))], -1),
            np.concatenate([game.agent_utilities, size * rng.normal(size=(K, A, 1))], -1),
        )
        other = promised(more)
        for name, value in promised(game).items():
            np.testing.assert_allclose(other[name], value, atol=1e-7, err_msg=name)
