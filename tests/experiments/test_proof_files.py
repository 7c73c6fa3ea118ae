"""Proof files of batches: written block by block, kept, mended, and refused where they prove something else."""

import json
from fractions import Fraction

import numpy as np
import pytest

import emalign_jax as em
from emalign_jax.experiments import proof_files
from emalign_jax.experiments.progress import ProgressBar

pytestmark = pytest.mark.host_only


@pytest.fixture
def games():
    rng = np.random.default_rng(0)
    prior = rng.dirichlet(np.ones(4), 3).reshape(3, 1, 2, 2)
    return em.Game(prior, rng.normal(size=(3, 2, 2)), rng.normal(size=(3, 2, 2, 2)))


def write(folder, games, schemes=None, **claims):
    return proof_files.write(folder, [(games, schemes)], ProgressBar(quiet=True), **{"claims": ["worst_case"]} | claims)


def test_proofs_that_are_there_are_kept_and_damaged_ones_mended(games, tmp_path, monkeypatch):
    monkeypatch.setattr(proof_files, "BLOCK", 2)
    folder = tmp_path / "proofs"
    proof_files.check(folder)
    assert write(folder, games) == (3, 0, 0)
    paths = sorted(folder.iterdir())
    assert [path.name for path in paths] == [f"game-{n}-K2.json" for n in range(3)]
    first = [path.read_text() for path in paths]
    assert write(folder, games) == (0, 3, 0)
    paths[1].write_text(first[1].replace("worst", "best"))
    paths[2].unlink()
    proof_files.check(folder)
    assert write(folder, games) == (2, 1, 0)
    assert [path.read_text() for path in paths] == first


@pytest.mark.parametrize("other", [{"gains": 0.5}, {"claims": ["coverage"]}, {"claims": ["worst_case", "coverage"]}])
def test_proofs_of_something_else_are_not_replaced(games, other, tmp_path):
    folder = tmp_path / "proofs"
    write(folder, games[:1])
    held = (folder / "game-0-K2.json").read_text()
    with pytest.raises(ValueError, match=r"game-0-K2.json: --proof: is there, and proves other claims"):
        write(folder, games[:1], **other)
    with pytest.raises(ValueError, match=r"game-0-K2.json: --proof: is there, and proves other claims"):
        write(folder, games[1:2])
    assert (folder / "game-0-K2.json").read_text() == held


def test_malformed_games_have_none_and_profiles_broadcast(games, tmp_path):
    prior = np.array(games.prior)
    prior[1] = np.nan
    bad = em.Game(prior, games.user_utility, games.agent_utilities, check="shapes")
    schemes = np.broadcast_to(em.full_revelation(2, 2, 2), (2, 1, 2, 2, 2))
    assert write(tmp_path / "proofs", bad, schemes, claims=["gains"]) == (4, 0, 2)
    names = {path.name for path in (tmp_path / "proofs").iterdir()}
    assert names == {f"game-{start}-{n}-K2.json" for start in range(2) for n in (0, 2)}
    one = json.loads((tmp_path / "proofs" / "game-1-2-K2.json").read_text())
    user = [[float(Fraction(x)) for x in row] for row in one["game"]["user"]]
    np.testing.assert_array_equal(user, bad.user_utility[2])


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="expected a directory that is new, empty, or holds such proofs alone"):
        proof_files.check(tmp_path)
    with pytest.raises(ValueError, match="expected a directory"):
        proof_files.check(tmp_path / "notes.txt")
