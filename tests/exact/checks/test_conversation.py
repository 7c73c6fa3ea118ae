"""Conversations, exact side: actions by recursion, the persuasion-mechanism LP, deviations, certificates."""

import jax
import numpy as np
import pytest
import support.conversations as brute
from support.conversations import Shape
from support.nightly import one_in

import emalign_jax as em
from emalign_jax import Result
from emalign_jax.exact.checks.conversation_outcomes import action_distribution, reach, rule_to_scheme, scheme_to_rule
from emalign_jax.exact.obedience.persuasion_mechanism import MechanismLP, can_report, mechanism_to_rule
from emalign_jax.exact.obedience.program import ObedienceLP
from emalign_jax.users.conversation_tree import Tree

pytestmark = pytest.mark.host_only

EXACT = 1e-7  # LP feasibility 1e-9, a few dozen rows, numbers of size 1
TIES = 1e-5  # what a tie tolerance of 1e-6 at each of a few nodes may be worth
XA, XB, Y, A = 2, 3, 3, 3
KEY = jax.random.key(5)
QUANTAL, RATIONAL = em.QuantalUser(4.0), em.RationalUser()
QUICK = em.GradientPlay(steps=100)


payoffs = jax.jit(em.payoffs)


def random_games(count=None, K=1, xa=XA, xb=XB, a=A, seed=0):
    rng = np.random.default_rng([seed, K, xa, xb, a])
    batch = () if count is None else (count,)
    prior = rng.dirichlet(np.ones(xa * xb * Y), batch).reshape(*batch, xa, xb, Y) * (0.1 + np.eye(xb, Y))
    prior /= prior.sum((-3, -2, -1), keepdims=True)  # x_B tells of y
    return em.Game(prior, rng.normal(size=(*batch, a, Y)), rng.normal(size=(*batch, K, a, Y)))


def random_rules(shape, K=1, count=(), seed=0, xb=XB, spread=1.0):
    rng = np.random.default_rng([seed, K, xb, *shape[:3]])
    return rng.dirichlet(np.full(shape.M, spread), (*np.atleast_1d(np.array(count, int)), K, brute.rows(shape, xb)))


def tree_of(shape, K):
    return shape.protocol.tree(K, shape.M)


def reduced(game):
    return em.reduce_game(game, np)


# distributions of the action


@pytest.mark.parametrize(
    ("K", "shape"),
    [(1, Shape(3, 2, 2)), (2, Shape(2, 2, 3)), (2, Shape(3, 2, 2, "all")), (3, Shape(2, 2, 2))],
)
@pytest.mark.parametrize("fixed", [None, "babbling", "truthful", "questions", "given"])
def test_action_distribution_by_recursion(K, shape, fixed):
    game, rules = random_games(K=K, seed=1), random_rules(shape, K)
    small = reduced(game)
    for user in (QUANTAL, *(em.RationalUser(ties) for ties in ("agents", "lowest", "uniform"))):
        if fixed == "given":
            where, replies = brute.reply_rows(shape, K)
            user = em.FixedReplies(np.random.default_rng(K).dirichlet(np.ones(len(replies)), (XA, len(where))), user)
        elif fixed:
            user = em.FixedReplies(fixed, user)
        favour = small.agents[-1]
        got = action_distribution(small, rules, tree_of(shape, K), user, favour)
        expected = brute.actions(brute.reduced(game), rules, shape, user, favour)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-11)
        if fixed is not None and user.acting is not QUANTAL:
            break  # actions in random games are never tied, whatever the rule


def test_action_distribution_with_ties():
    """All actions are tied: by the tie rule an agent gets the most, or what the first action pays, or the mean."""
    game, shape = random_games(seed=2), Shape(2, 2, 2)
    game = em.Game(game.prior, np.zeros((A, Y)), game.agent_utilities)
    small, rules = reduced(game), random_rules(shape)
    tree = tree_of(shape, 1)
    for ties in ("agents", "lowest", "uniform"):
        user = em.RationalUser(ties)
        got = action_distribution(small, rules, tree, user, small.agents[0])
        expected = brute.actions(brute.reduced(game), rules, shape, user, small.agents[0])
        np.testing.assert_allclose(got, expected, atol=1e-12)
    paid = {
        ties: (action_distribution(small, rules, tree, em.RationalUser(ties), small.agents[0]) * small.agents[0]).sum()
        for ties in ("agents", "uniform")
    }
    assert paid["agents"] > paid["uniform"] + 1e-3


