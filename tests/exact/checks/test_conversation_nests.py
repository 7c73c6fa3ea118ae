"""Nested concavification in conversations: exact against fixed replies, and never below any deviation."""

import itertools

import jax
import numpy as np
import pytest
import support.conversations as brute
from support.conversations import Shape
from support.nests import best_against_fixed_replies

import emalign_jax as em
from emalign_jax.exact.checks import conversation_nests as nests
from emalign_jax.exact.checks.base import make_check
from emalign_jax.exact.checks.conversation_starts import revealing, silent
from emalign_jax.exact.checks.deviation_search import Ascent, search
from emalign_jax.exact.checks.searched import SearchedCheck
from emalign_jax.exact.concavification.nested import nested_optimum

pytestmark = pytest.mark.host_only

WORK = 10**8
# A rational user's ties are within 1e-6 of what actions differ by, at each of a few nodes.
TIES = 1e-5
QUANTAL = em.QuantalUser(20.0)


def draw(rng, shape, K, xa=2, xb=2, actions=3, spread=0.5):
    """A game, and rules of which some rows are pure."""
    states = 3
    prior = rng.dirichlet(np.ones(xa * xb * states)).reshape(xa, xb, states)
    game = em.Game(prior, rng.normal(size=(actions, states)), rng.normal(size=(K, actions, states)))
    rules = rng.dirichlet(np.full(shape.M, spread), (K, brute.rows(shape, xb)))
    pure = np.eye(shape.M)[rng.integers(shape.M, size=rules.shape[:2])]
    return game, np.where(rng.random((*rules.shape[:2], 1)) < 0.3, pure, rules)


def fixed(rng, name, acting, shape, K, xa=2):
    if name != "given":
        return em.FixedReplies(name, acting)
    where, replies = brute.reply_rows(shape, K)
    return em.FixedReplies(rng.dirichlet(np.full(len(replies), 0.5), (xa, len(where))), acting)


def nest_of(game, rules, agent, shape, user):
    tree, small = shape.protocol.tree(len(rules), shape.M), em.reduce_game(game, np)
    assert nests.fits(tree, small, user)
    return (nests.free_replies if user.plans else nests.fixed_replies)(small, rules, agent, tree, user)


AGAINST = [
    (Shape(2, 2, 2), 2, "given", QUANTAL),
    (Shape(2, 2, 2, "all"), 2, "given", em.QuantalUser(3.0)),
    (Shape(2, 3, 2), 2, "truthful", QUANTAL),
    (Shape(2, 2, 2), 3, "given", em.RationalUser()),
    (Shape(3, 2, 2), 1, "given", QUANTAL),
    (Shape(3, 2, 2, "all"), 2, "babbling", em.RationalUser()),
]


@pytest.mark.parametrize(
    ("shape", "K", "name", "acting"),
    [pytest.param(*case, id=f"{case[0].R}-{case[0].to}-{case[2]}-{n}") for n, case in enumerate(AGAINST)],
)
@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.nightly) for n in range(1, 40))])
def test_best_rule_against_fixed_replies(shape, K, name, acting, seed):
    """The value, its bound and the payoff of the rule are those of an LP over a fine grid of beliefs."""
    rng = np.random.default_rng([seed, K, shape.R])
    game, rules = draw(rng, shape, K)
    user, agent = fixed(rng, name, acting, shape, K), seed % K
    expected = best_against_fixed_replies(game, rules, agent, shape, user)
    nest = nest_of(game, rules, agent, shape, user)
    found = nested_optimum(*nest, width=5e-7, work=WORK)
    assert expected - 1e-9 <= found.value <= found.upper
    assert found.upper == pytest.approx(expected, abs=1e-6)
    rules[agent] = nests.to_rule(nest, found, shape.protocol.tree(K, shape.M))
    assert brute.payoffs(game, rules, shape, user)[1][agent] == pytest.approx(expected, abs=1e-6)


