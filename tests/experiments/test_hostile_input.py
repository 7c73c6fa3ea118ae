"""What is no file, doubles a sample, belongs to another run or could never fit is answered in one line, before work.

Damaged and odd files are in test_damaged_files.py.
"""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.commands import refused

import emalign_jax as em
from emalign_jax.experiments import manifests, plan
from emalign_jax.experiments.hull import tables, text
from emalign_jax.experiments.run_parts import Parts
from emalign_jax.experiments.tune import config as tunings
from emalign_jax.internal import memory

pytestmark = [pytest.mark.usefixtures("empty_directory"), pytest.mark.host_only]


@pytest.mark.parametrize("there", ["pipe", "device"])
@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("x.npz", ["certify", "x.npz", "s.npz"]),
        ("s.npz", ["certify", "g.npz", "s.npz"]),
        ("x.npz", ["search", "--games", "x.npz"]),
        ("x.npz", ["stability", "x.npz"]),
        ("x.npz", ["align", "x.npz"]),
        ("x.csv", ["align", "x.csv"]),
        ("x.tsv", ["align", "x.tsv"]),
        ("u.data", ["align", "u.data"]),
        ("x.parquet", ["align", "x.parquet"]),
        ("x.toml", ["sweep", "x.toml"]),
        ("x.toml", ["search", "x.toml"]),
        ("x.toml", ["tune", "x.toml"]),
        ("run/manifest.json", ["report", "run"]),
        ("run/games.parquet", ["report", "run"]),
        ("run/user_value.png", ["report", "run"]),
        ("run/manifest.json", ["sweep", "g.toml", "--out", "run"]),
        ("run/manifest.json", ["search", "g.toml", "--out", "run"]),
        ("run/manifest.json", ["tune", "g.toml", "--out", "run"]),
    ],
)
def test_only_regular_files_are_read(run, there, name, command):
    em.save_games("g.npz", em.random_games(0, 1, agents=1, states=2, actions=2))
    Path("g.toml").write_text("")
    Path("run").mkdir()
    rows = {
        "family": "hull", "agents": 1, "game": 0, "start": 0, "normalised_value": 1.0,
        "normalised_average_monopolist": 1.0,
        "normalised_worst_equilibrium": 1.0, "relative_gain": 0.0, "seconds": 0.0, "ok": True, "certified": True,
        "message": "", "result": "CERTIFIED",
    }  # fmt: skip
    pd.DataFrame([rows]).to_parquet("run/games.parquet")
    manifest = {"schema": manifests.SCHEMA, "kind": "search", "status": "done", "command": [], "config": {},
                "versions": {}, "files": ["games.parquet", "user_value.png"]}  # fmt: skip
    Path("run/manifest.json").write_text(json.dumps(manifest))
    Path(name).unlink(missing_ok=True)
    if there == "pipe":
        os.mkfifo(name)
    else:
        Path(name).symlink_to("/dev/zero")
    assert refused(run(*command), name if "--out" not in command else "run: --out: its manifest.json is not")


def test_the_same_twice_is_no_larger_sample(run):
    assert refused(run("search", "--family", "hull,hull"), "games.family", "distinct")
    assert refused(run("search", "--agents", "2,2"), "games.agents", "distinct")
    Path("x.toml").write_text("[games]\nagents = [2, 2]\n")
    assert refused(run("sweep", "x.toml"), "x.toml", "games.agents", "distinct")
    Path("x.toml").write_text("[user]\nprecision = [5, 5.0]\n")
    assert refused(run("sweep", "x.toml"), "x.toml", "user.precision", "distinct")


@pytest.mark.parametrize("number", ["7" * 3800, "-" + "7" * 3800])
def test_no_message_is_full_of_digits(run, number):
    Path("x.toml").write_text(f"[games]\ncount = {number}\n")
    for command in (["search", "--agents", number], ["search", "--precision", number + "x"], ["sweep", "x.toml"]):
        code, _, said = run(*command)
        assert code == 2
        assert len(said) < 300


WORDS = ["=1+1", "+a", "-a", "@a", "\ta", "'=b", "''-b", "'b", "plain", ""]


