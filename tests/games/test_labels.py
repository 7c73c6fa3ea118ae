"""Labels of games: checked, kept by whatever makes games of games, shown, and unknown to compiled programs."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import emalign_jax as em
from emalign_jax.experiments.grid import block
from emalign_jax.games.labels import LONGEST
from emalign_jax.protocols import batched_payoffs

LABELS = em.Labels(
    actions=("stay", "go"), outcomes=["bad", "good"], agents=["ann", "bob"],
    user_features=("poor", "rich"), agent_features=("x", "y", "z"),
)  # fmt: skip


def game(labels=LABELS, agents=2, seed=0):
    rng = np.random.default_rng(seed)
    prior = rng.dirichlet(np.ones(12)).reshape(2, 3, 2)
    return em.Game(prior, rng.normal(size=(2, 2)), rng.normal(size=(agents, 2, 2)), labels=labels)


def batch(labels=LABELS, count=4):
    return jax.tree.map(lambda *x: np.stack(x), *(game(labels, seed=n) for n in range(count)))


def test_names_with_and_without_labels():
    assert LABELS.outcomes == ("bad", "good")
    assert game().names("agents") == ("ann", "bob")
    assert game(None).names("agents") == ("agent 0", "agent 1")
    some = game(em.Labels(agents=("ann", "bob")))
    assert some.names("actions") == ("action 0", "action 1")
    assert some.names("agent_features") == ("0", "1", "2")
    with pytest.raises(ValueError, match="of: expected one of actions"):
        some.names("agent")


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"agents": ("ann",)}, "labels: agents has 1, the game has 2 agents"),
        ({"outcomes": ("a", "b", "c")}, "labels: outcomes has 3, the game has 2 outcomes"),
        ({"actions": "ab"}, "labels: actions: expected a list of words, got 'ab'"),
        ({"actions": ("a", 1)}, "labels: actions: expected words, got 1"),
        ({"actions": ("a", "")}, "labels: actions: expected a line of 1 to"),
        ({"actions": ("a", "b\nc")}, "labels: actions: expected a line of 1 to"),
        ({"actions": ("a", "b" * (LONGEST + 1))}, "labels: actions: expected a line of 1 to"),
    ],
)
def test_wrong_labels_are_refused_in_a_line(given, match):
    with pytest.raises(ValueError, match=match) as raised:
        game(em.Labels(**given))
    assert "\n" not in str(raised.value)


def test_other_things_are_no_labels():
    with pytest.raises(ValueError, match="labels: expected labels such as"):
        game({"agents": ("ann", "bob")})


def test_games_of_games_keep_labels():
    games = batch()
    for part in (games[0], games[1:], games[[True, False, True, False]], games[..., 2], next(iter(games))):
        assert part.labels == LABELS
    assert jax.tree.map(jnp.asarray, games).labels == LABELS
    assert jax.vmap(lambda one: one)(games).labels == LABELS
    assert games[0].of_one_agent.names("agents") == ("ann",)
    assert games.labelled(None).labels is None


def test_games_without_labels_stack_with_others():
    other = game(LABELS.replace(agents=("cat", "dog")))
    with pytest.raises(ValueError, match=r"labels|node"):
        jax.tree.map(lambda *x: np.stack(x), game(), other)
    both = jax.tree.map(lambda *x: np.stack(x), game().labelled(None), other.labelled(None))
    assert both.batch_shape == (2,)


def test_several_users():
    merged = em.several_users(batch(count=2), anonymous=False)
    assert merged.names("user_features") == ("user 0: poor", "user 0: rich", "user 1: poor", "user 1: rich")
    assert merged.names("agent_features")[:4] == ("user 0: x", "user 0: y", "user 0: z", "user 1: x")
    assert merged.names("outcomes")[2] == "user 1: bad"
    assert merged.names("agents") == ("ann", "bob")
    anonymous = em.several_users(batch(count=2), anonymous=True)
    assert anonymous.names("agent_features") == ("x", "y", "z")
    assert em.several_users(em.catalog.two_users(), anonymous=True).names("user_features") == ("user 0", "user 1")


def test_mechanisms():
    games = jax.tree.map(jnp.asarray, batch())
    for mechanism in (em.mechanisms.Transfers(1.0), em.mechanisms.Reporting()):
        changed, *_ = mechanism.apply(mechanism.init(games), games, em.Pooled(), em.QuantalUser(2.0))
        assert changed.names("agents") == ("ann", "bob")
    assert changed.names("user_features")[1] == "poor, says rich"
    assert changed.names("agent_features")[:3] == ("x, told poor", "x, told rich", "y, told poor")
    # The probability of the cell that the label describes, by hand: x_A = poor says rich by accident.
    lie = games.prior[:, 0, 0].sum(-1) * (1 - jax.nn.sigmoid(mechanism.init(games)["share"])) / 2
    np.testing.assert_allclose(changed.prior[:, 1, 1].sum(-1), lie, rtol=1e-5)


@pytest.mark.parametrize("labels", [LABELS, em.Labels(agents=("Ann é", "B 中")), None])
def test_files(tmp_path, labels):
    path = tmp_path / "games.npz"
    em.save_games(path, batch(labels))
    assert em.load_games(path).labels == labels
    with np.load(path, allow_pickle=False) as archive:
        assert ("labels_agents" in archive) == (labels is not None)
        if labels is not None:
            assert archive["labels_agents"].dtype.kind == "U"
    assert block.read_games(block.write_games(batch(labels))).labels == labels


def test_a_file_of_several_numbers_of_agents(tmp_path):
    games = batch()
    agents = np.asarray(games.agent_utilities)
    agents[2:, 1] = np.nan
    given = {"prior": games.prior, "user_utility": games.user_utility, "agent_utilities": agents}
    np.savez(tmp_path / "g.npz", agents=[2, 2, 1, 1], labels_agents=["ann", "bob"], **given)
    assert em.load_games(tmp_path / "g.npz", agents=1).names("agents") == ("ann",)
    assert em.load_games(tmp_path / "g.npz", agents=2).names("agents") == ("ann", "bob")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (np.arange(2), "labels_agents: expected a list of text"),
        (np.array([["a"], ["b"]]), "labels_agents: expected a list of text"),
        (np.array(["a"]), "labels: agents has 1"),
        (np.array(["a", "b\n"]), "labels: agents: expected a line"),
    ],
)
def test_damaged_files_are_refused(tmp_path, words, match):
    arrays = dict(np.load(io.BytesIO(block.write_games(batch(None)))))
    np.savez(tmp_path / "g.npz", **arrays, labels_agents=words)
    with pytest.raises(ValueError, match=match) as raised:
        em.load_games(tmp_path / "g.npz")
    assert str(raised.value).startswith(f"{tmp_path / 'g.npz'}: ")


def test_compiled_programs_never_see_labels():
    user, schemes = em.QuantalUser(3.0), em.full_revelation(2, 3, 3)
    plain = em.payoffs(batch(None), schemes, em.Pooled(), user)
    before = batched_payoffs.compiled._cache_size()
    for labels in (LABELS, em.Labels(agents=("cat", "dog"))):
        named = em.payoffs(batch(labels), schemes, em.Pooled(), user)
        np.testing.assert_array_equal(named.agents, plain.agents)
        jax.jit(lambda games: em.payoffs(games, schemes, em.Pooled(), user).user)(batch(labels))
    assert batched_payoffs.compiled._cache_size() == before