def attack(rng, shape, K, user, xa, xb, count=40):
    """The nest's bound, less the payoff of the best of many deviations: random, pure, and the ends of ascents."""
    game, rules = draw(rng, shape, K, xa, xb, spread=rng.choice([0.1, 1.0]))
    agent = int(rng.integers(K))
    bound = nested_optimum(*nest_of(game, rules, agent, shape, user), width=1e-3, work=WORK).upper
    one, users = jax.tree.map(lambda x: np.asarray(x)[None], (em.reduce_game(game, np), user))
    check = make_check(one, 0, shape.protocol, users, shape.M)
    assert isinstance(check, SearchedCheck)
    rows = rules.shape[1]
    tried = [rng.dirichlet(np.full(shape.M, spread), rows) for spread in (0.05, 0.5) for _ in range(count)]
    tried += [np.eye(shape.M)[rng.integers(shape.M, size=rows)] for _ in range(count)]
    alone = shape.protocol.tree(1, shape.M)
    starts = [rules[agent], silent(alone, xb), revealing(alone, xb), *tried[:3]]
    tried += [*starts, *search([Ascent(check, rules, agent, starts)], 1000)[0]]
    unit, zero = check.form.agent_unit[agent], check.form.agent_zero[agent]
    return bound - (unit * max(check._switch(rules, agent, rule) for rule in tried) + zero)


# Rounds, messages, replies; agents; x_A, x_B; the user.
ATTACKED = [
    (Shape(2, 2, 2, "all"), 2, 2, 2, QUANTAL),
    (Shape(2, 2, 2), 2, 3, 3, em.QuantalUser(5.0)),
    (Shape(2, 2, 2), 3, 2, 2, em.QuantalUser(100.0)),
    (Shape(3, 2, 2, "all"), 2, 2, 2, QUANTAL),
    (Shape(2, 2, 3), 1, 3, 2, QUANTAL),
    (Shape(2, 2, 2), 2, 2, 2, em.RationalUser()),
    (Shape(2, 2, 2, "all"), 2, 2, 2, em.RationalUser("lowest")),
    (Shape(2, 2, 2), 2, 2, 3, em.FixedReplies("truthful", QUANTAL)),
    (Shape(2, 2, 2, "all"), 2, 2, 3, em.FixedReplies("questions", em.RationalUser())),
    (Shape(3, 2, 2), 1, 3, 3, em.FixedReplies("truthful", em.QuantalUser(50.0))),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "K", "xa", "xb", "user"), [pytest.param(*case, id=f"{n}") for n, case in enumerate(ATTACKED)]
)
@pytest.mark.parametrize("games", [5, pytest.param(200, marks=pytest.mark.nightly)])
def test_no_deviation_pays_more_than_the_bound(shape, K, xa, xb, user, games):
    room = np.array([attack(np.random.default_rng([n, games]), shape, K, user, xa, xb) for n in range(games)])
    assert (room >= -(1e-9 if user.is_smooth else TIES)).all()
    assert room.min() < 0.01  # some deviation comes near


@pytest.mark.slow
@pytest.mark.parametrize("to", ["each", "all"])
def test_no_rule_on_a_grid_pays_more(to):
    """All 3^10 rules of one agent with probabilities 0, 1/2 and 1, against fixed replies and a user that plans them."""
    shape, rng = Shape(2, 2, 2, to), np.random.default_rng(3)
    game, rules = draw(rng, shape, 2)
    every = np.array(list(itertools.product([0.0, 0.5, 1.0], repeat=10)))
    every = np.stack([every, 1 - every], -1)
    profiles = np.stack([every, np.broadcast_to(rules[1], every.shape)], 1)
    paid = jax.jit(jax.vmap(lambda small, s, user: shape.protocol.payoffs(small, s, user).agents[0], (None, 0, None)))
    for user in (QUANTAL, fixed(rng, "given", QUANTAL, shape, 2)):
        bound = nested_optimum(*nest_of(game, rules, 0, shape, user), width=1e-4, work=WORK).upper
        most = float(np.max(paid(em.reduce_game(game, np), profiles, user)))
        assert most <= bound + TIES
        assert most >= bound - 0.1


def test_against_rivals_that_say_all_only_their_word_counts():
    """Rivals reveal x_B in the first round: no deviation changes anything, and the bound says so."""
    shape, rng = Shape(2, 2, 2), np.random.default_rng(0)
    game, rules = draw(rng, shape, 2)
    rules[1] = np.eye(2)[np.repeat([0, 1], 5)]
    user = QUANTAL
    paid = brute.payoffs(game, rules, shape, user)[1][0]
    found = nested_optimum(*nest_of(game, rules, 0, shape, user), width=1e-6, work=WORK)
    assert found.value == pytest.approx(paid, abs=1e-9)
    assert found.upper == pytest.approx(paid, abs=1e-6)


