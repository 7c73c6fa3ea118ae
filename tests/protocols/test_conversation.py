"""Conversations, accelerated: against recursion over transcripts, autodiff, central differences and pure strategies."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support.conversations as brute
from support.conversations import Shape

import emalign_jax as em
from emalign_jax.games.game import centred_game

X64 = jax.config.jax_enable_x64
ATOL = 1e-12 if X64 else 2e-5  # payoffs: sums of 1000 products of size 1 and below
GRADIENT = 1e-11 if X64 else 3e-3  # precision^R * payoff / posterior weights of about .01
XA, XB, Y, A = 2, 3, 3, 3

payoffs, pseudo_gradient = jax.jit(em.payoffs), jax.jit(em.pseudo_gradient)
own_gradient = jax.jit(lambda protocol, *arguments: protocol.own_gradient(*arguments))

QUANTAL = em.QuantalUser(4.0)
SLOW = [pytest.mark.slow]
USERS = {"quantal": QUANTAL} | {ties: em.RationalUser(ties) for ties in ("agents", "lowest", "uniform")}


def make(K, shape, count=2, seed=0, xa=XA, xb=XB, a=A):
    """Random games and rules; the last game is dyadic and full of ties, in float32 too."""
    rng = np.random.default_rng([seed, K, *shape[:3]])
    prior = rng.dirichlet(np.ones(xa * xb * Y), count).reshape(count, xa, xb, Y)
    user, own = rng.normal(size=(count, a, Y)), rng.normal(size=(count, K, a, Y))
    H = brute.rows(shape, xb)
    rules = rng.dirichlet(np.ones(shape.M), (count, K, H))
    cells = 2 ** int(np.log2(xa * xb * Y))
    prior[-1] = np.resize(rng.permutation(np.arange(xa * xb * Y) < cells) / cells, prior[-1].shape)
    user[-1], own[-1] = rng.integers(-1, 2, (a, Y)), rng.integers(-2, 3, (K, a, Y))
    some, other = rng.integers(0, shape.M, (2, K, H))
    rules[-1] = (np.eye(shape.M)[some] + np.eye(shape.M)[other]) / 2
    return em.Game(prior, user, own), rules


def given(K, shape, seed=0):
    where, replies = brute.reply_rows(shape, K)
    rng = np.random.default_rng([seed, K, *shape[:3]])
    return rng.dirichlet(np.ones(len(replies)), (XA, len(where)))


def assert_like(got, expected, atol=ATOL):
    for n, (value, agents) in enumerate(expected):
        np.testing.assert_allclose(got.user[n], value, rtol=0, atol=atol)
        np.testing.assert_allclose(got.agents[n], agents, rtol=0, atol=atol)


# payoffs

SHAPES = [
    (1, Shape(1, 3, 2)),
    (1, Shape(3, 2, 2)),
    (2, Shape(2, 2, 2)),
    (2, Shape(2, 2, 3, "all")),
    (2, Shape(3, 2, 2, "all")),
    (3, Shape(2, 2, 2)),
]


def often(K, shape):
    return () if shape.R == 3 else SLOW if K == 3 else pytest.mark.nightly


@pytest.mark.parametrize(
    ("K", "shape"),
    [pytest.param(K, s, id=f"K{K}R{s.R}M{s.M}Q{s.Q}{s.to}", marks=often(K, s)) for K, s in SHAPES],
)
def test_payoffs_by_recursion(K, shape):
    games, rules = make(K, shape)
    for name in USERS if (K, shape.R) in ((1, 3), (2, 2)) else ("quantal", "agents"):
        got = payoffs(games, rules, shape.protocol, USERS[name])
        assert_like(got, [brute.payoffs(games[n], rules[n], shape, USERS[name]) for n in range(2)])


def two_questions():
    """Three states of probabilities 1/4, 1/4, 1/2; a right guess is worth 1 to the user. The reply names one of the
    first two states, and agent 0 says whether it is true. Agent 0 gains more from a right guess of state 2 than of
    state 1; agent 1, which sends no information, the other way round."""
    prior = np.diag([0.25, 0.25, 0.5])[None]
    game = em.Game(prior, np.eye(3), np.stack([np.diag([1.0, 2, 0]), np.diag([2.0, 1, 0])]))
    shape = Shape(2, 2, 2, "all")
    rules = np.zeros((2, brute.rows(shape, 3), 2))
    rules[..., 0] = 1
    for xb, q in itertools.product(range(3), range(2)):
        rules[0, brute.row(shape, xb, [(0, q)])] = np.eye(2)[int(xb == q)]
    return game, rules, shape


@pytest.mark.slow
def test_tied_replies():
    """Either question is worth 3/4 to the user, and 1/4 or 2/4 to an agent; each agent's payoff is its own supremum."""
    game, rules, shape = two_questions()
    expected = {"agents": (0.5, 0.5), "lowest": (0.25, 0.5), "uniform": (0.375, 0.375)}
    for ties, agents in expected.items():
        got = payoffs(game, rules, shape.protocol, USERS[ties])
        np.testing.assert_allclose([got.user, *got.agents], [0.75, *agents], rtol=0, atol=ATOL)
    got = payoffs(game, rules, shape.protocol, em.FixedReplies("babbling", USERS["agents"]))
    np.testing.assert_allclose([got.user, *got.agents], [0.75, 0.375, 0.375], rtol=0, atol=ATOL)


