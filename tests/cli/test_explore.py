"""`emalign explore`, and how it comes by HiGHS for the browser; nothing here asks a network."""

import hashlib
import io
import json
import tarfile
from base64 import b64encode
from pathlib import Path

import numpy as np
import pytest

import emalign_jax as em
from emalign_jax.games.files import save_games
from emalign_jax.report.explorer import solver

pytestmark = [pytest.mark.host_only, pytest.mark.usefixtures("empty_directory")]

LOADER = "export default Module;"


@pytest.fixture(autouse=True)
def archive(tmp_path, monkeypatch):
    """The bytes of an archive that passes for the true one; the registry is a folder that does not have it yet."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as files:
        for name, text in {
            "build/highs.mjs": "export default Module;",
            "build/highs.wasm": "w",
            "LICENSE": "L",
        }.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(text)
            files.addfile(entry, io.BytesIO(text.encode()))
    data = held.getvalue()
    monkeypatch.setattr(solver, "INTEGRITY", f"sha512-{b64encode(hashlib.sha512(data).digest()).decode()}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9/")  # nobody listens there
    monkeypatch.delenv("EMALIGN_HIGHS", raising=False)
    return data


def test_a_page_from_a_file_of_highs(run, archive):
    Path("highs.tgz").write_bytes(archive)
    save_games("games.npz", em.Game(*(np.stack([np.asarray(x)] * 2) for x in fields(em.catalog.judge()))))
    code, out, err = run("explore", "games.npz", "--index", 1, "--highs", "highs.tgz", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["summary"]["page"] == "explorer.html"
    assert '"title": "games.npz, game 1"' in Path("explorer.html").read_text()
    code, _, err = run("explore", "--highs", "highs.tgz")
    assert code == 2
    assert "--force" in err
    assert run("explore", "--highs", "highs.tgz", "--force")[0] == 0
    assert "games.npz" not in Path("explorer.html").read_text()


def fields(game):
    return game.prior, game.user_utility, game.agent_utilities


def test_what_is_kept_is_not_fetched_again(run, archive):
    kept = Path("cache/emalign", solver.NAME)
    kept.parent.mkdir(parents=True)
    kept.write_bytes(archive)
    assert run("explore")[0] == 0
    kept.write_bytes(archive[:-1])  # damaged: it would be fetched again
    code, _, err = run("explore", "--out", "other.html")
    assert code == 2
    assert "could not be fetched from http://127.0.0.1:9/highs/-/highs-" in err


def test_without_a_network_one_line_says_what_to_do(run):
    code, out, err = run("explore")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "--highs highs-" in err
    assert not Path("explorer.html").exists()


def test_fetched_files_are_checked_and_kept(archive, monkeypatch):
    answers = [b"something else", archive]
    monkeypatch.setattr("urllib.request.urlopen", lambda address, timeout: io.BytesIO(answers.pop(0)))
    with pytest.raises(ValueError, match="sha512"):
        solver.load()
    assert solver.load() == solver.load() == (LOADER, b"w", "L")
    assert answers == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--highs", "no.tgz"), "no.tgz: no such file"),
        (("--highs", "other.tgz"), "other.tgz: --highs: expected highs-"),
        (("--index", "0"), "--index: belongs to a file of games"),
        (("--agents", "2"), "--agents: belongs to a file of games"),
        (("games.npz",), "games.npz: --index: the file has 3 games; say which, 0 to 2"),
        (("games.npz", "--index", "3"), "games.npz: --index: the file has 3 games, numbered from 0; got 3"),
        (("large.npz",), "large.npz: game: A^XA * XB = 1024, the explorer's limit is 512"),
        (("bad.npz", "--index", "1"), "bad.npz: prior"),
        (("--out", "no/such/folder.html"), "--out: cannot be written"),
    ],
)
def test_slips_are_one_line(run, archive, arguments, words):
    Path("highs.tgz").write_bytes(archive)
    Path("other.tgz").write_bytes(b"other")
    prior, user, agents = (np.stack([np.asarray(x)] * 3) for x in fields(em.catalog.judge()))
    save_games("games.npz", em.Game(prior, user, agents))
    save_games("bad.npz", em.Game(prior * [[[[1]]], [[[2]]], [[[1]]]], user, agents, check="shapes"))
    save_games("large.npz", em.Game(np.full((5, 1, 1), 0.2), np.ones((4, 1)), np.ones((1, 4, 1))))
    given = arguments if "--highs" in arguments else (*arguments, "--highs", "highs.tgz")
    code, out, err = run("explore", *given)
    assert (code, out) == (2, "")
    assert err.startswith("emalign: ")
    assert err.count("\n") == 1
    assert words in err


def test_the_registry_is_the_one_that_npm_uses(tmp_path, monkeypatch):
    assert solver.registry() == "http://127.0.0.1:9/"
    monkeypatch.delenv("NPM_CONFIG_REGISTRY")
    monkeypatch.delenv("npm_config_registry", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert solver.registry() == solver.REGISTRY
    (tmp_path / ".npmrc").write_text("audit=false\nregistry = https://npm.example/\n")
    assert solver.registry() == "https://npm.example/"
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "file:///etc")
    with pytest.raises(ValueError, match="expected the address"):
        solver.load()