def test_no_name_is_a_formula_in_a_table():
    rows = pd.DataFrame({"agent": WORDS, "n": -1.5})
    text.write(Path("t.csv"), rows)
    with open("t.csv", newline="") as file:
        cells = list(csv.reader(file))[1:]
    assert not any(word.startswith(tuple("=+-@\t")) for word, _ in cells)
    assert {number for _, number in cells} == {"-1.5"}
    assert [text.plain(word) for word, _ in cells] == WORDS


@pytest.mark.slow
def test_names_of_align_are_no_formulas(run):
    rng = np.random.default_rng(0)
    pd.DataFrame(rng.normal(size=(12, 4)), columns=["=cmd|x", "@b", "c", "d"]).to_csv("t.csv", index=False)
    code, _, err = run("align", "t.csv", "--target", "c", "--subsets", "2", "--out", "run")
    assert code == 0, err
    assert "'=cmd|x" in Path("run/weights.csv").read_text().replace('"', "")
    assert run("report", "run")[0] == 0
    assert ">=cmd|x<" in Path("run/report.html").read_text()


def test_a_part_is_its_own_cells_alone():
    said = []
    kept = Parts(Path(), said.append)
    one, other = 16 * "a", 16 * "b"  # digests, as the keys of cells are
    kept.keep(f"{one}-0000000-50", ".parquet", b"rows")
    (part,) = Path("parts").iterdir()
    for name in (f"{other}-0000000-50", f"{one}-0000050-50", f"{one}-0000000-49"):
        moved = Path("parts") / part.name.replace(f"{one}-0000000-50", name)
        moved.write_bytes(part.read_bytes())
        fresh = Parts(Path(), said.append)
        assert fresh.part(name, ".parquet") is None
        assert not moved.exists()
        assert fresh.part(f"{one}-0000000-50", ".parquet") == b"rows"
    assert len(said) == 3
    assert all("damaged" in words for words in said)


def test_tuning_draws_no_games_before_their_size_is_known_to_do(monkeypatch):
    def draw(*_, **__):
        raise AssertionError("drawn")

    monkeypatch.setattr(tunings, "random_games", draw)
    with pytest.raises(ValueError, match=r"^x\.toml: messages: "):
        tunings.setup(tunings.parse("[games]\nagents = 12\nstates = 12\ncount = 1000\n", "x.toml"))


def test_a_poll_of_next_to_no_answers_is_not_spread_out(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 2**30)
    count = 20_000
    each = np.arange(count) // 2
    rows = pd.DataFrame({"question": each, "option": np.arange(count) % 2, "group": each, "share": 0.5})
    rows.to_csv("t.csv", index=False)
    with pytest.raises(
        ValueError, match=r"^t\.csv: a table of 10000 groups and 20000 options would take about 12.8 GB"
    ):
        tables.read(Path("t.csv"))


@pytest.mark.slow
def test_a_manifest_asks_for_no_grid_without_end():
    plain = plan.parse("", "x.toml").plain() | {name: list(range(1, 101)) for name in ("games.agents", "games.states")}
    plan.from_manifest(plain, "m")  # 10,000 are allowed
    with pytest.raises(ValueError, match=r"^m: .*expected at most 10000 cells"):
        plan.from_manifest(plain | {"seed": [1, 2]}, "m")


def test_bytes_are_no_numbers():
    rows = pd.DataFrame({"user": ["a", "b"], "item": ["x", "y"], "rating": [b"\xff", b"1"]})
    rows.to_parquet("t.parquet", index=False)
    with pytest.raises(ValueError, match=r"^t\.parquet: rating: expected a number a row, got binary$"):
        tables.read(Path("t.parquet"))


def test_a_manifest_has_no_missing_values_on_an_axis():
    plain = plan.parse("[games]\nnoise = [0.5, 1.0]\n", "x.toml").plain()
    with pytest.raises(ValueError, match=r"^m: games.noise: expected a number, got None$"):
        plan.from_manifest(plain | {"games.noise": [0.5, None]}, "m")
    with pytest.raises(ValueError, match=r"^m: games.user_features: expected values, got"):
        plan.from_manifest(plain | {"games.user_features": [1, None]}, "m")