def test_the_user_asks_what_is_worth_most_to_the_user():
    """After reply 0 the agent says nothing, after reply 1 it says whether the state is the second."""
    game, rules, shape = two_questions()
    for xb in range(3):
        rules[0, brute.row(shape, xb, [(0, 0)])] = np.eye(2)[0]
    for user, value in ((USERS["agents"], 0.75), (em.FixedReplies("babbling", USERS["agents"]), 0.625)):
        np.testing.assert_allclose(payoffs(game, rules, shape.protocol, user).user, value, rtol=0, atol=ATOL)


FIXED = {
    "each": (Shape(2, 2, 2), "quantal", ["babbling", "truthful", "questions", "given"]),
    "each-agents": (Shape(2, 2, 2), "agents", ["questions", "given"]),
    "all": (Shape(3, 2, 2, "all"), "quantal", ["truthful", "given"]),
    "all-uniform": (Shape(3, 2, 2, "all"), "uniform", ["babbling"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", FIXED)
def test_fixed_replies_by_recursion(case):
    shape, acting, rules_of_reply = FIXED[case]
    games, rules = make(2, shape, seed=1)
    for rule in rules_of_reply:
        user = em.FixedReplies(given(2, shape) if rule == "given" else rule, USERS[acting])
        got = payoffs(games, rules, shape.protocol, user)
        assert_like(got, [brute.payoffs(games[n], rules[n], shape, user) for n in range(2)])


@pytest.mark.slow
def test_many_types_ask_few_questions():
    """Five types, replies for three of them; and each type's number in two digits."""
    K, shape = 1, Shape(2, 2, 3)
    games, rules = make(K, shape, count=4, seed=2, xa=5)
    games = em.Game(*(x[:3] for x in (games.prior, games.user_utility, games.agent_utilities)))  # ties are rounding's
    user = em.FixedReplies("questions", QUANTAL)
    got = payoffs(games, rules[:3], shape.protocol, user)
    assert_like(got, [brute.payoffs(games[n], rules[n], shape, user) for n in range(3)])
    longer = Shape(3, 2, 3)
    games, rules = make(K, longer, count=4, seed=2, xa=5)
    for rule in ("questions", "truthful"):  # 3^2 >= 5
        user = em.FixedReplies(rule, QUANTAL)
        got = payoffs(games[:3], rules[:3], longer.protocol, user)
        assert_like(got, [brute.payoffs(games[n], rules[n], longer, user) for n in range(3)])


PICKS = {
    "quantal": (QUANTAL, 0.0),
    "agents": (USERS["agents"], 0.0),
    "uniform": (USERS["uniform"], 0.0),
    "soft": (QUANTAL, 0.3),
    "soft-fixed": (em.FixedReplies("truthful", QUANTAL), 0.3),
    "soft-fixed-rational": (em.FixedReplies("questions", USERS["agents"]), 0.3),
}


@pytest.mark.parametrize(("user", "temperature"), PICKS.values(), ids=PICKS)
def test_selection_then_conversation_by_recursion(user, temperature):
    K, shape = 2, Shape(2, 2, 2)
    games, rules = make(K, shape, seed=3)
    got = payoffs(games, rules, em.Selection(temperature, then=shape.protocol), user)
    assert_like(got, [brute.selection(games[n], rules[n], user, temperature, shape) for n in range(2)])


def test_rounding_does_not_decide_what_types_ask():
    """Types that are each other's mirror images, so that every question is as good to begin with."""
    shape, rng = Shape(2, 2, 2), np.random.default_rng(4)
    prior = np.zeros((6, 3, 3))
    for x, states in enumerate(itertools.permutations(range(3))):
        prior[x, range(3), states] = 1 / 18
    user = rng.integers(-1, 2, (8, 3, 3)) + 0.1
    games = em.Game(np.repeat(prior[None], 8, 0), user, rng.normal(size=(8, 1, 3, 3)))
    rules = rng.dirichlet(np.ones(2), (8, 1, brute.rows(shape, 3)))
    asks = em.FixedReplies("questions", em.QuantalUser(4.0))
    got = payoffs(games, rules, shape.protocol, asks)
    assert_like(got, [brute.payoffs(games[n], rules[n], shape, asks) for n in range(8)])


# what it must agree with


@pytest.mark.slow
@pytest.mark.parametrize(
    ("user", "to"),
    [*((user, "each") for user in USERS.values()), (em.FixedReplies("babbling", QUANTAL), "all")],
    ids=[*USERS, "fixed"],
)
def test_one_round_is_pooled(user, to):
    """However many replies there would be: none follows the last message."""
    games, rules = make(3, Shape(1, 3, 2))
    heard = user.acting
    pooled = payoffs(games, rules, em.Pooled(), heard)
    chex.assert_trees_all_close(payoffs(games, rules, em.Conversation(1, 2, to), user), pooled, atol=ATOL, rtol=0)
    if isinstance(heard, em.QuantalUser):
        slopes = [
            pseudo_gradient(games, rules, p, u) for p, u in ((em.Conversation(1, 5, to), user), (em.Pooled(), heard))
        ]
        np.testing.assert_allclose(*slopes, rtol=0, atol=GRADIENT)
        assert np.abs(slopes[1]).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("user", [QUANTAL, USERS["agents"]], ids=["quantal", "agents"])
def test_silent_users_hear_one_long_message(user):
    """Q = 1: three rounds of two messages are one of eight."""
    shape = Shape(3, 2, 1)
    games, rules = make(2, shape)
    spoken = np.array([[brute.words(shape, rule, XB) for rule in profile] for profile in rules])
    got = payoffs(games, rules, shape.protocol, user)
    chex.assert_trees_all_close(got, payoffs(games, spoken, em.Pooled(), user), atol=ATOL, rtol=0)
    chex.assert_trees_all_close(got, payoffs(games, rules, em.Conversation(3, 1, "all"), user), atol=ATOL, rtol=0)


def test_replies_to_each_or_to_all_are_the_same_to_one_agent():
    games, rules = make(1, Shape(3, 2, 2))
    each, both = (payoffs(games, rules, em.Conversation(3, 2, to), QUANTAL) for to in ("each", "all"))
    chex.assert_trees_all_close(each, both, atol=ATOL, rtol=0)


@pytest.mark.parametrize(("to", "user"), [("each", USERS["agents"]), ("all", QUANTAL)], ids=["each", "all"])
def test_order_of_agents_does_not_matter(to, user):
    K, shape = 3, Shape(2, 2, 2, to)
    games, rules = make(K, shape)
    order = [2, 0, 1]
    other = em.Game(games.prior, games.user_utility, games.agent_utilities[:, order])
    got, base = payoffs(other, rules[:, order], shape.protocol, user), payoffs(games, rules, shape.protocol, user)
    np.testing.assert_allclose(got.user, base.user, rtol=0, atol=ATOL)
    np.testing.assert_allclose(got.agents, base.agents[:, jnp.array(order)], rtol=0, atol=ATOL)


def best_of_all_strategies(game, rules, shape):
    """The user's best pure strategy: every reply rule, each with every decision rule on the transcripts it leads to."""
    m, g, _ = brute.reduced(game)
    K = len(rules)
    messages, replies = list(itertools.product(range(shape.M), repeat=K)), brute.joint_replies(shape, K)
    assert shape.R == g.shape[2] == 2
    leaves = len(messages) ** 2
    decisions = np.array(list(itertools.product(range(2), repeat=leaves)))
    total = 0.0
    for x in range(len(m)):
        best = -np.inf
        for plan in itertools.product(replies, repeat=len(messages)):
            worth = []  # of each action, by transcript
            for said, heard in zip(messages, plan, strict=True):
                for then in messages:
                    chance = [
                        np.prod([
                            rules[i][brute.row(shape, b, ()), said[i]]
                            * rules[i][brute.row(shape, b, [(said[i], heard[i])]), then[i]]
                            for i in range(K)
                        ])
                        for b in range(m.shape[1])
                    ]  # fmt: skip
                    worth.append(np.array(chance) @ g[x])
            first, second = np.array(worth).T
            best = max(best, (first.sum() + decisions @ (second - first)).max())
        total += best
    return total


@pytest.mark.slow
@pytest.mark.parametrize(("K", "to"), [(1, "each"), (2, "all")])
def test_backward_induction_is_the_best_of_all_strategies(K, to):
    shape = Shape(2, 2, 2, to)
    games, rules = make(K, shape, seed=4, xb=2, a=2)
    user = em.RationalUser()
    got = payoffs(games, rules, shape.protocol, user).user
    for n in range(2):
        np.testing.assert_allclose(got[n], best_of_all_strategies(games[n], rules[n], shape), rtol=0, atol=ATOL)


def test_a_rational_user_is_no_worse_off_than_by_any_given_replies():
    K, shape = 2, Shape(2, 2, 2)
    games, rules = make(K, shape, seed=5)
    best = payoffs(games, rules, shape.protocol, USERS["lowest"]).user
    for seed in range(5):
        user = em.FixedReplies(given(K, shape, seed), USERS["lowest"])
        assert (payoffs(games, rules, shape.protocol, user).user <= best + ATOL).all()


# gradients


def slope_cases():
    each, both = Shape(2, 2, 2), Shape(3, 2, 2, "all")
    return [
        ("all", 2, both, both.protocol, QUANTAL),
        ("given", 2, each, each.protocol, em.FixedReplies(given(2, each), QUANTAL)),
        ("selection", 2, each, em.Selection(0.3, then=each.protocol), QUANTAL),
        ("selection-fixed", 2, each, em.Selection(0.3, then=each.protocol), em.FixedReplies("truthful", QUANTAL)),
    ]


@pytest.mark.slow
@pytest.mark.x64
@pytest.mark.parametrize(
    ("name", "K", "shape", "protocol", "user"),
    [pytest.param(*c, id=c[0], marks=SLOW * (c[0] == "selection-fixed")) for c in slope_cases()],
)
def test_pseudo_gradient_by_central_differences(name, K, shape, protocol, user):
    games, rules = make(K, shape, seed=6)
    game, rules = games[0], rules[0]
    step = 1e-5
    some = list(np.ndindex(rules.shape))
    some = [some[j] for j in np.random.default_rng(0).permutation(len(some))[:128]]
    moved = np.repeat(rules[None, None], len(some), 0).repeat(2, 1)
    for j, at in enumerate(some):
        moved[(j, 0, *at)] += step
        moved[(j, 1, *at)] -= step
    agents = np.asarray(payoffs(game, moved, protocol, user).agents)
    slope = (agents[:, 0] - agents[:, 1]) / (2 * step)
    closed = np.asarray(pseudo_gradient(game, rules, protocol, user))
    mine = np.array([slope[j, at[0]] for j, at in enumerate(some)])
    np.testing.assert_allclose([closed[at] for at in some], mine, rtol=0, atol=1e-7)  # step^2 * third derivatives
    assert np.abs(mine).max() > 0.001


def test_pseudo_gradient_is_autodiff():
    K, shape = 2, Shape(2, 2, 2)
    games, rules = make(K, shape, seed=7)
    game, rules = games[0], jnp.asarray(rules[0])
    whole = jax.jit(jax.jacrev(lambda s: em.payoffs(game, s, shape.protocol, QUANTAL).agents))(rules)
    closed = pseudo_gradient(game, rules, shape.protocol, QUANTAL)
    np.testing.assert_allclose(closed, [whole[i, i] for i in range(K)], rtol=0, atol=GRADIENT)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["all", "given", "selection"])
def test_own_slope_is_the_agents_row(which):
    _, K, shape, protocol, user = next(c for c in slope_cases() if c[0] == which)
    games, rules = make(K, shape, seed=8)
    game, rules = centred_game(games[0]).game, jnp.asarray(rules[0])
    rows = pseudo_gradient(games[0], rules, protocol, user)
    for i in range(K):
        slope = own_gradient(protocol, game, rules, jnp.eye(K)[i], user)
        np.testing.assert_allclose(slope, rows[i], rtol=0, atol=GRADIENT)
    assert np.abs(rows[0] - rows[1]).max() > 0.01


def test_pseudo_gradient_is_finite_where_transcripts_never_happen():
    shape = Shape(2, 2, 2)
    games, _ = make(2, shape)
    rules = np.eye(2)[np.random.default_rng(0).integers(0, 2, (2, brute.rows(shape, XB)))]
    assert np.isfinite(pseudo_gradient(games[0], rules, shape.protocol, em.QuantalUser(50.0))).all()


def test_no_gradient_where_payoffs_jump():
    games, rules = make(2, Shape(2, 2, 2))
    conversation = em.Conversation(2, 2)
    with pytest.raises(ValueError, match=r"^user: payoffs jump"):
        em.pseudo_gradient(games, rules, conversation, em.RationalUser())
    with pytest.raises(ValueError, match=r"^user: payoffs jump"):
        em.pseudo_gradient(games, rules, conversation, em.FixedReplies("babbling", em.RationalUser()))
    for protocol, user in (
        (em.Selection(0.0, conversation), QUANTAL),
        (em.Selection(0.1, conversation), em.RationalUser()),
        (em.Selection(0.1, conversation), em.FixedReplies("babbling", em.RationalUser())),
    ):
        with pytest.raises(ValueError, match=r"^(protocol|user|protocol, user): payoffs jump"):
            em.pseudo_gradient(games, rules, protocol, user)


# batches


@pytest.mark.slow
def test_parameters_over_the_batch():
    """A precision, a temperature and a reply rule of its own for each game."""
    K, shape = 2, Shape(2, 2, 2)
    games, rules = make(K, shape, seed=9)
    replies = np.stack([given(K, shape, 1), given(K, shape, 2)])
    alone = np.stack([given(1, shape, 1), given(1, shape, 2)])
    precision, temperature = np.array([2.0, 9.0]), np.array([0.1, 0.5])
    conversation = shape.protocol
    cases = [
        (conversation, em.FixedReplies(replies, em.QuantalUser(precision))),
        (em.Selection(temperature, conversation), em.FixedReplies(alone, em.QuantalUser(precision))),
    ]
    for protocol, user in cases:
        both, slope = payoffs(games, rules, protocol, user), pseudo_gradient(games, rules, protocol, user)
        for n in range(2):
            only = jax.tree.map(lambda x, n=n: x[n], user)
            if protocol is conversation:
                expected = brute.payoffs(games[n], rules[n], shape, only)
            else:
                expected = brute.selection(games[n], rules[n], only, temperature[n], shape)
            np.testing.assert_allclose(both.user[n], expected[0], rtol=0, atol=ATOL)
            np.testing.assert_allclose(both.agents[n], expected[1], rtol=0, atol=ATOL)
            twice = jax.tree.map(lambda x, n=n: x[[n, n]], (games, rules, protocol, user))
            np.testing.assert_allclose(pseudo_gradient(*twice), slope[jnp.array([n, n])], rtol=0, atol=GRADIENT)
    got = payoffs(games, rules, conversation, em.QuantalUser(precision))
    assert_like(got, [brute.payoffs(games[n], rules[n], shape, em.QuantalUser(precision[n])) for n in range(2)])


# bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rounds": 0}, r"^rounds: expected an integer >= 1, got 0"),
        ({"rounds": -2}, r"^rounds: expected an integer >= 1, got -2"),
        ({"rounds": 2.5}, r"^rounds: expected an integer >= 1, got 2.5"),
        ({"rounds": "2"}, r"^rounds: expected an integer >= 1, got '2'"),
        ({"rounds": 2, "replies": 0}, r"^replies: expected an integer >= 1, got 0"),
        ({"rounds": 2, "replies": 2.0}, r"^replies: expected an integer >= 1, got 2.0"),
        ({"rounds": 2, "to": "one"}, r"^to: expected one of each, all, got 'one'"),
        ({"rounds": 2, "to": ["all"]}, r"^to: expected one of each, all, got"),
    ],
)
def test_bad_conversations(arguments, message):
    with pytest.raises(ValueError, match=message):
        em.Conversation(**arguments)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ([[[0.5, 0.5], [1]]], r"^rule: expected a rectangular array of numbers or the name of a rule"),
        ("silent", r"^rule: expected one of babbling, truthful, questions or an array, got 'silent'"),
        (np.ones((2, 2)) / 2, r"^rule: expected an array \[\.\.\., XA, nodes, replies\], got shape \[2, 2\]"),
        (np.full((2, 4, 4), 0.3), r"^rule\[0, 0\]: expected probabilities >= 0 that sum to 1 over the replies"),
        (np.array([[[0.5, 0.5], [1.5, -0.5]]]), r"^rule\[0, 1\]: expected probabilities >= 0 that sum to 1"),
        (np.array([[[np.nan, 0.5]]]), r"^rule\[0, 0\]: expected probabilities >= 0 that sum to 1"),
    ],
)
def test_bad_reply_rules(rule, message):
    with pytest.raises(ValueError, match=message):
        em.FixedReplies(rule, QUANTAL)


