"""Users who misread beliefs, against brute force: exact gains, guarantees, gradients, and the plain user as a case."""

import itertools

import jax
import numpy as np
import pytest
from support.games import batch_of, padded, random_game, switched

import emalign_jax as em

pytestmark = pytest.mark.host_only

RATIONAL, QUANTAL = em.RationalUser(ties="lowest"), em.QuantalUser(4.0)
FOR_AGENTS = em.RationalUser()
TALK = em.Conversation(2, 2)


def another_prior(game, seed, share=0.6):
    """A prior of the user's own, positive where that of the game is."""
    drawn = np.random.default_rng(seed).dirichlet(np.full(game.prior.size, 0.7)).reshape(game.prior.shape)
    return share * drawn + (1 - share) * game.prior


def misreading(user, game, seed):
    """Users who misread beliefs in all ways: too little, too much, never, by a prior of their own, and by both."""
    own = em.SubjectivePrior(user, another_prior(game, seed))
    return [*(em.Conservative(user, w) for w in (0.0, 0.4, 1.8)), own, em.Conservative(own, 0.6)]


def told(game, user, scheme, favour=None):
    """The distribution over actions [XA, XB, A] if the user hears one scheme [XB, S], by loops over posteriors.

    favour: the utility [A, Y] of the agent for which ties are broken; otherwise the lowest action
    """
    prior, q = np.asarray(game.prior), np.zeros((*game.prior.shape[:2], game.actions))
    weight, own = 1.0, prior
    if isinstance(user, em.Conservative):
        weight, user = float(user.weight), user.user
    if isinstance(user, em.SubjectivePrior):
        own, user = np.asarray(user.prior), user.user
    for xa, s in itertools.product(range(len(prior)), range(scheme.shape[1])):
        heard, alone = scheme[:, s] @ own[xa], own[xa].sum(0)  # [Y]
        if not scheme[:, s].any():
            continue
        belief = weight * heard / heard.sum() + (1 - weight) * alone / alone.sum()
        worth = np.asarray(game.user_utility) @ belief
        if isinstance(user, em.QuantalUser):
            odds = np.exp(float(user.precision) * (worth - worth.max()))
            response = odds / odds.sum()
        else:
            tied = worth >= worth.max() - 1e-9
            if favour is not None:
                tied = np.where(tied, favour @ (scheme[:, s] @ prior[xa]), -np.inf)
            response = np.eye(game.actions)[tied.argmax()]
        q[xa] += scheme[:, s][:, None] * response
    return q


def worth(game, q, utility):
    """The expectation of a utility [A, Y] under the games' prior."""
    return float(np.einsum("xba,xby,ay->", q, game.prior, utility))


def alone(game, user, scheme, i, favours=False):
    """V and agent i's payoff if the user hears agent i alone."""
    q = told(game, user, scheme, np.asarray(game.agent_utilities[i]) if favours else None)
    return worth(game, q, game.user_utility), worth(game, q, game.agent_utilities[i])


def joint(schemes):
    """The scheme of all agents together, a message of which is a message of each."""
    whole = np.ones((schemes.shape[1], 1))
    for scheme in schemes:
        whole = (whole[:, :, None] * scheme[:, None]).reshape(len(scheme), -1)
    return whole


def grid(points):
    """Schemes [2, 3] of two x_B: probabilities of two messages on a grid, and a third message that reveals more."""
    steps = np.linspace(0, 1, points)
    for a, b in itertools.product(steps, steps):
        yield np.array([[a, 1 - a, 0], [b, 1 - b, 0]])
        yield np.array([[a, 1 - a, 0], [b, 0, 1 - b]])
        yield np.array([[a, 0, 1 - a], [b, 1 - b, 0]])


@pytest.mark.x64
@pytest.mark.parametrize(
    "which", [pytest.param(slice(1, 4), marks=pytest.mark.slow), slice(4, 5)], ids=["one way", "both ways"]
)
@pytest.mark.parametrize("user", [pytest.param(RATIONAL, marks=pytest.mark.slow), QUANTAL], ids=["rational", "quantal"])
def test_payoffs_are_those_of_misread_posteriors(user, which):
    rng = np.random.default_rng(0)
    for seed in range(2):
        game = random_game(seed, XA=2)
        schemes = rng.dirichlet(np.ones(3), (2, 3))
        for one in misreading(user, game, seed)[which]:
            got = em.payoffs(game, schemes, em.Pooled(), one)
            q = told(game, one, joint(schemes))
            expected = worth(game, q, game.user_utility), [worth(game, q, u) for u in game.agent_utilities]
            np.testing.assert_allclose(got.user, expected[0], rtol=0, atol=1e-12)
            np.testing.assert_allclose(got.agents, expected[1], rtol=0, atol=1e-12)
            values = [alone(game, one, scheme, i)[0] for i, scheme in enumerate(schemes)]
            np.testing.assert_allclose(
                em.payoffs(game, schemes, em.Selection(), one).user, max(values), rtol=0, atol=1e-12
            )


