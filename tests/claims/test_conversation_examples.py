"""Named games in which conversations matter: what their docstrings claim, by hand, by brute force, by the library."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import emalign_jax as em
from emalign_jax.games import catalog

pytestmark = pytest.mark.host_only  # what float32 changes is in tests/protocols/test_conversation.py

ATOL = 1e-5  # numbers up to 10
RATIONAL = em.RationalUser()


def paid(game, schemes, protocol, user=RATIONAL):
    """User value and agents' payoffs of profiles [N, K, rows, M] of one game."""
    schemes = np.asarray(schemes, float)
    games = jax.tree.map(lambda x: np.broadcast_to(x, (len(schemes), *x.shape)), game)
    got = em.payoffs(games, schemes, protocol, user)
    return np.asarray(got.user, float), np.asarray(got.agents, float)


def partition(groups, messages=2):
    return np.eye(messages)[np.asarray(groups)]


def say(game, protocol, tell, messages=2):
    """The rule [rows, M] of an agent that sends tell(x_B, its past messages, past replies) with certainty."""
    tree = protocol.tree(1, messages)
    rule = np.zeros((game.agent_features, tree.information_sets, messages))
    for r in range(tree.rounds):
        for h in range(tree.histories(r)):
            past = np.unravel_index(h, (messages, tree.replies) * r) if r else ()
            for xb in range(game.agent_features):
                rule[xb, tree.first(r) + h, tell(xb, past[::2], past[1::2])] = 1
    return rule.reshape(-1, messages)


def silence(game, protocol):
    return say(game, protocol, lambda *_: 0)


# cautious advisers


def signals():
    """Binary signals on four values, as the probability of the second message: a grid, random, and nearly nothing."""
    rng = np.random.default_rng(0)
    grid = np.array(list(itertools.product(np.linspace(0, 1, 15), repeat=4)))
    near = 0.5 + rng.standard_normal((3000, 4)) * 10 ** rng.uniform(-6, -1, (3000, 1))
    return np.concatenate([grid, rng.random((20_000, 4)), rng.random((3000, 4)) * 1e-3, near.clip(0, 1)])


def advised(second, ties):
    """An adviser's payoff from each signal [N, 4]: after either message the user guesses or takes the safe action."""
    total = 0.0
    for joint in (second / 4, (1 - second) / 4):
        all_ = joint.sum(1, keepdims=True)
        user = np.concatenate([0 * all_, 4 * joint - all_], 1)
        agent = np.concatenate([0 * all_, 11 * joint - 10 * all_], 1)
        tied = user >= user.max(1, keepdims=True) - 1e-12
        if ties == "uniform":
            total = total + (tied * agent).sum(1) / tied.sum(1)
        else:
            rank = np.where(tied, agent, -np.inf) if ties == "agents" else tied
            total = total + np.take_along_axis(agent, rank.argmax(1)[:, None], 1)[:, 0]
    return total


@pytest.mark.parametrize("ties", ["agents", "lowest"])
def test_no_bit_helps_a_cautious_adviser(ties):
    game, user = catalog.cautious_advisers(), em.RationalUser(ties)
    second = signals()
    payoffs = advised(second, ties)
    assert payoffs.max() <= 1e-12
    informative = np.ptp(second, axis=1) > 1e-6
    assert payoffs[informative].max() <= -4.5 + 1e-9  # what the proof says; babbling pays 0
    some = second[::2000]
    silent = np.broadcast_to(silence(game, em.Conversation(1)), (len(some), 4, 2))
    profiles = np.stack([np.stack([1 - some, some], -1), silent], 1)
    np.testing.assert_allclose(paid(game, profiles, em.Conversation(1), user)[1][:, 0], payoffs[::2000], atol=ATOL)


def test_a_user_who_guesses_at_random_is_better_told():
    """The tie rule matters at the prior: a user who mixes evenly is wrong so often that any bit helps."""
    np.testing.assert_allclose(advised(np.full((1, 4), 0.5), "uniform"), -5.8)  # 4/5 * (11/4 - 10)
    np.testing.assert_allclose(advised(signals(), "uniform").max(), -4.5, atol=0.05)
    np.testing.assert_allclose(advised(np.array([[0.0, 0, 1, 1]]), "agents"), -4.5)


@pytest.mark.slow
def test_two_rounds_help_a_cautious_adviser():
    game, protocol = catalog.cautious_advisers(), em.Conversation(2)
    name = say(game, protocol, lambda xb, said, heard: xb >> (1 - len(said)) & 1)
    for profile in ([name, silence(game, protocol)], [silence(game, protocol), name]):
        user, agents = paid(game, [profile], protocol)
        np.testing.assert_allclose([*user, *agents[0]], [3, 1, 1], atol=ATOL)
    np.testing.assert_allclose(paid(game, [[silence(game, protocol)] * 2], protocol)[1], 0, atol=ATOL)
    for rounds, gain in ((1, 0), (2, 1)):
        protocol = em.Conversation(rounds, replies=1)
        certificate = em.certify(game, [silence(game, protocol)] * 2, protocol, RATIONAL)
        np.testing.assert_allclose(certificate.gain_lower, gain, atol=1e-5)
        np.testing.assert_allclose(certificate.gain_upper, gain, atol=1e-5)  # the tie tolerance is worth 4e-6