@pytest.mark.parametrize("Q", [1, 2])
@pytest.mark.parametrize(("M", "R", "S"), [(2, 3, 8), (2, 3, 5), (3, 2, 9), (3, 2, 2), (2, 1, 2)])
def test_spelt_schemes_tell_as_much(M, R, S, Q):
    """A scheme is spelt in words of R messages, whatever the user replies, and read back from them."""
    shape = Shape(R, M, Q)
    tree = tree_of(shape, 1)
    scheme = np.random.default_rng([M, R, S]).dirichlet(np.ones(S), XB)
    scheme[:, 0] = 0 if S > 2 else scheme[:, 0]  # a word that is never said
    scheme /= scheme.sum(1, keepdims=True)
    rule = scheme_to_rule(tree, scheme)
    np.testing.assert_allclose(rule.sum(1), 1, atol=1e-12)
    words = rule_to_scheme(tree, rule)
    np.testing.assert_allclose(words[:, :S], scheme, atol=1e-12)
    np.testing.assert_allclose(words[:, S:], 0, atol=1e-12)
    np.testing.assert_allclose(brute.words(shape, rule, XB), words, atol=1e-12)
    game = random_games(seed=3)
    once = brute.payoffs(game, scheme[None], Shape(1, S, 1), QUANTAL)
    spelt = brute.payoffs(game, rule[None], shape, QUANTAL)
    if Q == 1 or R == 1:
        np.testing.assert_allclose(spelt[0], once[0], atol=1e-12)
        np.testing.assert_allclose(spelt[1], once[1], atol=1e-12)
    else:  # the agent does not react to replies, so they change nothing
        np.testing.assert_allclose(spelt[1], once[1], atol=1e-12)


def test_too_many_words():
    assert scheme_to_rule(tree_of(Shape(2, 2, 2), 1), np.full((XB, 5), 0.2)) is None


def test_any_silent_rule_is_its_words():
    shape = Shape(3, 2, 1)
    rule = random_rules(shape)[0]
    np.testing.assert_allclose(rule_to_scheme(tree_of(shape, 1), rule), brute.words(shape, rule, XB), atol=1e-12)


def test_reach_sums_to_one():
    shape = Shape(2, 3, 2)
    levels = reach(tree_of(shape, 2), random_rules(shape, 2))
    np.testing.assert_allclose(levels[0].sum(0), 1, atol=1e-12)
    np.testing.assert_allclose(levels[1].reshape(-1, 4, 9, XB).sum((0, 2)), 1, atol=1e-12)  # for each reply


# the persuasion-mechanism LP


def best_payoff(game, **options):
    small = reduced(game)
    return MechanismLP(small).best(small.agents[0], **options)


@pytest.mark.parametrize("seed", range(5))
def test_mechanism_of_one_type_is_obedience(seed):
    small = reduced(random_games(xa=1, seed=seed))
    lp, plain = MechanismLP(small), ObedienceLP(small)
    none, full = small.user.sum(1).max(-1).sum(), small.user.max(-1).sum()
    for value in (-np.inf, none, (none + full) / 2, full + 0.1):
        one, other = lp.best(small.agents[0], value), plain.best(small.agents[0], value)
        assert one.optimal == other.optimal == (value <= full)
        if one.optimal:
            assert one.value == pytest.approx(other.value, abs=EXACT)


def attained(game, rule, tree):
    """The agent's payoff and the user's value, by recursion over transcripts, with ties for the agent."""
    user = em.RationalUser("agents", tolerance=1e-8)
    small = reduced(game)
    q = action_distribution(small, rule[None], tree, user, small.agents[0])
    return float((q * small.agents[0]).sum()), float((q * small.user).sum())


@pytest.mark.parametrize(("xa", "Q", "R"), [(2, 2, 2), (3, 3, 2), (3, 2, 3)])
def test_mechanisms_are_carried_out(xa, Q, R):
    """A conversation with a rational user attains the LP's value, and no random one beats it."""
    for seed in range(4):
        game = random_games(xa=xa, seed=seed)
        small = reduced(game)
        tree = Tree(R, Q, False, 1, A)
        assert can_report(tree, xa)
        for value in (-np.inf, 0.6 * small.user.max(-1).sum() + 0.4 * small.user.sum(1).max(-1).sum()):
            advice = MechanismLP(small).best(small.agents[0], value)
            rule, wide = mechanism_to_rule(advice.scheme.reshape(small.user.shape), tree)
            assert wide == tree
            own, user = attained(game, rule, wide)
            assert own == pytest.approx(advice.value, abs=1e-6 + EXACT)
            assert user >= value - 1e-6


