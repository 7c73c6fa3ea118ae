"""Files: exact round trips, refusals that name the file, and writes that are whole or not at all."""

import io
import zipfile

import jax
import numpy as np
import pytest

import emalign_jax as em
from emalign_jax.games import files
from emalign_jax.internal import npz
from emalign_jax.internal.files import atomic

pytestmark = pytest.mark.host_only

FIELDS = files.GAME_FIELDS


def batch(agents=2, count=3):
    rng = np.random.default_rng(agents)
    return em.Game(
        rng.dirichlet(np.ones(6), count).reshape(count, 1, 3, 2),
        rng.normal(size=(count, 2, 2)),
        rng.normal(size=(count, agents, 2, 2)),
    )


def write(path, **arrays):
    games = batch()
    np.savez(path, **({name: getattr(games, name) for name in FIELDS} | arrays))
    return path


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("index", [slice(None), 0])
def test_games_come_back_bit_for_bit(tmp_path, dtype, index):
    games = jax.tree.map(lambda x: x.astype(dtype), batch())[index]
    em.save_games(tmp_path / "games.npz", games)
    loaded = em.load_games(str(tmp_path / "games.npz"))
    for name in FIELDS:
        got, expected = getattr(loaded, name), getattr(games, name)
        assert type(got) is np.ndarray
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, expected)
    assert [x.name for x in tmp_path.iterdir()] == ["games.npz"]


@pytest.mark.slow
def test_schemes_come_back_bit_for_bit(tmp_path):
    schemes = np.asarray(em.random_schemes(jax.random.key(0), 3, 2, 3, 4))
    em.save_schemes(tmp_path / "schemes.npz", schemes)
    loaded = em.load_schemes(tmp_path / "schemes.npz")
    assert loaded.dtype == schemes.dtype
    np.testing.assert_array_equal(loaded, schemes)


def test_a_suffix_is_not_added_behind_the_callers_back(tmp_path):
    em.save_games(tmp_path / "games", batch())
    assert [x.name for x in tmp_path.iterdir()] == ["games"]
    assert em.load_games(tmp_path / "games").agents == 2


def refused(path, message, load=em.load_games):
    with pytest.raises(ValueError, match=message) as raised:
        load(path)
    assert str(raised.value).startswith(f"{path}: ")  # names the file, first
    assert "\n" not in str(raised.value)


def test_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz: no such file"):
        em.load_games(tmp_path / "nowhere.npz")


def test_not_an_archive(tmp_path):
    path = tmp_path / "games.npz"
    refused(tmp_path, "expected an .npz file, got a directory")
    path.write_bytes(b"")
    refused(path, "truncated or not an .npz file")
    path.write_text("prior,user_utility\n")
    refused(path, "not an .npz")
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    refused(path, "expected an .npz archive, got a single .npy array")


def test_pickles_are_refused(tmp_path):
    path = tmp_path / "games.npz"
    path.write_bytes(np.array([{"prior": 1}]).dumps())
    refused(path, "pickled files are refused")
    write(path, prior=np.array([None, 1], object))
    refused(path, "prior: holds pickled objects")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_files_never_load_as_something_else(tmp_path, save):
    games, buffer = batch(), io.BytesIO()
    save(buffer, **{name: getattr(games, name) for name in FIELDS})
    whole, path = buffer.getvalue(), tmp_path / "games.npz"
    rng = np.random.default_rng(0)
    for cut in rng.integers(1, len(whole), 20):
        path.write_bytes(whole[:-cut])
        refused(path, "truncated or not an .npz|not an .npz|damaged")
    flips = 0
    for at in rng.integers(0, len(whole), 150):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            loaded = em.load_games(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017 - a flip need not matter (dates, flags)
            flips += 1
        else:
            for name in FIELDS:
                np.testing.assert_array_equal(getattr(loaded, name), getattr(games, name))
    assert flips > 50


def test_missing_field(tmp_path):
    path = tmp_path / "games.npz"
    np.savez(path, prior=np.ones((1, 1, 1)), utility=np.ones((1, 1)))
    refused(path, "user_utility: not in the file, which holds prior, utility")
    np.savez(path, prior=np.ones((1, 1, 1)))
    refused(path, "schemes: not in the file, which holds prior", em.load_schemes)
    zipfile.ZipFile(path, "w").close()
    refused(path, "prior: not in the file, which holds nothing")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"prior": np.ones((3, 2))}, r"prior: expected shape \[\.\.\., XA, XB, Y\], got \[3, 2\]"),
        ({"user_utility": np.ones((3, 2, 5))}, r"user_utility: Y \(last axis\) is 5"),
        ({"agent_utilities": np.ones((4, 2, 2, 2))}, r"agent_utilities: batch axes are \[4\], but prior has \[3\]"),
        ({"prior": np.full((3, 1, 3, 2), "x")}, "prior: expected real numbers, got dtype <U1"),
        ({"user_utility": np.ones((3, 2, 2), complex)}, "user_utility: expected real numbers, got dtype complex128"),
        ({"prior": np.full((3, 1, 3, 2), np.nan)}, r"prior\[0, 0, 0\] is nan.*all 3 games are malformed"),
        (
            {
                "prior": np.ones((0, 1, 3, 2)),
                "user_utility": np.ones((0, 2, 2)),
                "agent_utilities": np.ones((0, 2, 2, 2)),
            },
            "prior: expected at least one game, got an empty batch",
        ),
    ],
)
def test_wrong_contents(tmp_path, arrays, message):
    refused(write(tmp_path / "games.npz", **arrays), message)