@pytest.mark.slow
@pytest.mark.x64  # gains of 1e-5
def test_without_a_tie_one_bit_is_enough_to_leave_babbling():
    """If any scheme pays more than silence and the user has no tie there, so does one of its messages, sent rarely."""
    games = em.random_games(jax.random.key(3), 12, family="shared_bias", agents=1, states=4, actions=3, user_features=2)
    tried = 0
    for k in range(12):
        game = games[k]
        silent = em.no_information(1, 4, 2)
        best = em.best_response(game, silent, 0, em.Pooled(), RATIONAL)
        base = paid(game, [silent], em.Conversation(1))[1].item()
        if best.value < base + 1e-3:
            continue
        tried += 1
        rare = 1e-4 * best.scheme.T
        payoffs = paid(game, np.stack([1 - rare, rare], -1)[:, None], em.Conversation(1))[1]
        assert payoffs.max() > base + 1e-7
    assert tried >= 5


# few messages: fully aligned agents


@pytest.mark.slow
def test_naming_a_value_helps_whenever_information_does():
    """Aligned agents: naming x_B = y is worth m_y (best - default) or more, and these add up to V_full - V_none."""
    games = em.random_games(jax.random.key(0), 40, agents=1, states=4, actions=4, user_features=2)
    full = np.asarray(em.payoffs(games, em.full_revelation(1, 4, 4), em.Pooled(), RATIONAL).user)
    none = np.asarray(em.payoffs(games, em.no_information(1, 4, 2), em.Pooled(), RATIONAL).user)
    named = [partition((np.arange(4) == y).astype(int))[None] for y in range(4)]
    naming = [np.asarray(em.payoffs(games, scheme, em.Pooled(), RATIONAL).user) for scheme in named]
    assert (np.max(naming, axis=0) - none >= (full - none) / 4 - 1e-6).all()
    assert (full - none > 0.01).mean() > 0.8


@pytest.mark.slow
@pytest.mark.parametrize(("rounds", "replies"), [(1, 1), (2, 1), (2, 2)])
def test_aligned_agents_leave_babbling_and_are_stuck_elsewhere(rounds, replies):
    game, protocol = catalog.few_messages(), em.Conversation(rounds, replies)
    babbling = [silence(game, protocol)] * 2
    naming = [say(game, protocol, lambda xb, said, heard, y=y: int(xb == y)) for y in (0, 1)]
    one, two = (em.certify(game, profile, protocol, RATIONAL) for profile in (babbling, naming))
    np.testing.assert_allclose([one.user, two.user], [0.5, 0.75])
    for bound in ("gain_lower", "gain_upper"):
        np.testing.assert_allclose(getattr(one, bound), 0.125 if rounds == 1 else 0.5, atol=1e-5)
        np.testing.assert_allclose(getattr(two, bound), 0 if rounds == 1 else 0.25, atol=1e-5)
    # the same gains by brute force over deterministic bits (enough: an aligned agent's payoff is convex in its rule)
    if rounds == 1:
        bits = np.array([partition([n >> y & 1 for y in range(4)]) for n in range(16)])
        for profile, best in ((babbling, 0.625), (naming, 0.75)):
            switched = np.stack([bits, np.broadcast_to(profile[1], bits.shape)], 1)
            np.testing.assert_allclose(paid(game, switched, protocol)[0].max(), best, atol=ATOL)


# what to ask


def best_words(bits, words):
    """The most that one message out of `words` can be worth: dynamic programming over partitions of the cube."""
    cube = np.array(list(itertools.product([0, 1], repeat=bits)))
    n = len(cube)
    right = np.zeros(2**n, int)
    for cell in range(1, 2**n):
        ones = cube[[i for i in range(n) if cell >> i & 1]].sum(0)
        right[cell] = np.maximum(ones, cell.bit_count() - ones).sum()
    best = right
    for _ in range(words - 1):
        more = best.copy()
        for cell in range(2**n):
            part = cell
            while part:
                more[cell] = max(more[cell], right[part] + best[cell ^ part])
                part = (part - 1) & cell
        best = more
    return best[-1] / (n * bits)


def test_majority_says_more_than_one_bit():
    np.testing.assert_allclose([best_words(3, 2**r) for r in (1, 2, 3)], [3 / 4, 5 / 6, 1])
    np.testing.assert_allclose([best_words(2, 2**r) for r in (1, 2)], [3 / 4, 1])
    game, protocol = catalog.what_to_ask(), em.Conversation(1)
    majority = say(game, protocol, lambda xb, *_: int(xb.bit_count() >= 2))
    first = say(game, protocol, lambda xb, *_: xb >> 2)
    np.testing.assert_allclose(paid(game, [[majority], [first]], protocol)[0], [3 / 4, 2 / 3], atol=ATOL)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [2, 3])