def test_a_mechanism_in_too_few_messages_is_carried_out_in_a_wider_tree():
    small = reduced(random_games(xa=2, a=4, seed=1))
    told = np.random.default_rng(0).dirichlet(np.ones(4), (2, XB))
    rule, wide = mechanism_to_rule(told, Tree(2, 2, False, 1, 2))
    assert wide.messages == 4
    assert rule.shape == (XB * wide.information_sets, 4)
    # the user reports the type truthfully, and all actions are equally good
    eager = small._replace(user=np.zeros_like(small.user))
    user = em.FixedReplies("truthful", em.RationalUser("agents"))
    q = action_distribution(eager, rule[None], wide, user, small.agents[0])
    assert q.shape == told.shape
    np.testing.assert_allclose(q.sum(-1), 1, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("xa", "shape"), [(2, Shape(2, 3, 2)), (3, Shape(2, 3, 2)), (2, Shape(3, 2, 2, "all"))])
def test_no_rule_pays_more_than_the_mechanism(xa, shape):
    """Whether or not the user can report the type; the rules are interior or nearly deterministic."""
    game = random_games(xa=xa, seed=7)
    most = best_payoff(game).value
    for seed, spread in ((0, 1.0), (1, 0.1)):
        rules = random_rules(shape, count=(300,), seed=seed, spread=spread)
        paid = np.asarray(payoffs(game, rules, shape.protocol, RATIONAL).agents)
        assert (paid <= most + TIES).all()
    lone = brute.payoffs(game, rules[0], shape, RATIONAL)[1][0]
    assert lone <= most + TIES


def test_value_at_least():
    """The agent's payoff falls as the user is guaranteed more, and the LP is infeasible beyond V_full."""
    for seed in range(3):
        small = reduced(random_games(seed=seed))
        lp = MechanismLP(small)
        none, full = small.user.sum(1).max(-1).sum(), small.user.max(-1).sum()
        f = [lp.best(small.agents[0], v) for v in np.linspace(none - 0.1, full - 1e-9, 11)]
        values = np.array([advice.value for advice in f])
        assert (np.diff(values) <= EXACT).all()
        assert (np.diff(values, 2) <= EXACT).all()  # concave
        assert values[0] == pytest.approx(lp.best(small.agents[0]).value, abs=EXACT)
        beyond = lp.best(small.agents[0], full + 0.01)
        assert not beyond.optimal
        assert np.isnan(beyond.value)
        assert beyond.status == "Infeasible"
        price = lp.price(small.agents[0], none, none + 1e-3)
        assert price.optimal
        assert price.value <= values[0] + EXACT


def test_by_type():
    for seed in range(3):
        small = reduced(random_games(seed=seed))
        lp = MechanismLP(small)
        full = small.user.max(-1).sum(1)  # of each type
        none = small.user.sum(1).max(-1)
        free, least = lp.best(small.agents[0]), lp.best(small.agents[0], by_type=none)
        assert least.value == pytest.approx(free.value, abs=EXACT)  # the user can always ignore the messages
        asked = (none + full) / 2
        some, both = lp.best(small.agents[0], by_type=asked), lp.best(small.agents[0], asked.sum())
        assert some.value <= both.value + EXACT <= free.value + 2 * EXACT  # type by type is more than on average
        told = some.scheme.reshape(small.user.shape)
        assert ((told * small.user).sum((1, 2)) >= asked - EXACT).all()
        assert not lp.best(small.agents[0], by_type=full + np.array([0.0, 0.01])).optimal
        assert lp.best(small.agents[0]).value == pytest.approx(free.value, abs=EXACT)  # nothing is left behind


def test_slack_only_adds():
    for seed in range(3):
        small = reduced(random_games(seed=seed))
        found = [
            MechanismLP(small, tie_tolerance=s, nodes=n).best(small.agents[0])
            for s, n in ((0.0, 1), (1e-3, 1), (1e-3, 3))
        ]
        values = np.array([advice.value for advice in found])
        assert (np.diff(values) >= -EXACT).all()
        assert (values[1:] <= values[0] + found[0].slack_price * np.array([1e-3, 3e-3]) + EXACT).all()