@pytest.mark.slow
@pytest.mark.x64
def test_what_is_perceived_is_expected_under_the_beliefs():
    """A user who never learns believes to get what it would without messages; one with a prior of its own is right if
    the world is as it believes."""
    game = random_game(3, XA=2)
    schemes = np.random.default_rng(1).dirichlet(np.ones(3), (2, 3))
    for protocol in (em.Pooled(), em.Selection(), em.Conversation(1, 1)):
        never = em.payoffs(game, schemes, protocol, em.Conservative(RATIONAL, 0.0))
        silent = em.payoffs(game, em.no_information(2, 3, 3), protocol, RATIONAL)
        np.testing.assert_allclose([never.user, never.perceived], [silent.user] * 2, rtol=0, atol=1e-12)
        own = another_prior(game, 1)
        if isinstance(protocol, em.Selection):  # who is picked depends on what the user gets
            schemes = np.repeat(schemes[:1], 2, 0)
        mine = em.payoffs(game, schemes, protocol, em.SubjectivePrior(QUANTAL, own))
        there = em.payoffs(em.Game(own, game.user_utility, game.agent_utilities), schemes, protocol, QUANTAL)
        np.testing.assert_allclose(mine.perceived, there.user, rtol=0, atol=1e-12)


PLAIN = [
    (em.Selection(), FOR_AGENTS), (em.Selection(), RATIONAL), (em.Selection(), QUANTAL), (em.Selection(0.2), QUANTAL),
    (em.Pooled(), RATIONAL), (em.Pooled(), QUANTAL), (em.Comparison(1), FOR_AGENTS), (TALK, QUANTAL), (TALK, RATIONAL),
    (em.Selection(then=TALK), FOR_AGENTS), (em.Selection(then=TALK), QUANTAL),
    (TALK, em.FixedReplies("truthful", QUANTAL)), (em.Selection(), em.SparsemaxUser(3.0)),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.x64
@pytest.mark.parametrize(("protocol", "user"), PLAIN)
def test_beliefs_as_they_should_be_are_those_of_the_plain_user(protocol, user):
    games = batch_of([random_game(seed, XA=2, XB=2, A=2) for seed in range(2)])
    M = 2
    rng = np.random.default_rng(0)
    schemes = rng.dirichlet(np.ones(M), (2, 2, protocol.rows(games, M)))
    same = em.Conservative(em.SubjectivePrior(user, games.prior), 1.0)

    def found(user):
        yield em.payoffs(games, schemes, protocol, user)
        if user.is_smooth and protocol.is_smooth:
            yield em.pseudo_gradient(games, schemes, protocol, user)
        yield em.certify(games, schemes, protocol, user)
        if protocol.full_revelation_is_heard(2) and isinstance(user.plain, em.RationalUser | em.QuantalUser):
            yield em.worst_case(games, 0.0, user, protocol)
            yield em.coverage(games, 0.0, user, protocol)

    for expected, got in zip(found(user), found(same), strict=True):
        for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-12)


def in_selection(game, user, schemes, compared=None):
    """The agents' payoffs if the best of `compared` agents, drawn at random, is picked (None: of all), in loops."""
    favours, K = user.plain.favours, len(schemes)
    values = np.array([alone(game, user, scheme, i, favours)[0] for i, scheme in enumerate(schemes)])
    subsets = list(itertools.combinations(range(K), compared or K))
    total = np.zeros(K)
    for subset in map(list, subsets):
        picked = subset[int((values[subset] >= values[subset].max() - 1e-13).argmax())]
        q = told(game, user, schemes[picked], np.asarray(game.agent_utilities[picked]) if favours else None)
        total += [worth(game, q, utility) for utility in game.agent_utilities]
    return total / len(subsets)


def in_comparison(game, user, schemes):
    return in_selection(game, user, schemes, 2)