def test_fixed_replies_need_a_user_who_acts():
    with pytest.raises(ValueError, match=r"^acting: expected a user such as RationalUser"):
        em.FixedReplies("babbling", em.FixedReplies("babbling", QUANTAL))


def refused(games, rules, protocol, user, message):
    """By payoffs, solve and certify alike."""
    for call in (
        lambda: em.payoffs(games, rules, protocol, user),
        lambda: em.certify(games, rules, protocol, user),
        lambda: em.solve(games, protocol, user, key=jax.random.key(0), messages=rules.shape[-1]),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_reply_rules_that_do_not_fit():
    K, shape = 2, Shape(2, 2, 2)
    games, rules = make(K, shape)
    small = em.FixedReplies(given(K, Shape(2, 2, 2, "all")), QUANTAL)
    expected = r"^rule: expected shape \[\.\.\., XA = 2, nodes = 4, replies = 4\] in 2 rounds with 2 agents, 2 messages"
    refused(games, rules, shape.protocol, small, expected)
    both = em.FixedReplies(given(K, shape), QUANTAL)  # in Selection the user converses with one agent only
    expected = r"^rule: expected shape \[\.\.\., XA = 2, nodes = 2, replies = 2\] in 2 rounds with 1 agents"
    refused(games, rules, em.Selection(0.1, shape.protocol), both, expected)
    with pytest.raises(
        ValueError, match=r"^rule: expected shape .* with 1 agents"
    ):  # of one agent alone it says nothing
        em.solve(games, shape.protocol, em.FixedReplies(given(K, shape), QUANTAL), start="monopolist", messages=2)
    games, rules = make(K, shape, xa=3)
    expected = r'^rule: "truthful" needs replies\^\(rounds - 1\) >= XA = 3 to report x_A, got 2\^1'
    refused(games, rules, shape.protocol, em.FixedReplies("truthful", QUANTAL), expected)
    games, rules = make(K, Shape(1, 2, 2))
    for protocol in (em.Pooled(), em.Selection()):
        expected = rf"^user: FixedReplies needs a Conversation, there are no replies in {type(protocol).__name__}"
        refused(games, rules, protocol, em.FixedReplies("babbling", QUANTAL), expected)


@pytest.mark.parametrize("user", [QUANTAL, em.RationalUser(), em.FixedReplies("babbling", QUANTAL)])
def test_trees_that_are_too_large(user):
    """Their rules are small: it is the transcripts that are many."""
    shape = Shape(3, 4, 4)
    games, rules = make(3, shape)
    bytes_ = 8 * 3 * XA * A * (4**3 * 4**3) ** 2 * 4**3
    protocol = shape.protocol
    message = (
        rf"^rounds, messages, replies: 3 rounds with 3 agents, 4 messages and 4 replies .* {bytes_:.3g} bytes a game"
    )
    refused(games, rules, protocol, user, message.replace("+", r"\+"))
    with pytest.raises(ValueError, match="The largest that fits") as refusal:
        em.payoffs(games, rules, protocol, user)
    text = str(refusal.value)
    limit = 2**24
    for field, sizes in (
        ("rounds", lambda n: (n, 4, 4)),
        ("messages", lambda n: (3, n, 4)),
        ("replies", lambda n: (3, 4, n)),
    ):
        cells = lambda R, M, Q: 3 * XA * A * (M**3 * Q**3) ** (R - 1) * M**3  # noqa: E731
        fits = [n for n in range(1, 4) if cells(*sizes(n)) <= limit]
        assert (f"{field} = {fits[-1]}" in text) if fits else (f"{field} =" not in text)
    assert "rounds = " in text
    with pytest.raises(ValueError, match=r"^rounds, messages, replies: "):
        em.best_response(games[0], rules[0], 0, protocol, user)


def test_conversations_of_too_many_rounds():
    """Numbers too long for a float are named all the same."""
    games, _ = make(2, Shape(1, 2, 2))
    with pytest.raises(ValueError, match=r"^rounds: expected an integer <= 100, got 2000"):
        em.Conversation(2000, 2)
    with pytest.raises(ValueError, match=r"^rounds, messages, replies: 100 rounds .*The largest that fits.* rounds = "):
        em.solve(games, em.Conversation(100, 2), QUANTAL, key=jax.random.key(0))


def test_rules_of_wrong_size():
    shape = Shape(2, 2, 2)
    games, rules = make(2, shape)
    right = (
        rf"^(schemes|start): expected shape \[\.\.\., K = 2, rows = XB \* H \(M = 2\) = {XB * 5}, M\] with M >= 1, got"
    )
    for wrong in (rules[..., :XB, :], rules[..., :-1, :], rules[:, :1], np.concatenate([rules, rules], 2)):
        for call in (em.payoffs, em.certify):
            for protocol in (shape.protocol, em.Selection(then=shape.protocol)):
                with pytest.raises(ValueError, match=right):
                    call(games, wrong, protocol, em.RationalUser())
        with pytest.raises(ValueError, match=right):
            em.solve(games, shape.protocol, em.RationalUser(), start=wrong)
    with pytest.raises(ValueError, match=r"^schemes: expected shape"):
        em.payoffs(games, rules[..., :0], shape.protocol, em.RationalUser())