def reaches_the_mechanism(count, seed):
    """How often `solve` finds a monopolist's optimum, one conversation of two rounds; four messages, so that the MILP,
    which takes seconds, is too large."""
    games = random_games(count, a=4, seed=seed)
    found = em.solve(games, em.Conversation(2, 2), RATIONAL, QUICK, key=KEY, messages=4)
    most = np.array([best_payoff(games[n]).value for n in range(count)])
    spread = found.certificate.payoff_range[:, 0]
    assert (found.agents[:, 0] <= most + TIES).all()
    assert_consistent(games, found, em.Conversation(2, 2), RATIONAL)
    return (found.agents[:, 0] >= most - 1e-3 * spread - TIES).mean()


@pytest.mark.slow
def test_solve_reaches_the_mechanism():
    assert reaches_the_mechanism(10, seed=1) >= 0.9


@pytest.mark.nightly
@pytest.mark.slow
def test_solve_reaches_the_mechanism_in_a_hundred_games():
    assert reaches_the_mechanism(100, seed=2) >= 0.95


# deviations and certificates


def assert_consistent(games, solution, protocol, user):
    again = em.certify(games, solution.schemes, protocol, user)
    np.testing.assert_allclose(solution.user, again.user, rtol=0, atol=1e-9)
    np.testing.assert_allclose(solution.agents, again.agents, rtol=0, atol=1e-9)
    ok = solution.result < Result.ABOVE_TOLERANCE
    assert (solution.certificate.relative_gain.max(-1)[ok] <= 1e-3).all()
    assert (solution.certificate.relative_gain.max(-1)[~ok] > 1e-3).all()


WHO = {
    "quantal-one": (1, QUANTAL),
    "agents-one-nightly": (1, RATIONAL),
    "quantal-slow": (2, QUANTAL),
    "agents-slow": (2, RATIONAL),
    "uniform-nightly": (2, em.RationalUser("uniform")),
    "fixed-nightly": (2, em.FixedReplies("truthful", QUANTAL)),
    "fixed-rational-nightly": (2, em.FixedReplies("questions", RATIONAL)),
}


@pytest.mark.parametrize(
    ("K", "user"),
    [
        pytest.param(
            *WHO[name], id=name, marks=[getattr(pytest.mark, word) for word in ("slow", "nightly") if word in name]
        )
        for name in WHO
    ],
)
def test_deviations_are_attained_and_bounded(K, user):
    shape = Shape(2, 2, 2)
    protocol, count = shape.protocol, 3 - K  # so that all ascents are one compilation a user
    games, rules = random_games(count, K, seed=4), random_rules(shape, K, count)
    certificate = em.certify(games, rules, protocol, user)
    for n in range(count):
        value, agents = brute.payoffs(games[n], rules[n], shape, user)
        np.testing.assert_allclose(certificate.user[n], value, rtol=0, atol=1e-9)
        np.testing.assert_allclose(certificate.agents[n], agents, rtol=0, atol=1e-9)
    assert (certificate.gain_lower >= 0).all()
    assert (certificate.gain_upper >= certificate.gain_lower).all()
    assert certificate.gain_lower.max() > 1e-3
    assert (certificate.guarantee <= certificate.user + TIES).all()
    assert (certificate.theorem <= certificate.user + TIES).all()
    for i in range(K):
        best = em.best_response(games[0], rules[0], i, protocol, user)
        assert best.value <= best.upper
        assert best.value == pytest.approx(certificate.agents[0, i] + certificate.gain_lower[0, i], abs=1e-4)
        profile = rules[0].copy()
        profile[i] = best.scheme
        assert brute.payoffs(games[0], profile, shape, user)[1][i] == pytest.approx(best.value, abs=1e-9)
        # 300 deviations in each game, interior and nearly deterministic, none of which pays more than the bound
        other = np.repeat(rules[:, None], 300, 1)
        for half, spread in ((slice(150), 1.0), (slice(150, 300), 0.1)):
            other[:, half, i] = random_rules(shape, 1, (count, 150), i, spread=spread)[:, :, 0]
        other[:, -1, i] = scheme_to_rule(tree_of(shape, 1), np.eye(3))
        paid = np.asarray(payoffs(games, other.swapaxes(0, 1), protocol, user).agents)[:, :, i].T
        assert (paid <= (certificate.agents + certificate.gain_upper)[:, i, None] + TIES).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "user"),
    [
        (Shape(1, 3, 2), QUANTAL),
        (Shape(1, 3, 2), em.FixedReplies("babbling", RATIONAL)),
        (Shape(2, 2, 1), QUANTAL),
        (Shape(2, 2, 1), RATIONAL),
    ],
    ids=["one-round", "one-round-fixed", "silent", "silent-rational"],
)
def test_where_the_user_cannot_reply_it_is_pooled(shape, user):
    games, rules = random_games(2, 2, seed=5), random_rules(shape, 2, 2)
    spoken = np.array([[brute.words(shape, rule, XB) for rule in profile] for profile in rules])
    conversation = em.certify(games, rules, shape.protocol, user)
    pooled = em.certify(games, spoken, em.Pooled(), user.acting)
    assert conversation.closed.all()
    assert pooled.closed.all()
    np.testing.assert_array_equal(conversation.result, pooled.result)
    np.testing.assert_allclose(conversation.user, pooled.user, atol=1e-9)
    np.testing.assert_allclose(conversation.agents, pooled.agents, atol=1e-9)
    np.testing.assert_allclose(conversation.guarantee, pooled.guarantee, atol=1e-5)
    spread = pooled.payoff_range.max()
    np.testing.assert_allclose(conversation.gain_lower, pooled.gain_lower, atol=1e-4 * spread)
    np.testing.assert_allclose(conversation.gain_upper, pooled.gain_upper, atol=1e-3 * spread)
    best = em.best_response(games[0], rules[0], 1, shape.protocol, user)
    profile = rules[0].copy()
    assert best.scheme.shape == profile[1].shape
    profile[1] = best.scheme
    assert brute.payoffs(games[0], profile, shape, user)[1][1] == pytest.approx(best.value, abs=TIES)