def in_pooled(game, user, schemes):
    q = told(game, user, joint(schemes))
    return np.array([worth(game, q, utility) for utility in game.agent_utilities])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("protocol", "user", "payoffs"),
    [
        (em.Selection(), FOR_AGENTS, in_selection), (em.Selection(), RATIONAL, in_selection),
        (em.Selection(), QUANTAL, in_selection), (em.Pooled(), RATIONAL, in_pooled), (em.Pooled(), QUANTAL, in_pooled),
        (em.Comparison(2), FOR_AGENTS, in_comparison),
    ],
    ids=[
        "selection, agents", "selection, lowest", "selection, quantal", "pooled, lowest", "pooled, quantal",
        "comparison",
    ],
)  # fmt: skip
def test_gains_are_attained_and_no_scheme_of_a_grid_gains_more(protocol, user, payoffs, seed):
    K = 3 if isinstance(protocol, em.Comparison) else 2
    game = random_game(seed, K=K, XB=2, A=3, Y=2, matching=2.5)
    schemes = np.random.default_rng(seed).dirichlet(np.ones(2), (K, 2))
    for one in misreading(user, game, seed):
        found, now = em.certify(game, schemes, protocol, one), payoffs(game, one, schemes)
        np.testing.assert_allclose(found.agents, now, rtol=0, atol=1e-9)
        ranges = np.maximum(found.payoff_range, 1e-3)
        assert (found.gain_upper - found.gain_lower <= 2e-3 * ranges).all()
        for i in range(K):
            best = em.best_response(game, schemes, i, protocol, one)
            attained = payoffs(game, one, switched(padded(*schemes), i, best.scheme))[i]
            assert attained == pytest.approx(best.value, abs=1e-5 * ranges[i])
            assert best.value - now[i] == pytest.approx(found.gain_lower[i], abs=2e-3 * ranges[i])
            tried = [payoffs(game, one, switched(padded(*schemes), i, scheme))[i] for scheme in grid(8)]
            assert max(tried) - now[i] <= found.gain_upper[i] + 1e-7


def as_believed(game, believed):
    """The game in the eyes of the user, with agents that value it as they do: outcomes name the cell (x_A, x_B) too,
    the prior is `believed`, and agents' utilities are multiplied by how much likelier the outcome is than believed."""
    XA, XB = game.prior.shape[:2]
    cells = np.eye(XA * XB).reshape(XA, XB, XA * XB, 1)
    prior = (believed[:, :, None] * cells).reshape(XA, XB, -1)
    likelier = (np.where(believed > 0, game.prior / np.where(believed > 0, believed, 1), 0)).ravel()
    user, agents = (np.tile(x, XA * XB) for x in (game.user_utility, game.agent_utilities))
    return em.Game(prior, user, agents * likelier)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("protocol", "M", "user"),
    [
        (em.Pooled(), 2, RATIONAL), (em.Pooled(), 2, QUANTAL), (em.Conversation(2, 1), 2, RATIONAL),
        (TALK, 2, RATIONAL), (TALK, 2, QUANTAL), (TALK, 2, em.FixedReplies("truthful", RATIONAL)),
    ],
)  # fmt: skip
def test_agents_do_as_in_the_game_that_the_user_sees(protocol, M, user):
    """There the plain user does the same, so that all checks of agents' gains must agree."""
    for seed in range(2):
        game = random_game(seed, XA=2, XB=2, A=2, Y=2, matching=2.0)
        schemes = np.random.default_rng(seed).dirichlet(np.ones(M), (2, protocol.rows(game, M)))
        own = em.SubjectivePrior(user, another_prior(game, seed))
        for one in (own, em.Conservative(own, 0.4)):
            there = as_believed(game, one.believed_prior(game.prior, np))
            got, expected = em.certify(game, schemes, protocol, one), em.certify(there, schemes, protocol, user)
            np.testing.assert_allclose(got.agents, expected.agents, rtol=0, atol=1e-9)
            # Lower ends are found by searches, which start from what is good for the user, too.
            for name, error in {"gain_lower": 1e-2, "gain_upper": 1e-3, "payoff_range": 1e-3}.items():
                np.testing.assert_allclose(
                    getattr(got, name), getattr(expected, name), rtol=0, atol=error, err_msg=name
                )


COUNTS = [200, pytest.param(2000, marks=pytest.mark.nightly)]