def test_bits_by_hand(bits):
    game = catalog.what_to_ask(bits)
    for rounds in range(1, bits + 1):
        protocol = em.Conversation(rounds, replies=1)
        in_turn = say(game, protocol, lambda xb, said, heard: xb >> (bits - 1 - len(said)) & 1)
        told = (rounds + (bits - rounds) / 2) / bits
        np.testing.assert_allclose(paid(game, [[in_turn]], protocol)[0], told, atol=ATOL)
    protocol = em.Conversation(2, replies=bits)
    asked = say(game, protocol, lambda xb, said, heard: xb >> (bits - 1 - heard[-1]) & 1 if heard else 0)
    np.testing.assert_allclose(paid(game, [[asked]], protocol)[0], 1, atol=ATOL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rounds", "replies", "value"),
    [(2, 3, 1), *(pytest.param(*case, marks=pytest.mark.nightly) for case in ((1, 3, 3 / 4), (2, 1, 5 / 6)))],
)
def test_play_finds_what_to_ask(rounds, replies, value):
    game = catalog.what_to_ask()
    found = em.solve(
        game, em.Conversation(rounds, replies), RATIONAL, em.GradientPlay(steps=300),
        key=jax.random.key(0), messages=2, starts=4, verify=False,
    )  # fmt: skip
    np.testing.assert_allclose(found.user.max(), value, atol=1e-4)  # probabilities of 1e-6 remain


# informants


class ByInformant(em.RationalUser):
    """Of equally good routes the user takes a (action 1) if informed by agent 0, else b. The informant is the agent
    whose messages change the expected utilities more, over all that could be sent."""

    def respond(self, options, favour):
        values = options.value
        A = values.shape[-1]
        M = round(values.shape[-2] ** 0.5)
        table = values.reshape(*values.shape[:-2], M, M, A)
        moved = [jnp.max(table.max(axis) - table.min(axis), axis=(-1, -2)) for axis in (-3, -2)]
        rank = jnp.where((moved[0] > moved[1])[..., None], jnp.array([0, 2, 1]), jnp.array([0, 1, 2]))[..., None, :]
        tied = self.best(options, xp=jnp)
        return jax.nn.one_hot(jnp.where(tied, rank, -1).argmax(-1), A, dtype=values.dtype)


def deviations(agent, messages=2):
    """Profiles in which the other babbles and `agent` sends any binary signal of a grid (or random ones of more)."""
    if messages == 2:
        second = np.array(list(itertools.product(np.linspace(0, 1, 61), repeat=2)))
        own = np.stack([1 - second, second], -1)
    else:
        own = np.random.default_rng(0).dirichlet(np.full(messages, 0.5), (2000, 2))
    babbling = np.full_like(own, 1 / messages)  # every message is possible, so the user sees which agent informs
    return np.stack([own, babbling] if agent == 0 else [babbling, own], 1)


@pytest.mark.parametrize("messages", [2, 3])
@pytest.mark.parametrize("agent", [0, 1])
def test_no_agent_informs_that_is_blamed_for_it(agent, messages):
    game, user = catalog.informants(), ByInformant("lowest")
    value, agents = paid(game, deviations(agent, messages), em.Pooled(), user)
    assert agents[:, agent].max() <= ATOL  # babbling pays 0
    assert value.max() > 0.4  # though information would be worth up to 1/2 to the user
    goes = value > 0.01
    assert goes.mean() > 0.05
    assert agents[goes, agent].max() < -0.01  # a strict loss: E[u] - 2 whenever a route is taken
    assert (agents[goes, 1 - agent] > 0).all()


def test_the_user_knows_which_agent_informed():
    game, user = catalog.informants(), ByInformant("lowest")
    truth, babbling = np.eye(2), np.full((2, 2), 0.5)
    value, agents = paid(game, [[truth, babbling], [babbling, truth], [babbling, babbling]], em.Pooled(), user)
    np.testing.assert_allclose(value, [0.5, 0.5, 0], atol=ATOL)
    np.testing.assert_allclose(agents, [[-0.5, 1.5], [1.5, -0.5], [0, 0]], atol=ATOL)


@pytest.mark.parametrize(
    ("user", "gains"),
    [
        (em.RationalUser("agents"), [1.5, 1.5]),
        (em.RationalUser("lowest"), [0, 1.5]),  # always a
        (em.RationalUser("uniform"), [0.5, 0.5]),
        (em.QuantalUser(20.0), [0.5, 0.5]),
        (em.QuantalUser(5.0), None),
    ],
)
def test_ties_by_the_posterior_alone_end_babbling(user, gains):
    game = catalog.informants()
    np.testing.assert_allclose(game.agent_utilities.mean(0), game.user_utility)  # eps = 0
    certificate = em.certify(game, np.full((2, 2, 2), 0.5), em.Pooled(), user)
    if gains is not None:
        np.testing.assert_allclose(certificate.gain_lower, gains, atol=1e-4)
        np.testing.assert_allclose(certificate.gain_upper, gains, atol=1e-4)
    assert certificate.gain_lower.max() > 0.4
    assert certificate.closed


def test_arguments_pass_through():
    assert catalog.cautious_advisers(3).agents == 3
    game = catalog.what_to_ask(4, agents=2)
    assert (game.user_features, game.agent_features, game.agents) == (4, 16, 2)
