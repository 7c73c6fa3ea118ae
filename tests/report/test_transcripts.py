"""Transcript trees: what the page says adds up, and agrees with payoffs computed elsewhere."""

import jax
import numpy as np
import pytest
from support.nightly import one_in

import emalign_jax as em
from emalign_jax.report import transcripts

pytestmark = pytest.mark.host_only

USERS = [
    em.RationalUser("lowest"),
    em.RationalUser("uniform"),
    em.QuantalUser(3.0),
    em.FixedReplies("babbling", em.QuantalUser(8.0)),
    em.FixedReplies("questions", em.RationalUser("lowest")),
]
PROTOCOLS = [
    em.Conversation(1),
    em.Conversation(2),
    em.Conversation(2, to="all"),
    em.Conversation(2, replies=1),
    em.Selection(then=em.Conversation(3)),
    em.Selection(0.3, then=em.Conversation(2, replies=3)),
]


def example(protocol, seed=0, agents=2, messages=2):
    game = em.random_games(jax.random.key(seed), 1, agents=agents, states=3, actions=3, user_features=2)[0]
    rows = protocol.rows(game, messages)
    schemes = em.random_schemes(jax.random.key(seed + 1), 1, agents, rows, messages, spread=2.0)[0]
    return game, schemes


def cells(text):
    """The leaf lines of a tree and its total: reached, value, agents' payoffs, as printed."""
    lines = text.split("\n")
    head = next(line for line in lines if " reached" in line)
    ends = [head.index(name) + len(name) for name in ("reached", "value")]
    rows = []
    for line in lines[lines.index(head) + 1 :]:
        if len(line) >= ends[1]:
            reached = float(line[: ends[0]].split()[-1])
            rows.append([reached, *map(float, line[ends[1] - 9 :].split()[-line[ends[1] :].count(".") - 1 :])])
    return np.array(rows[:-1]), np.array(rows[-1])


@pytest.fixture
def exactly(monkeypatch):
    """`transcript_tree`, but what it would print, unrounded: leaf lines as rows of reached, value, payoffs."""

    def lines(*arguments, at_least=0.01, **how):
        kept = []
        monkeypatch.setattr(transcripts, "_table", lambda found, _: kept.extend(found) or [""])
        em.transcript_tree(*arguments, at_least=at_least, **how)
        return kept[:-1]  # The last line adds up.

    return lines


OFTEN = {1: (), 2: pytest.mark.slow, 5: pytest.mark.slow}


@pytest.mark.parametrize("user", one_in(2, USERS), ids=lambda u: type(u).__name__)
@pytest.mark.parametrize(
    "protocol",
    [pytest.param(p, marks=OFTEN.get(n, pytest.mark.nightly)) for n, p in enumerate(PROTOCOLS)],
    ids=lambda p: f"{type(p).__name__}",
)
def test_leaves_add_up(protocol, user, exactly):
    for seed, at_least in ((0, 0.0), (4, 0.02), (8, 0.3)):
        game, schemes = example(protocol, seed)
        if isinstance(user, em.FixedReplies) and protocol.conversation.replies == 1:
            user = user.acting
        lines = exactly(game, schemes, protocol, user, at_least=at_least)
        leaves = [line for line in lines if line.paid is not None]
        reached = np.array([line.reached for line in leaves])
        np.testing.assert_allclose(reached.sum(), 1, atol=1e-12)
        paid = reached @ np.array([line.paid for line in leaves])
        expected = em.payoffs(game, schemes, protocol, user)
        np.testing.assert_allclose(paid, [expected.user, *expected.agents], atol=1e-5)  # float32 in one of the modes
        for line in leaves:
            if line.action is not None:
                np.testing.assert_allclose([line.action.sum(), line.belief.sum()], 1, atol=1e-12)
        shown = [line.reached for line in lines if "more" not in line.label]
        assert min(shown) >= at_least


@pytest.mark.parametrize("at_least", [0.0, 0.05])
def test_the_page_adds_up(at_least):
    protocol, user = em.Conversation(2), em.QuantalUser(4.0)
    game, schemes = example(protocol)
    text = em.transcript_tree(game, schemes, protocol, user, at_least=at_least)
    leaves, total = cells(text)
    rounding = 5e-4 * len(leaves)
    np.testing.assert_allclose(leaves[:, 0].sum(), 1, atol=rounding)
    np.testing.assert_allclose(leaves[:, 0] @ leaves[:, 1:], total[1:], atol=rounding * abs(leaves[:, 1:]).max())
    expected = em.payoffs(game, schemes, protocol, user)
    np.testing.assert_allclose(total, [1, expected.user, *expected.agents], atol=5.1e-4)
    assert ("more, together" in text) == (at_least > 0)