@pytest.mark.slow
def test_upper_bounds_hold_for_any_number_of_messages():
    """Six states to guess, an agent who wants the same: four words tell less than nine, within the bound of both."""
    game = em.Game(np.eye(6)[None] / 6, np.eye(6), np.eye(6)[None])
    user = em.QuantalUser(20.0)
    two, three = (
        em.best_response(game, random_rules(Shape(2, M, 2), xb=6), 0, em.Conversation(2, 2), user) for M in (2, 3)
    )
    assert three.value > two.value + 0.1  # 4 / 6 of the states can be told apart, or all
    assert three.value <= two.upper + TIES
    assert three.value <= three.upper
    assert three.upper <= 1 + TIES


@pytest.mark.slow
def test_one_rational_user_and_enough_messages_close_the_bracket():
    """K = 1, two types, two replies, three messages: the mechanism LP is exact, and what is found attains it."""
    shape = Shape(2, 3, 2)
    games, rules = random_games(3, seed=6), random_rules(shape, 1, 3)
    certificate = em.certify(games, rules, shape.protocol, RATIONAL)
    assert certificate.closed.all()
    for n in range(3):
        most = best_payoff(games[n]).value
        assert certificate.agents[n, 0] + certificate.gain_lower[n, 0] == pytest.approx(most, abs=TIES)
        best = em.best_response(games[n], rules[n], 0, shape.protocol, RATIONAL)
        assert best.closed
        assert attained(games[n], best.scheme, tree_of(shape, 1))[0] == pytest.approx(most, abs=TIES)


@pytest.mark.slow
def test_selection_deviations_are_mechanisms():
    """The holder lowers its offer to the rival's, or the rival outbids the holder: each gain is that of an LP."""
    shape = Shape(2, 3, 2)
    protocol = em.Selection(then=shape.protocol)
    games, rules = random_games(3, 2, seed=7), random_rules(shape, 2, 3, seed=7)
    certificate = em.certify(games, rules, protocol, RATIONAL)
    assert certificate.closed.all()
    for n in range(3):
        small = reduced(games[n])
        value, agents = brute.selection(games[n], rules[n], RATIONAL, 0, shape)
        assert certificate.user[n] == pytest.approx(value, abs=1e-9)
        np.testing.assert_allclose(certificate.agents[n], agents, atol=1e-9)
        alone = [
            (
                brute.actions(brute.reduced(games[n]), rules[n, j : j + 1], shape, RATIONAL, small.agents[j])
                * small.user
            ).sum()
            for j in range(2)
        ]
        holder = int(np.argmax(alone))
        for i in range(2):
            most = MechanismLP(small).best(small.agents[i], min(alone) if i == holder else max(alone)).value
            gain = max(most - agents[i], 0)
            assert certificate.gain_lower[n, i] == pytest.approx(gain, abs=TIES)
            best = em.best_response(games[n], rules[n], i, protocol, RATIONAL)
            assert best.closed
            assert best.value == pytest.approx(max(most, agents[i]), abs=TIES)