def test_one_malformed_game_of_several_is_kept(tmp_path):
    games = batch()
    games.agent_utilities[1, 0, 0, 0] = np.nan
    em.save_games(tmp_path / "games.npz", games)
    loaded = em.load_games(tmp_path / "games.npz")
    np.testing.assert_array_equal(loaded.agent_utilities, games.agent_utilities)
    em.save_games(tmp_path / "one.npz", games[1])
    refused(tmp_path / "one.npz", r"agent_utilities\[0, 0, 0\] is nan: it must be finite$")


@pytest.mark.parametrize(
    ("schemes", "message"),
    [
        (np.ones((2, 2)), r"schemes: expected shape \[\.\.\., K, XB, M\], got \[2, 2\]"),
        (np.full((1, 2, 2), "x"), "schemes: expected real numbers, got dtype <U1"),
    ],
)
def test_wrong_schemes(tmp_path, schemes, message):
    np.savez(tmp_path / "schemes.npz", schemes=schemes)
    refused(tmp_path / "schemes.npz", message, em.load_schemes)


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, interruption):
    path = tmp_path / "games.npz"
    em.save_games(path, batch())
    before = path.read_bytes()

    def write():
        with atomic(path) as temporary:
            temporary.write_bytes(b"half")
            assert temporary.parent == path.parent  # the same file system, so that the rename is atomic
            raise interruption

    with pytest.raises(interruption):
        write()
    assert path.read_bytes() == before
    assert [x.name for x in tmp_path.iterdir()] == ["games.npz"]


def test_a_file_is_replaced_whole_and_readable_by_others(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_unwritable_places(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for place in (tmp_path / "file" / "games.npz", tmp_path / "nowhere" / "games.npz", tmp_path / "folder"):
        with pytest.raises(ValueError, match=f"^{place}: cannot be written: "):
            em.save_games(place, batch())
    assert sorted(x.name for x in tmp_path.iterdir()) == ["file", "folder"]


def test_games_of_several_sizes_share_a_file(tmp_path):
    path, parts = tmp_path / "games.npz", {k: batch(k, count) for k, count in ((2, 3), (4, 2))}
    fields = {name: np.concatenate([getattr(g, name) for g in parts.values()]) for name in FIELDS[:2]}
    padded = np.concatenate([files.pad_agents(g.agent_utilities, max(parts), 1) for g in parts.values()])
    assert padded.shape == (5, 4, 2, 2)
    schemes = [em.full_revelation(k, 3, 3)[None].repeat(count, 0) for k, count in ((2, 3), (4, 2))]
    counts = np.array([2, 2, 2, 4, 4])
    npz.save_arrays(path, {**fields, "agent_utilities": padded, "agents": counts})
    npz.save_arrays(
        tmp_path / "schemes.npz",
        {"schemes": np.concatenate([files.pad_agents(x, max(parts), 1) for x in schemes]), "agents": counts},
    )
    assert files.sizes(path) == [2, 4]
    for k, games in parts.items():
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(em.load_games(path, agents=k), name), getattr(games, name))
    np.testing.assert_array_equal(em.load_schemes(tmp_path / "schemes.npz", agents=2), schemes[0])
    refused(path, "agents: holds games of 2, 4 agents, say which")
    refused(path, "agents: asked for games of 3 agents, the file has 2, 4", lambda p: em.load_games(p, agents=3))


def test_sizes_of_a_plain_file(tmp_path):
    path = write(tmp_path / "games.npz")
    assert files.sizes(path) == [None]
    assert em.load_games(path, agents=2).agents == 2
    refused(path, "agents: asked for games of 3 agents, the file has 2", lambda p: em.load_games(p, agents=3))


@pytest.mark.parametrize(
    "agents", [np.array([2, 2, 2, 2]), np.array([2, 2]), np.array([3, 3, 3]), np.array(2), ["a"] * 3, np.zeros(3, int)]
)
def test_bad_numbers_of_agents(tmp_path, agents):
    path = write(tmp_path / "games.npz", agents=agents)
    refused(path, r"agents: expected .*, got")
    npz.save_arrays(path, {"schemes": np.stack([em.full_revelation(2, 3, 3)] * 3), "agents": np.asarray(agents)})
    refused(path, r"agents: expected .*, got", em.load_schemes)


def test_no_games_of_any_size(tmp_path):
    none = {
        "prior": np.ones((0, 1, 3, 2)),
        "user_utility": np.ones((0, 2, 2)),
        "agent_utilities": np.ones((0, 2, 2, 2)),
    }
    refused(
        write(tmp_path / "games.npz", agents=np.zeros(0, int), **none), "agents: expected at least one game, got none"
    )