def test_branches_add_up_and_beliefs_are_martingales(exactly):
    """Each node is the mean of what hangs from it, weighted by the chance of each step."""
    protocol = em.Conversation(2)
    game, schemes = example(protocol)
    lines = exactly(game, schemes, protocol, em.QuantalUser(2.0), at_least=0.0)
    depth = [len(line.branches) // 3 for line in lines]
    belief, checked = {}, 0
    for k in reversed(range(len(lines))):
        below = [
            j for j in range(k + 1, len(lines)) if depth[j] == depth[k] + 1 and min(depth[k + 1 : j + 1]) > depth[k]
        ]
        belief[k] = lines[k].belief
        if below:
            np.testing.assert_allclose(sum(lines[j].chance for j in below), 1, atol=1e-12)
            np.testing.assert_allclose(sum(lines[j].reached for j in below), lines[k].reached, atol=1e-12)
            mean = sum(lines[j].chance * belief[j] for j in below)
            if belief[k] is None:  # the user learns nothing from a reply
                belief[k] = mean
            np.testing.assert_allclose(mean, belief[k], atol=1e-12)
            checked += 1
    assert checked > 20


def test_a_tree_by_hand():
    """The agent sends the first bit, then the one that the user asks for."""
    game, protocol = em.catalog.what_to_ask(2), em.Conversation(2)
    rule = np.zeros((4, 5, 2))
    for xb in range(4):
        rule[xb, 0, xb >> 1] = 1
        for h in range(4):
            rule[xb, 1 + h, xb >> (1 - h % 2) & 1] = 1
    words = {"actions": ["say 0", "say 1"], "x_A": ["first", "second"], "x_B": ["00", "01", "10", "11"]}
    text = em.transcript_tree(game, rule.reshape(1, -1, 2), protocol, em.RationalUser(), user_feature=1, names=words)
    expected = """\
                                        belief over x_B
                       chance  reached   00  01  10  11  action  value  agent
x_A = second                         1  .25 .25 .25 .25
├─ agent says 0          .500     .500  .50 .50   ·   ·
│  └─ user replies 1        1     .500
│     ├─ agent says 0    .500     .250    1   ·   ·   ·  say 0   1.000  1.000
│     └─ agent says 1    .500     .250    ·   1   ·   ·  say 1   1.000  1.000
└─ agent says 1          .500     .500    ·   · .50 .50
   └─ user replies 1        1     .500
      ├─ agent says 0    .500     .250    ·   ·   1   ·  say 0   1.000  1.000
      └─ agent says 1    .500     .250    ·   ·   ·   1  say 1   1.000  1.000
total                                1                           1.000  1.000"""
    assert text == expected
    both = em.transcript_tree(game, rule.reshape(1, -1, 2), protocol, em.RationalUser())
    assert "├─ x_A = bit 1 " in both
    assert both.splitlines()[2].startswith("start")
    assert max(map(len, both.splitlines())) < 100


def test_one_x_a_alone():
    """Given x_A, the whole is the mean over types."""
    protocol, user = em.Conversation(2), em.QuantalUser(4.0)
    game, schemes = example(protocol)
    chances = np.asarray(game.prior, float).sum((1, 2))
    totals = [cells(em.transcript_tree(game, schemes, protocol, user, user_feature=xa))[1] for xa in range(2)]
    expected = em.payoffs(game, schemes, protocol, user)
    np.testing.assert_allclose(chances @ totals, [1, expected.user, *expected.agents], atol=1e-3)


def test_selection_says_which_agent_is_picked():
    game = em.catalog.what_to_ask(2, agents=2)
    silent, first = np.tile([1.0, 0], (4, 1)), np.eye(2)[[0, 0, 1, 1]]
    sharp = em.Selection(then=em.Conversation(1))
    text = em.transcript_tree(game, [silent, first], sharp, em.RationalUser())
    assert text.splitlines()[0] == "The user picks agent 1 (1)."
    assert "agent 1 says 0" in text
    soft = em.Selection(0.25, then=em.Conversation(1))  # .5 against .75: 1 / (1 + e)
    text = em.transcript_tree(game, [silent, first], soft, em.RationalUser("lowest"))
    assert text.splitlines()[0] == "The user picks agent 0 (.269) or agent 1 (.731)."
    assert "├─ talks to agent 0" in text


def test_ties_go_to_the_agent_picked():
    pharma = em.catalog.pharma_market()
    schemes = em.full_revelation(2, 4, 4)
    text = em.transcript_tree(pharma, schemes, em.Conversation(1), em.RationalUser())
    assert text.splitlines()[0] == "Ties go to firm 1."
    np.testing.assert_allclose(cells(text)[1], [1, 0.32, 0.4, 0.24], atol=1e-6)
    text = em.transcript_tree(pharma, schemes[:, :, ::-1], em.Selection(then=em.Conversation(1)), em.RationalUser())
    assert "The user picks firm 1 (1)." in text
    own = em.transcript_tree(
        pharma, schemes, em.Conversation(1), em.RationalUser(), names={"agents": ["left", "right"]}
    )
    assert own.splitlines()[0] == "Ties go to left."
    assert own.splitlines()[2].split()[-2:] == ["left", "right"]
    assert "drug 2 works" in own
    judge = em.transcript_tree(em.catalog.judge(), np.eye(2)[None], em.Conversation(1), em.RationalUser())
    assert "prosecutor says 1" in judge
    assert "convict" in judge


def test_many_x_b_are_written_out():
    game = em.catalog.what_to_ask(4)
    text = em.transcript_tree(game, np.eye(2)[np.arange(16) % 2][None], em.Conversation(1), em.RationalUser())
    assert "belief over x_B" in text
    assert "0001 .12 0011 .12 0101 .12 +5 .62" in text
    assert max(map(len, text.splitlines())) < 100


def test_small_and_large_numbers_are_readable():
    game = em.catalog.judge()
    for factor, word in ((1e-4, "7e-05"), (1e7, "7e+06"), (100, "70.000")):
        scaled = em.Game(game.prior, factor * game.user_utility, game.agent_utilities)
        text = em.transcript_tree(scaled, em.no_information(1, 2, 1), em.Conversation(1), em.RationalUser())
        assert text.splitlines()[-1].split()[2] == word


def test_mistakes_are_named():
    protocol = em.Conversation(2)
    game, schemes = example(protocol)
    tree = em.transcript_tree
    user = em.RationalUser("lowest")
    batch = em.random_games(jax.random.key(0), 3, agents=2, states=3, actions=3, user_features=2)
    for match, call in {
        r"game: expected one game, got a batch of \[3\]": lambda: tree(batch, schemes, protocol, user),
        r"schemes: expected shape .*rows = XB \* H": lambda: tree(game, schemes[:, :3], protocol, user),
        r"schemes: expected \[K, rows, M\]": lambda: tree(game, schemes[None], protocol, user),
        "schemes: expected finite": lambda: tree(game, schemes * np.nan, protocol, user),
        r"schemes\[.*must sum to 1": lambda: tree(game, schemes / 2, protocol, user),
        "user_feature: expected an index below XA = 2, got 2": lambda: tree(
            game, schemes, protocol, user, user_feature=2
        ),
        "user_feature: expected an integer >= 0": lambda: tree(game, schemes, protocol, user, user_feature=-1),
        "at_least: ": lambda: tree(game, schemes, protocol, user, at_least=1.0),
        "names: expected some of": lambda: tree(game, schemes, protocol, user, names={"y": ["a"]}),
        "names: expected 3 words for actions": lambda: tree(game, schemes, protocol, user, names={"actions": "abc"}),
        "protocol: expected a Conversation": lambda: tree(game, schemes, em.Pooled(), user),
        "user: expected QuantalUser": lambda: tree(game, schemes, protocol, type("Mine", (em.RationalUser,), {})()),
    }.items():
        with pytest.raises(ValueError, match=match):
            call()
    prior = np.array(game.prior, np.float64)
    prior[1] = 0
    alone = em.Game(prior / prior.sum(), np.asarray(game.user_utility), np.asarray(game.agent_utilities))
    with pytest.raises(ValueError, match="x_A = 1 never happens"):
        tree(alone, schemes, protocol, user, user_feature=1)
    assert "x_A = 0" in tree(alone, schemes, protocol, user)
    bad = em.Game(np.full_like(prior, np.nan), game.user_utility, game.agent_utilities, check="shapes")
    with pytest.raises(ValueError, match="prior"):
        tree(bad, schemes, protocol, user)