@pytest.mark.slow
def test_selection_then_conversation_is_solved():
    shape = Shape(2, 3, 2)
    protocol = em.Selection(then=shape.protocol)
    games = random_games(4, 2, seed=8)
    found = em.solve(games, protocol, RATIONAL, QUICK, key=KEY, messages=3)
    assert (found.result < Result.ABOVE_TOLERANCE).all()
    assert (found.certificate.result == Result.CERTIFIED).all()
    assert_consistent(games, found, protocol, RATIONAL)
    assert (found.user >= found.certificate.guarantee - 1e-5).all()


def test_selection_needs_replies_that_report_the_type():
    shape = Shape(2, 3, 2)
    games, rules = random_games(2, 2, xa=3), random_rules(shape, 2, 2)
    with pytest.raises(ValueError, match=r"^replies: the exact check of Selection and then a conversation needs"):
        em.certify(games, rules, em.Selection(then=shape.protocol), RATIONAL)


class Stubborn(em.QuantalUser):
    """A response rule that the checks do not know: it prefers what is worth least."""

    def respond(self, options, favour):
        return super().respond(options._replace(value=-options.value), favour)


@pytest.mark.slow
@pytest.mark.parametrize("user", one_in(2, [Stubborn(4.0), em.FixedReplies("babbling", Stubborn(4.0))]))
@pytest.mark.parametrize("protocol", [em.Conversation(2, 2), em.Selection(then=em.Conversation(2, 2))])
def test_users_the_checks_do_not_know(protocol, user):
    games, rules = random_games(1, 2), random_rules(Shape(2, 2, 2), 2, 1)
    found = em.certify(games, rules, protocol, user)
    assert not (found.result == Result.CERTIFIED).any()
    assert np.isposinf(found.gain_upper).all()
    taken = em.payoffs(games, rules, protocol, user)
    np.testing.assert_allclose(found.user, taken.user, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("user", [QUANTAL, RATIONAL, em.FixedReplies("babbling", QUANTAL)])
def test_agents_who_do_not_care_have_nothing_to_gain(user):
    game, rules = random_games(K=2), random_rules(Shape(2, 2, 2), 2)
    game = em.Game(game.prior, game.user_utility, np.full_like(game.agent_utilities, 3.0))
    certificate = em.certify(game, rules, em.Conversation(2, 2), user)
    assert certificate.result == Result.CERTIFIED
    np.testing.assert_array_equal(certificate.relative_gain, 0)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [em.Conversation(2, 2), em.Selection(then=em.Conversation(2, 2))])
def test_what_is_gained_counts_in_the_payoff_range(protocol):
    """What is told to both types alike pays the agent nothing; what is told to each type by itself does."""
    prior = np.zeros((2, 2, 4))
    for a in (0, 1):
        prior[a, 0, 2 * a], prior[a, 1, 2 * a + 1] = 0.35, 0.15
    game = em.Game(prior, [[1, 0, 1, 0], [0, 1, 0, 1.0]], [[[0, 0, 1, 1], [1, 1, 0, 0.0]]])
    silent = em.no_information(1, protocol.rows(game, 2), 2)
    certificate = em.certify(game, silent, protocol, em.FixedReplies("truthful", em.QuantalUser(8.0)))
    assert certificate.gain_lower[0] > 0.19
    assert certificate.payoff_range[0] >= certificate.gain_lower[0]
    assert certificate.relative_gain[0] > 0.4
    assert certificate.result == Result.ABOVE_TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("user", [QUANTAL, RATIONAL, em.FixedReplies("truthful", QUANTAL)])
