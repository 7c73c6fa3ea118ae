"""Sampled conversations against enumerated ones, and where nothing can be enumerated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import emalign_jax as em
from emalign_jax.protocols.sampled_conversation import _draw_index

X64 = jax.config.jax_enable_x64
XA, XB, Y, A, M = 2, 2, 3, 3, 2
NIGHTLY = [pytest.mark.slow, pytest.mark.nightly]
SEEDS = 100  # an average over as many estimates has a tenth of their error, known to 7 %
SMALL = 1e-9 if X64 else 2e-5  # rounding, beside which no error is measured

quantal = em.QuantalUser(4.0)
CASES = {  # agents, rounds, to, user
    "pooled": (3, 1, "each", quantal),
    "planning": (2, 2, "each", quantal),
    "planning, all": (3, 2, "all", quantal),
    "planning, 3 rounds": (2, 3, "all", quantal),
    "babbling": (2, 2, "each", em.FixedReplies("babbling", quantal)),
    "truthful": (2, 3, "each", em.FixedReplies("truthful", quantal)),
    "questions, all": (3, 2, "all", em.FixedReplies("questions", quantal)),
    "rational": (2, 2, "each", em.RationalUser()),
    "rational, fixed": (2, 2, "each", em.FixedReplies("questions", em.RationalUser("uniform"))),
}
EVERY_TIME = ("pooled", "planning, all", "truthful", "rational, fixed")


def make(agents, rounds, sharp=1.0, seed=0):
    """A game and rules for it; the smaller `sharp`, the more they reveal."""
    rng = np.random.default_rng(seed)
    game = em.Game(
        rng.dirichlet(np.ones(XA * XB * Y)).reshape(XA, XB, Y),
        rng.normal(size=(A, Y)),
        rng.normal(size=(agents, A, Y)),
    )
    rows = em.Conversation(rounds).rows(game, M)
    return game, rng.dirichlet(np.full(M, sharp), (agents, rows))


def copies(game, count=SEEDS):
    return jax.tree.map(lambda x: np.stack([x] * count), game)


def check_mean(got, exact, error):
    """Estimates [SEEDS, ...] average to `exact`, and `error` is how they scatter."""
    got, exact, error = (np.asarray(x, float) for x in (got, exact, error))
    scatter = got.std(0) / np.sqrt(SEEDS)
    np.testing.assert_array_less(abs(got.mean(0) - exact), 5 * scatter + SMALL)
    # squared errors are unbiased; they and the scatter are each known to about a tenth
    stated, found = np.sqrt((error**2).mean()), np.sqrt(got.var(0).mean())
    assert 0.75 < (stated + SMALL) / (found + SMALL) < 1.33


@pytest.mark.slow
@pytest.mark.parametrize("case", [pytest.param(case, marks=() if case in EVERY_TIME else NIGHTLY) for case in CASES])
def test_payoffs_agree_with_the_enumerated_conversation(case):
    agents, rounds, to, user = CASES[case]
    game, schemes = make(agents, rounds, sharp=0.5)
    exact = em.payoffs(game, schemes, em.Conversation(rounds, 2, to), user)
    protocol = em.SampledConversation(rounds, 2, to, samples=128, seed=np.arange(SEEDS))
    got = em.sampled_payoffs(copies(game), schemes, protocol, user)
    check_mean(got.user, exact.user, got.user_error)
    check_mean(got.agents, exact.agents, got.agents_error)
    # intervals of two standard errors; with the errors estimated from 32 pairs 95 % of them hold the truth
    held = abs(np.asarray(got.agents) - np.asarray(exact.agents)) <= 2 * np.asarray(got.agents_error) + SMALL
    assert held.mean() > 0.75  # agents share their transcripts: about 100 independent intervals, some skew
    assert held.mean() < 1 or np.max(got.agents_error) < 10 * SMALL
    # estimates scatter little beside the payoff range, ties included
    assert np.all(np.asarray(got.agents).std(0) < np.ptp(game.agent_utilities, axis=(1, 2)) / 8)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["planning", *(pytest.param(case, marks=NIGHTLY) for case in ("pooled", "babbling", "planning, 3 rounds"))]
)
def test_gradients_agree_with_the_enumerated_conversation(case):
    agents, rounds, to, user = CASES[case]
    check_gradient(*make(agents, rounds), rounds, to, user)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["truthful", pytest.param("questions, all", marks=NIGHTLY), pytest.param("planning, all", marks=NIGHTLY)]
)
def test_gradients_where_a_message_is_never_sent(case):
    agents, rounds, to, user = CASES[case]
    game, schemes = make(agents, rounds)
    schemes[0].reshape(XB, -1, M)[:, 0] = np.eye(M)[
        0
    ]  # the last message is never sent in the first round, and its slope is wanted
    check_gradient(game, schemes, rounds, to, user)


def check_gradient(game, schemes, rounds, to, user):
    exact = em.pseudo_gradient(game, schemes, em.Conversation(rounds, 2, to), user)
    protocol = em.SampledConversation(rounds, 2, to, samples=128, seed=np.arange(SEEDS))
    got = em.sampled_gradient(copies(game), schemes, protocol, user)
    assert np.abs(exact).max() > 0.005
    check_mean(got.mean, exact, got.error)
    np.testing.assert_array_equal(got.mean, em.pseudo_gradient(copies(game), schemes, protocol, user))


@pytest.mark.slow
def test_without_exploration_a_silent_message_has_no_slope():
    game, schemes = make(2, 1)
    schemes[0] = np.eye(M)[0]
    exact = np.asarray(em.pseudo_gradient(game, schemes, em.Conversation(1), quantal))[0, :, 1]
    for explore in (0.0, 0.25):
        got = em.sampled_gradient(game, schemes, em.SampledConversation(1, samples=2**13, explore=explore), quantal)
        off = abs(np.asarray(got.mean)[0, :, 1] - exact) / np.asarray(got.error)[0, :, 1]
        assert (off < 5).all() == (explore > 0), off


@pytest.mark.slow
@pytest.mark.parametrize("case", ["pooled", *(pytest.param(case, marks=NIGHTLY) for case in ("planning", "truthful"))])
def test_the_closed_form_is_the_derivative_of_the_sampled_payoffs(case):
    agents, rounds, to, user = CASES[case]
    game, schemes = make(agents, rounds)
    protocol = em.SampledConversation(rounds, 2, to, samples=8, explore=0.0, baseline=False)
    slope = jax.jacrev(lambda s: em.payoffs(game, s, protocol, user).agents)(jnp.asarray(schemes))
    got = em.pseudo_gradient(game, schemes, protocol, user)
    np.testing.assert_allclose(got, jnp.einsum("iirm->irm", slope), atol=1e-12 if X64 else 1e-4)


def along_the_rows(schemes, slope):
    """What play follows: a constant added to a row of slopes changes nothing."""
    slope = np.asarray(slope, float)
    return schemes * (slope - (schemes * slope).sum(-1, keepdims=True))


@pytest.mark.slow
def test_the_baseline_removes_what_no_message_changes():
    # a constant payoff of 5 adds nothing to the scatter, and the baseline reduces what is left
    game, schemes = make(3, 2)
    user = em.FixedReplies("questions", quantal)
    scatter = {}
    for offset in (0, 5):
        moved = em.Game(game.prior, game.user_utility, offset + 0.1 * game.agent_utilities)
        for baseline in (False, True):
            protocol = em.SampledConversation(2, samples=64, seed=np.arange(SEEDS), baseline=baseline)
            slopes = em.pseudo_gradient(copies(moved), schemes, protocol, user)
            scatter[offset, baseline] = along_the_rows(schemes, slopes).std(0).mean()
    for baseline in (False, True):
        assert scatter[5, baseline] == pytest.approx(scatter[0, baseline], rel=1e-6 if X64 else 1e-2)
    assert scatter[0, True] < 0.8 * scatter[0, False]
    # a payoff that is constant has slope 0
    game = em.Game(game.prior, game.user_utility, np.full_like(game.agent_utilities, 5))
    slope = em.pseudo_gradient(game, schemes, em.SampledConversation(2, samples=64), user)
    np.testing.assert_allclose(along_the_rows(schemes, slope), 0, atol=1e-12 if X64 else 1e-4)


@pytest.mark.slow
def test_near_schemes_are_compared_on_common_random_numbers():
    game, schemes = make(2, 2, sharp=0.5)
    near = 0.98 * schemes + 0.02 / M
    user = em.FixedReplies("questions", quantal)

    def paid(rules, seeds):
        protocol = em.SampledConversation(2, samples=64, seed=seeds)
        return np.asarray(em.payoffs(copies(game), rules, protocol, user).agents, float)

    common = paid(schemes, np.arange(SEEDS)) - paid(near, np.arange(SEEDS))
    independent = paid(schemes, np.arange(SEEDS)) - paid(near, np.arange(SEEDS) + SEEDS)
    assert (common.std(0) < 0.5 * independent.std(0)).all()


@pytest.mark.slow
def test_numbers_depend_on_seed_and_step_alone():
    game, schemes = make(2, 2)
    user = em.FixedReplies("babbling", quantal)
    protocol = em.SampledConversation(2, samples=16, seed=np.array([3, 3, 4]))
    got = np.asarray(em.payoffs(copies(game, 3), schemes, protocol, user).agents)
    alone = em.payoffs(game, schemes, em.SampledConversation(2, samples=16, seed=3), user).agents
    np.testing.assert_array_equal(got[0], got[1])
    np.testing.assert_allclose(got[0], alone, rtol=0, atol=1e-12 if X64 else 1e-6)
    assert abs(got[0] - got[2]).max() > 1e-6
    later = em.payoffs(copies(game, 3), schemes, protocol.at_step(7), user).agents
    assert abs(got - later).max() > 1e-6


def test_outcomes_of_probability_zero_are_never_drawn():
    distribution = jnp.array([0, 0.5, 0, 0.5, 0])
    edge = jnp.array([0, 0.25, 0.5, 0.75, 1 - 2.0**-24, 1])
    np.testing.assert_array_equal(_draw_index(distribution, edge), [1, 1, 3, 3, 3, 3])


@pytest.mark.slow
def test_ten_agents_and_six_rounds():
    user = em.FixedReplies("questions", quantal)
    game, schemes = make(10, 6, sharp=0.3)
    got = em.sampled_payoffs(game, schemes, em.SampledConversation(6, samples=32), user)
    slope = em.sampled_gradient(game, schemes, em.SampledConversation(6, samples=32), user)
    assert all(np.isfinite(x).all() for x in (*got, *slope))
    assert np.all(abs(np.asarray(got.agents)) <= abs(game.agent_utilities).max())
    assert np.abs(slope.mean).max() > 1e-3


@pytest.mark.slow
def test_a_long_tree_in_float32_keeps_its_small_weights():
    # there are so many messages that every transcript has a tiny probability; the user must still learn from it
    game, _ = make(8, 3)
    rows = em.SampledConversation(3).rows(game, 4)
    reveal = np.where(np.arange(XB * (rows // XB))[:, None] < rows // XB, [0.4, 0.4, 0.1, 0.1], [0.1, 0.1, 0.4, 0.4])
    protocol = em.SampledConversation(3, samples=64)
    schemes = np.broadcast_to(reveal, (8, rows, 4))
    got = em.payoffs(game, schemes, protocol, em.FixedReplies("babbling", em.RationalUser("lowest")))
    full = em.payoffs(game, em.full_revelation(8, XB, M), em.Pooled(), em.RationalUser("lowest"))
    np.testing.assert_allclose(got.user, full.user, atol=2e-2)  # 24 signals tell x_B but for one time in thousands


@pytest.mark.slow
@pytest.mark.parametrize(("agents", "rounds"), [(10, 2), pytest.param(2, 6, marks=NIGHTLY)])
def test_play_serves_aligned_agents_where_nothing_can_be_enumerated(agents, rounds):
    # the user must name x_B, and the schemes at the start reveal next to nothing
    prior = np.einsum("xb,by->xby", np.full((2, XB), 0.25), np.eye(XB))
    game = em.Game(prior, np.eye(XB), np.stack([np.eye(XB)] * agents))
    user, protocol = em.FixedReplies("questions", em.RationalUser()), em.SampledConversation(rounds, samples=64)
    noise = np.random.default_rng(0).uniform(-0.02, 0.02, (agents, protocol.rows(game, M), 1))
    before = 0.5 + noise * [1, -1]
    solver = em.GradientPlay(steps=100, learning_rate=(0.3, 0.05))
    done = em.solve(game, protocol, user, solver, start=before, verify=False)
    assert done.result == em.Result.UNCHECKED
    check = em.SampledConversation(rounds, samples=1024, seed=1)
    first, last = (em.sampled_payoffs(game, s, check, user) for s in (before, done.schemes))
    assert first.user < 0.65
    assert last.user > 0.95
    assert last.user - first.user > 5 * (first.user_error + last.user_error)


@pytest.mark.slow
def test_play_takes_fresh_numbers_in_each_step(monkeypatch):
    # the same play with the hook undone goes elsewhere, and so does play of other seeds
    game, schemes = make(2, 1)
    solver = em.GradientPlay(steps=4, chunk=4)

    def ended(seed):
        protocol = em.SampledConversation(1, samples=4, seed=seed)
        return em.solve(game, protocol, quantal, solver, start=schemes, verify=False).schemes

    fresh = ended(0), ended(0), ended(1)
    monkeypatch.setattr(em.SampledConversation, "at_step", lambda self, step: self)
    jax.clear_caches()
    stale = ended(0)
    jax.clear_caches()
    np.testing.assert_array_equal(fresh[0], fresh[1])
    assert abs(fresh[0] - fresh[2]).max() > 1e-4
    assert abs(fresh[0] - stale).max() > 1e-4


def test_refusals():
    game, schemes = make(2, 2)
    for wrong in ({"samples": 7}, {"samples": 0}, {"explore": 1.0}, {"seed": 0.5}, {"rounds": 0}, {"to": "some"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            em.SampledConversation(**{"rounds": 2} | wrong)
    with pytest.raises(ValueError, match="payoffs of SampledConversation are estimates"):
        em.solve(game, em.SampledConversation(2), quantal, key=jax.random.key(0))
    with pytest.raises(ValueError, match="jump"):
        em.pseudo_gradient(game, schemes, em.SampledConversation(2), em.RationalUser())
    given = em.FixedReplies(np.full((XA, 4, 4), 0.25), quantal)
    with pytest.raises(ValueError, match="must have a name"):
        em.payoffs(game, schemes, em.SampledConversation(2), given)
    # a user who plans replies needs all later histories; fixed replies need only the agents' own rules
    many, _ = make(10, 1)
    with pytest.raises(ValueError, match=r"plans its replies.* bytes a game.*largest that fits.*FixedReplies"):
        em.solve(many, em.SampledConversation(3), quantal, key=jax.random.key(0), messages=M, verify=False)
    em.SampledConversation(3).check_user(many, em.FixedReplies("questions", quantal), M)
    with pytest.raises(ValueError, match=r"samples, rounds, messages: .* bytes a game.*rounds = "):
        em.SampledConversation(20).check(many, M)
    with pytest.raises(ValueError, match=r"samples = 2\d{5}"):
        em.SampledConversation(2, samples=2**22).check(many, M)