@pytest.mark.slow
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("protocol", [em.Selection(), em.Pooled()], ids=["selection", "pooled"])
@pytest.mark.parametrize("user", [RATIONAL, QUANTAL], ids=["rational", "quantal"])
def test_no_profile_is_worth_less_than_both_guarantees(user, protocol, count):
    """Of random games with random weights and priors: at random profiles the certificate's guarantee and theorem, and
    `worst_case` with what each agent gains by revealing."""
    rng = np.random.default_rng(count)
    games = batch_of([random_game(seed, XB=2, A=3, Y=3, shared=1.0) for seed in range(count)])
    schemes = rng.dirichlet(np.full(3, 0.5), (count, 2, 2))
    own = np.stack([another_prior(game, seed, rng.uniform()) for seed, game in enumerate(games)])
    weights = rng.uniform(0, 2, count)
    one = em.Conservative(em.SubjectivePrior(user, own), weights)
    found = em.certify(games, schemes, protocol, one)
    assert np.isfinite(found.guarantee).all()
    assert (found.user >= found.guarantee - 1e-6).all()
    assert (found.user >= found.theorem - 1e-6).all()
    gains = np.zeros((count, 2))
    for i in range(2):
        reveals = schemes.copy()
        reveals[:, i] = np.eye(2, 3)
        with jax.enable_x64(True):
            after = np.asarray(em.payoffs(games, reveals, protocol, one).agents)
        gains[:, i] = np.maximum(after[:, i] - found.agents[:, i], 0)
    assert (found.user >= em.worst_case(games, gains, one, protocol) - 1e-6).all()


@pytest.mark.slow
@pytest.mark.x64
@pytest.mark.parametrize(
    ("protocol", "rows"),
    [(em.Pooled(), 3), (em.Selection(0.3), 3), (em.Comparison(1, 0.3), 3), (TALK, 15), (em.Selection(0.3, TALK), 15)],
    ids=["pooled", "selection", "comparison", "conversation", "selection, then conversation"],
)
def test_gradients_are_finite_differences(protocol, rows):
    step, rng = 1e-6, np.random.default_rng(2)
    game = random_game(1, XA=2)
    schemes = rng.dirichlet(np.ones(2), (2, rows))
    toward = rng.normal(size=schemes.shape)
    one = em.Conservative(em.SubjectivePrior(QUANTAL, another_prior(game, 1)), 1.8)
    slopes = np.einsum("irm,irm->i", em.pseudo_gradient(game, schemes, protocol, one), toward)
    for i in range(2):
        moved = np.zeros_like(schemes)
        moved[i] = step * toward[i]
        up, down = (float(em.payoffs(game, x, protocol, one).agents[i]) for x in (schemes + moved, schemes - moved))
        assert slopes[i] == pytest.approx((up - down) / (2 * step), abs=1e-6)


def test_a_tie_that_is_broken_for_the_agent_pays_it_no_more():
    """A user who never learns holds both actions to be equally good. Agent 0 wants action 0 whatever x_B is: its LP may
    recommend action 1, which is worth more to the user, but then this agent's tie is broken for action 0."""
    game = em.Game(np.eye(2)[None] / 2, np.eye(2), [[[1, 1], [0, 0]], [[1, 0], [0, 0.9]]])
    schemes = np.array([[[1, 0], [1, 0]], [[0.8, 0.2], [0.2, 0.8]]])
    never = em.Conservative(FOR_AGENTS, 0.0)
    found = em.certify(game, schemes, em.Selection(), never)
    np.testing.assert_allclose([found.user, *found.agents], [0.8, 0.5, 0.76], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.gain_lower, [0, 0.19], rtol=0, atol=1e-6)
    assert em.best_response(game, schemes, 0, em.Selection(), never).value == pytest.approx(0.5, abs=1e-9)


def test_a_supremum_at_ties_against_the_agent_is_approached():
    """With a large weight LPs end at ties which the user breaks for the agent, and which must then be avoided."""
    agents = [[[1, 1], [0, -1], [1, 0]], [[-1, -1], [0, 0], [1, 0]]]
    game = em.Game(np.array([[[2, 2], [1, 2]]]) / 7, [[0, 1], [1, -1], [-1, 1]], agents)
    revealed = np.stack([np.eye(2)] * 2)
    found = em.certify(game, revealed, em.Selection(), em.Conservative(FOR_AGENTS, 1e6))
    assert found.gain_upper[1] > 0.28
    np.testing.assert_allclose(found.gain_lower, found.gain_upper, rtol=0, atol=1e-6)