@pytest.mark.parametrize("rare", [1e-10, 1e-150, 1e-210, 1e-310])
def test_types_that_hardly_exist(rare, user):
    prior = np.array([[[0.25 - 2 * rare, 0.25], [0.25, 0.25]], [[rare, 0], [0, rare]]])
    game = em.Game(prior, np.eye(2), [[[0, 0], [1.0, 1.0]]])
    certificate = em.certify(game, em.no_information(1, 10, 2), em.Conversation(2, 2), user)
    assert certificate.result == Result.CERTIFIED
    assert certificate.gain_upper[0] < 1e-9


@pytest.mark.slow
def test_an_agent_that_cannot_gain_keeps_its_own_scheme():
    """Without ties for the agent the LP's scheme may pay less than the present one."""
    protocol = em.Selection(then=em.Conversation(2, 2))
    games, rules = random_games(12, 2, seed=11), random_rules(Shape(2, 3, 2), 2, 12, seed=11)
    user = em.RationalUser("lowest")
    for n in range(12):
        for i in range(2):
            best = em.best_response(games[n], rules[n], i, protocol, user)
            profile = rules[n].copy()
            if best.scheme.shape == profile[i].shape:
                profile[i] = best.scheme
                assert em.certify(games[n], profile, protocol, user).agents[i] == pytest.approx(best.value, abs=1e-7)


def test_checks_that_are_too_large():
    many = random_games(xa=12, a=12)
    protocol = em.Conversation(2, 2)
    rules = em.no_information(1, protocol.rows(many, 2), 2)
    with pytest.raises(
        ValueError, match=r"^games: the persuasion-mechanism LP of A = 12, XA = 12, XB = 3 has \d+ rows"
    ):
        em.certify(many, rules, protocol, RATIONAL)
    # the user has one reply only, so each of three agents sends one message out of 4^5 words
    game, protocol = random_games(K=3), em.Conversation(5, 1)
    rules = em.no_information(3, protocol.rows(game, 4), 4)
    with pytest.raises(ValueError, match=r"^(rounds, )?messages.*(belief LP|bytes a game)"):
        em.certify(game, rules, protocol, QUANTAL)


@pytest.mark.nightly
@pytest.mark.slow
def test_parameters_over_the_batch():
    """What a game's certificate says does not depend on the others' parameters."""
    shape = Shape(2, 2, 2)
    games, rules = random_games(2, 2, seed=9), random_rules(shape, 2, 2)
    rng = np.random.default_rng(3)
    precision = np.array([2.0, 9.0])
    each = em.FixedReplies(rng.dirichlet(np.ones(4), (2, XA, 4)), em.QuantalUser(precision))
    one = em.FixedReplies(rng.dirichlet(np.ones(2), (2, XA, 2)), em.QuantalUser(precision))
    picks = em.Selection(np.array([0.1, 0.4]), shape.protocol)
    for protocol, user in ((shape.protocol, each), (picks, one)):
        both = em.certify(games, rules, protocol, user)
        for n in range(2):
            mine = jax.tree.map(lambda x, n=n: x[n], (games, protocol, user))
            twice = jax.tree.map(lambda x, n=n: x[[n, n]], (games, rules, protocol, user))
            alike = em.certify(*twice)
            for name in ("user", "agents", "gain_lower", "gain_upper", "payoff_range"):
                np.testing.assert_allclose(getattr(alike, name)[0], getattr(both, name)[n], rtol=0, atol=2e-4)
            if protocol is picks:
                value, agents = brute.selection(games[n], rules[n], mine[2], float(mine[1].temperature), shape)
            else:
                value, agents = brute.payoffs(games[n], rules[n], shape, mine[2])
            np.testing.assert_allclose([both.user[n], *both.agents[n]], [value, *agents], rtol=0, atol=1e-9)
    found = em.solve(games, shape.protocol, each, QUICK, key=KEY, messages=2)
    for n in range(2):
        mine = jax.tree.map(lambda x, n=n: x[n], each)
        value, agents = brute.payoffs(games[n], found.schemes[n], shape, mine)
        np.testing.assert_allclose([found.user[n], *found.agents[n]], [value, *agents], rtol=0, atol=1e-9)
    assert_consistent(games, found, shape.protocol, each)
    several = em.certify(games, np.stack([rules, rules]), shape.protocol, each)  # profiles lead, games follow
    plain = em.certify(games, rules, shape.protocol, each)
    np.testing.assert_allclose(several.user, [plain.user, plain.user], atol=1e-12)
    np.testing.assert_allclose(several.gain_upper, [plain.gain_upper, plain.gain_upper], atol=2e-4)