def test_a_bound_needs_no_good_prices():
    """Prices above each end's payoffs are above the root's, whatever they are."""
    shape, rng = Shape(2, 2, 2), np.random.default_rng(1)
    game, rules = draw(rng, shape, 2)
    user = fixed(rng, "given", QUANTAL, shape, 2)
    nest = nest_of(game, rules, 0, shape, user)
    found = nested_optimum(*nest, width=1e-6, work=WORK)
    slopes = rng.normal(size=(nest.nesting.ends, 2))
    mu = np.linspace(0, 1, 2001)
    points = np.broadcast_to(np.stack([1 - mu, mu], 1), (nest.nesting.ends, 2001, 2))
    paid = nests.payoffs(nest.problems, points)[0]
    above = (paid - (points * slopes[:, None]).sum(2)).max(1) + 1e-3  # The grid is fine enough.
    assert nest.nesting.fold(slopes + above[:, None]) @ nest.problems.target[0] >= found.value


@pytest.mark.parametrize("seed", [*range(2), *(pytest.param(n, marks=pytest.mark.nightly) for n in range(2, 100))])
@pytest.mark.parametrize("messages", [2, 3])
def test_no_rule_worth_as_much_pays_more(seed, messages):
    """One agent and fixed replies, if the user is to get at least some value; with three messages it is attained."""
    shape, rng = Shape(2, messages, 2), np.random.default_rng([seed, messages])
    game, rules = draw(rng, shape, 1)
    user = fixed(rng, "given", QUANTAL, shape, 1)
    tried = [rng.dirichlet(np.full(messages, spread), rules.shape[1]) for spread in (0.05, 0.5) for _ in range(15)]
    tried += [revealing(shape.protocol.tree(1, messages), 2), silent(shape.protocol.tree(1, messages), 2)]
    value, paid = zip(*(brute.payoffs(game, rule[None], shape, user) for rule in tried), strict=True)
    value, paid = np.array(value), np.array(paid)[:, 0]
    nest = nest_of(game, rules, 0, shape, user)
    for asked in np.quantile(value, [0.3, 0.9]):
        found = nested_optimum(*nest, width=1e-5, work=WORK, at_least=asked, margin=1e-9)
        assert paid[value >= asked].max() <= found.upper + 1e-9
        rule = nests.to_rule(nest, found, shape.protocol.tree(1, messages), keep_value=True)
        got = brute.payoffs(game, rule[None], shape, user)
        if messages == 3:
            assert got[0] >= asked
            assert found.upper - 2e-5 <= got[1][0] <= found.upper
    # A value beyond reach is not refused: what is missing has its price, and the bound holds of what is asked.
    beyond = nested_optimum(*nest, width=1e-3, work=WORK, at_least=value.max() + 1.0)
    assert beyond.upper <= found.upper


def certified(user, to, family, count=8):
    games = em.random_games(3, count, agents=2, user_features=2, agent_features=2, actions=3, family=family)
    found = em.solve(games, em.Conversation(2, 2, to), user, messages=2, key=3)
    return (np.asarray(found.result) == em.Result.CERTIFIED).mean()


@pytest.mark.slow
@pytest.mark.parametrize("to", ["each", "all"])
def test_equilibria_are_certified(to):
    """At the sizes of section 5.6: most of a user that plans its replies, and all with fixed replies."""
    assert certified(QUANTAL, to, "opposed") >= 0.75
    assert certified(em.FixedReplies("truthful", QUANTAL), to, "shared_bias") >= 0.9


@pytest.mark.slow
def test_equilibria_of_selection_are_certified():
    games = em.random_games(3, 8, agents=2, user_features=2, agent_features=2, actions=3, family="goal")
    user = em.FixedReplies("truthful", QUANTAL)
    found = em.solve(games, em.Selection(then=em.Conversation(2, 2)), user, messages=2, key=0)
    assert (np.asarray(found.result) == em.Result.CERTIFIED).mean() >= 0.75
