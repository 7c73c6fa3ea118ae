"""The game: what is refused and how, what passes, and the outcome summed out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import emalign_jax as em
from emalign_jax.games.game import faults

XA, XB, Y, A, K = 2, 3, 4, 5, 2
FIELDS = ("prior", "user_utility", "agent_utilities")


def arrays(*batch):
    rng = np.random.default_rng(0)
    prior = rng.uniform(0.1, 1, (*batch, XA, XB, Y))
    return {
        "prior": prior / prior.sum((-3, -2, -1), keepdims=True),
        "user_utility": rng.normal(size=(*batch, A, Y)),
        "agent_utilities": rng.normal(size=(*batch, K, A, Y)),
    }


def with_cell(field, index, value, *batch):
    fields = arrays(*batch)
    fields[field][index] = value
    return fields


@pytest.mark.parametrize(
    ("field", "index", "value", "message"),
    [
        ("prior", (1, 2, 3), -0.25, r"^prior\[1, 2, 3\] is -0\.25: it must not be negative"),
        ("prior", (0, 1, 2), np.nan, r"^prior\[0, 1, 2\] is nan: it must be finite"),
        ("prior", (0, 0, 0), np.inf, r"^prior\[0, 0, 0\] is inf: it must be finite"),
        ("user_utility", (4, 0), np.nan, r"^user_utility\[4, 0\] is nan: it must be finite"),
        ("user_utility", (0, 3), -np.inf, r"^user_utility\[0, 3\] is -inf: it must be finite"),
        ("agent_utilities", (1, 4, 3), np.nan, r"^agent_utilities\[1, 4, 3\] is nan: it must be finite"),
        ("prior", (0, 0, 0), 3.0, r"^prior sums to 3\.\d+: it must sum to 1"),
    ],
)
def test_bad_values_are_named(field, index, value, message):
    with pytest.raises(ValueError, match=message):
        em.Game(**with_cell(field, index, value))


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        (
            "prior",
            lambda x: x[0],
            r"^prior: expected shape \[\.\.\., XA, XB, Y\], got \[3, 4\]; for a user .* prior\[None\]$",
        ),
        ("user_utility", lambda x: x[0], r"^user_utility: expected shape \[\.\.\., A, Y\], got \[4\]"),
        (
            "agent_utilities",
            lambda x: x[0],
            r"^agent_utilities: expected shape \[\.\.\., K, A, Y\], got .*; for one agent",
        ),
        ("user_utility", lambda x: x[:, :3], r"^user_utility: Y \(last axis\) is 3, but prior has Y = 4"),
        ("user_utility", lambda x: x[:4], r"^agent_utilities: last axes \[A, Y\] are \[5, 4\].* has \[4, 4\]"),
        ("agent_utilities", lambda x: x[..., :3], r"^agent_utilities: last axes \[A, Y\] are \[5, 3\]"),
        ("agent_utilities", lambda x: x[:0], r"^agent_utilities: K \(axis -3\) is 0"),
        ("prior", lambda x: x[:0], r"^prior: no axis may be empty, got shape \[0, 3, 4\]"),
        ("prior", lambda x: x[:, :0], r"^prior: no axis may be empty, got shape \[2, 0, 4\]"),
        ("user_utility", lambda x: x[:0], r"^user_utility: no axis may be empty, got shape \[0, 4\]"),
        ("agent_utilities", lambda x: x[:, :0], r"^agent_utilities: no axis may be empty"),
        ("prior", lambda x: [[[0.5, 0.5], [0.0]]], r"^prior: expected a rectangular array of numbers, got ragged"),
        ("user_utility", lambda x: "high", r"^user_utility: expected real numbers, got 'high'"),
        ("user_utility", lambda x: x.astype(str), r"^user_utility: expected real numbers, got dtype <U"),
        ("agent_utilities", lambda x: x + 0j, r"^agent_utilities: expected real numbers, got dtype complex128"),
        ("agent_utilities", lambda x: None, r"^agent_utilities: expected real numbers, got None"),
        ("prior", lambda x: jnp.asarray(x) + 0j, r"^prior: expected real numbers, got dtype complex"),
    ],
)
@pytest.mark.parametrize("check", ["values", "shapes"])
def test_bad_shapes_and_types_are_named(field, change, message, check):
    fields = arrays()
    fields[field] = change(fields[field])
    with pytest.raises(ValueError, match=message):
        em.Game(**fields, check=check)


def test_batch_axes_must_agree():
    fields = arrays(2)
    fields["user_utility"] = arrays(3)["user_utility"]
    with pytest.raises(ValueError, match=r"^user_utility: batch axes are \[3\], but prior has \[2\]"):
        em.Game(**fields)


def test_a_bad_game_of_a_batch_is_named_by_its_index():
    with pytest.raises(ValueError, match=r"^game 1: user_utility\[4, 0\] is nan"):
        em.Game(**with_cell("user_utility", (1, 4, 0), np.nan, 3))
    with pytest.raises(ValueError, match=r"^game \[1, 2\]: prior\[0, 0, 1\] is -1\.0"):
        em.Game(**with_cell("prior", (1, 2, 0, 0, 1), -1, 2, 3))


def test_unknown_check():
    with pytest.raises(ValueError, match=r"^check: expected one of values, shapes, got 'none'"):
        em.Game(**arrays(), check="none")


def test_shapes_only_keeps_bad_values_and_faults_finds_exactly_those():
    fields = arrays(6)
    fields["prior"][1, 0, 0, 0] = -0.5
    fields["prior"][2] *= 1.5
    fields["user_utility"][4, 2, 1] = np.nan
    fields["agent_utilities"][5, 1, 0, 0] = np.inf
    found = faults(em.Game(**fields, check="shapes"))
    assert [bool(sentence) for sentence in found] == [False, True, True, False, True, True]
    assert found[2].startswith("prior sums to 1.5")
    assert found[4] == "user_utility[2, 1] is nan: it must be finite"
    assert found[5] == "agent_utilities[1, 0, 0] is inf: it must be finite"


def test_faults_keep_the_batch_axes():
    one = em.Game(**with_cell("prior", (0, 0, 0), np.nan), check="shapes")
    assert faults(one).shape == ()
    assert "finite" in faults(one)[()]
    many = faults(em.Game(**with_cell("prior", (1, 2, 0, 0, 0), np.nan, 2, 3), check="shapes"))
    assert many.shape == (2, 3)
    assert np.argwhere(many != "").tolist() == [[1, 2]]


def test_rounded_priors_pass():
    fields = arrays()
    fields["prior"] = fields["prior"].astype(np.float32)
    assert em.Game(**fields).prior.dtype == np.float32
    # 6 decimals: the 24 cells miss 1 by at most 24 * 5e-7; by 1e-6 at the very most are they accepted
    fields["prior"] = np.full((XA, XB, Y), 1 / 24) * (1 + 0.9e-6)
    em.Game(**fields)
    fields["prior"] = np.full((XA, XB, Y), 1 / 24) * (1 + 2e-6)
    with pytest.raises(ValueError, match=r"prior sums to 1\.000002"):
        em.Game(**fields)


def test_arrays_keep_their_kind_and_dtype():
    game = em.Game(**arrays())
    for name in FIELDS:
        assert type(getattr(game, name)) is np.ndarray
        assert getattr(game, name).dtype == np.float64
    on_device = em.Game(**{name: jnp.asarray(x, jnp.float32) for name, x in arrays().items()})
    for name in FIELDS:
        assert isinstance(getattr(on_device, name), jax.Array)
        assert getattr(on_device, name).dtype == jnp.float32
    integers = em.Game(jnp.array([[[1, 0]]]), [[1, 0], [0, 1]], [[[True, False], [True, True]]])
    assert jnp.issubdtype(integers.prior.dtype, jnp.floating)
    assert integers.user_utility.dtype == integers.agent_utilities.dtype == np.float64


def test_sizes_and_indexing():
    games = em.Game(**arrays(3, 2))
    sizes = games.user_features, games.agent_features, games.outcomes, games.actions, games.agents
    assert (games.batch_shape, sizes) == ((3, 2), (XA, XB, Y, A, K))
    np.testing.assert_array_equal(games[1, 0].agent_utilities, games.agent_utilities[1, 0])
    assert games[:2].batch_shape == (2, 2)
    with pytest.raises(IndexError, match="one game, not a batch"):
        games[1, 0][0]


def test_values_are_not_looked_at_under_jit_but_shapes_are():
    @jax.jit
    def total(prior, user_utility, agent_utilities):
        return em.Game(prior, user_utility, agent_utilities).prior.sum()

    assert np.isnan(total(**with_cell("prior", (0, 0, 0), np.nan)))
    with pytest.raises(ValueError, match=r"^user_utility: Y"):
        total(**{**arrays(), "user_utility": np.zeros((A, Y + 1))})


def test_games_are_built_and_reduced_under_vmap():
    fields = arrays(3)
    mapped = jax.jit(jax.vmap(lambda p, u, v: em.reduce_game(em.Game(p, u, v))))(*fields.values())
    for got, expected in zip(mapped, em.reduce_game(em.Game(**fields), np), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)  # float32 in one of the two modes


def test_reduction_equals_loops():
    game = em.Game(**arrays())
    mass, user, agents = np.zeros((XA, XB)), np.zeros((XA, XB, A)), np.zeros((K, XA, XB, A))
    for xa, xb, y in np.ndindex(XA, XB, Y):
        p = game.prior[xa, xb, y]
        mass[xa, xb] += p
        for a in range(A):
            user[xa, xb, a] += p * game.user_utility[a, y]
            for i in range(K):
                agents[i, xa, xb, a] += p * game.agent_utilities[i, a, y]
    on_host, on_device = em.reduce_game(game, np), em.reduce_game(game)
    eps = np.finfo(np.asarray(on_device.user).dtype).eps
    for host, device, expected in zip(on_host, on_device, (mass, user, agents, user), strict=True):
        assert host.dtype == np.float64
        np.testing.assert_allclose(host, expected, rtol=0, atol=1e-15)  # four products of size .1
        np.testing.assert_allclose(device, expected, rtol=0, atol=8 * eps)


def test_host_reduction_is_float64_for_float32_games():
    game = em.Game(**{name: x.astype(np.float32) for name, x in arrays(2).items()})
    assert all(x.dtype == np.float64 for x in em.reduce_game(game, np))


def test_an_infinite_number_in_a_malformed_game_raises_no_warning_when_reduced():
    fields = with_cell("user_utility", (1, 2, 0), np.inf, 2)
    fields["prior"][1, 0, 0, 0] = 0  # 0 * inf
    reduced = em.reduce_game(em.Game(**fields, check="shapes"), np)
    assert np.isfinite(reduced.user[0]).all()
    assert np.isnan(reduced.user[1]).any()


def test_games_may_share_a_prior_or_a_user():
    one, many = arrays(), arrays(3)
    games = em.Game(one["prior"], many["user_utility"], many["agent_utilities"])
    assert games.batch_shape == (3,)
    for n, game in enumerate(games):
        np.testing.assert_array_equal(game.prior, one["prior"])
        np.testing.assert_array_equal(game.agent_utilities, many["agent_utilities"][n])
    shared = em.Game(jnp.asarray(one["prior"]), one["user_utility"], many["agent_utilities"])
    assert isinstance(shared.prior, jax.Array)
    np.testing.assert_array_equal(shared[2].user_utility, one["user_utility"])
    with pytest.raises(ValueError, match=r"^agent_utilities: batch axes are \[2\], but user_utility has \[3\]"):
        em.Game(one["prior"], many["user_utility"], arrays(2)["agent_utilities"])


def test_a_game_shows_its_utilities_in_notebooks():
    labels = em.Labels(actions=("<b>yes</b>", "no"), outcomes=("rain", "sun"), agents=("Ann", "Bo"))
    game = em.Game(np.array([[[0.25, 0.5], [0.25, 0.0]]]), np.eye(2), np.full((2, 2, 2), 0.125), labels=labels)
    page = game._repr_html_()
    assert "<th>rain</th><th>sun</th>" in page
    assert "<td>P(outcome)</td><td></td><td>.5</td><td>.5</td>" in page
    assert "<td>user</td><td>&lt;b&gt;yes&lt;/b&gt;</td><td>1</td><td>0</td>" in page
    assert "<td>Bo</td><td>no</td><td>.125</td><td>.125</td>" in page
    batch = em.random_games(jax.random.key(0), 3, agents=20, actions=9)
    page = batch._repr_html_()
    assert page.count("<tr>") <= 74
    assert "The first game of the batch; not all rows and columns are shown." in page
    assert "<table" not in batch[:0]._repr_html_()
    assert jax.tree.map(lambda x: None, game)._repr_html_() == "<p><code>Game(...)</code></p>"
    jax.jit(lambda traced: traced._repr_html_() and traced.prior)(game)
