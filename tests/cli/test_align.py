"""`emalign align` from the command line: table, run directory, figure, JSON, exit codes, bad input."""

import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
from support.commands import refused

from emalign_jax.report import hull_figure

pytestmark = [pytest.mark.usefixtures("empty_directory"), pytest.mark.host_only]

FILES = ["curves.csv", "errors.parquet", "hull.pdf", "hull.png", "leave_out.csv", "manifest.json", "weights.csv"]


def save_wide(path="t.csv", people=7, items=20, seed=0):
    """A target `human` who is the mean of the first two agents, and agents of noise."""
    agents = np.random.default_rng(seed).normal(size=(people - 1, items))
    frame = pd.DataFrame({"human": agents[:2].mean(0)} | {f"ai {k}": row for k, row in enumerate(agents)})
    frame.insert(0, "prompt", [f"p{n}" for n in range(items)])
    frame.to_csv(path, index=False)
    return frame


def save_long(path="t.csv", people=5, items=12):
    values = np.random.default_rng(1).integers(1, 6, (people, items))
    rows = [f"{p},{i},{values[p, i]}" for p in range(people) for i in range(items)]
    with open(path, "w") as file:
        file.write("\n".join(["user,item,rating", *rows]) + "\n")


QUICK = ("--subsets", "3", "--agents", "1,6")
FEWEST = ("--subsets", "1", "--agents", "1,4")


@pytest.mark.slow
def test_table_and_run_directory(run, tmp_path):
    save_wide()
    code, out, err = run("align", "t.csv", "--id", "prompt", "--target", "human", "--seed", "4", *QUICK)
    assert (code, err) == (0, "")
    for words in (
        "7 annotators, 20 instances",
        "6 instances held out",
        "beat the plain mean",
        "after removing any one",
    ):
        assert words in out
    assert "Figure: align-1/hull.png" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["align-1", "t.csv"]
    assert sorted(path.name for path in (tmp_path / "align-1").iterdir()) == FILES
    assert (tmp_path / "align-1/hull.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "align-1/hull.pdf").read_bytes().startswith(b"%PDF")
    lines = pd.read_csv("align-1/curves.csv")
    assert sorted(lines["method"].unique()) == ["best single", "cone", "mean", "offset alone", "simplex"]
    errors = pd.read_parquet("align-1/errors.parquet")
    assert set(errors["target"]) == {"human"}
    means = errors.groupby(["offset", "method", "agents"])["held_out"].mean()
    at = lines.set_index(["offset", "method", "agents"])["held_out"]
    np.testing.assert_allclose(at[means.index], means)
    weights = pd.read_csv("align-1/weights.csv").set_index("agent")["mean_weight"]
    np.testing.assert_allclose(weights[["ai 0", "ai 1"]], 0.5, atol=1e-9)
    manifest = json.loads((tmp_path / "align-1/manifest.json").read_text())
    assert manifest["table"]["people"] == 7
    assert manifest["config"]["target"] == "human"
    assert manifest["seed"] == 4
    columns = [line for line in out.splitlines() if line.startswith("   6 ") or line.startswith("   n ")]
    assert len({len(line) for line in columns}) == 1, "the columns line up"


@pytest.mark.slow
def test_json_is_one_document_and_the_same_each_time(run, tmp_path):
    save_long()
    arguments = ("align", "t.csv", "--subsets", "3", "--json")
    code, out, err = run(*arguments)
    document = json.loads(out)
    assert (code, err, document["schema"]) == (0, "", 1)
    assert document["summary"]["run"] == "align-1"
    assert document["table"]["targets"] == 5
    assert len(document["leave_out"]) == 5
    assert sorted({line["agents"] for line in document["curves"]}) == [0, 1, 2, 4]
    assert sorted(path.name for path in (tmp_path / "align-1").iterdir()) == FILES
    again = json.loads(run(*arguments)[1])
    assert again["curves"] == document["curves"]
    assert again["leave_out"] == document["leave_out"]
    assert [line["held_out"] for line in document["curves"]] == pytest.approx(
        pd.read_csv("align-1/curves.csv")["held_out"].tolist()
    )


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "sup"])
def test_several_answers_have_an_offset_a_prompt(run, norm):
    rng = np.random.default_rng(0)
    np.savez("r.npz", user_utility=rng.normal(size=(2, 3, 10)), agent_utilities=rng.normal(size=(4, 3, 10)))
    code, out, _ = run("align", "r.npz", "--json", "--norm", norm, *QUICK[:3], "1,4")
    assert code == 0
    document = json.loads(out)
    assert {line["offset"] for line in document["curves"]} == {"none", "constant", "per_state"}
    assert document["coverage"]["offset"] == "per_state"
    code, out, _ = run("align", "r.npz", "--json", "--norm", norm, "--offset", "none", *QUICK[:3], "1,4")
    assert {line["offset"] for line in json.loads(out)["curves"]} == {"none"}


@pytest.mark.slow
def test_tolerance_decides_who_is_covered(run):
    save_wide()
    shares = {}
    for tolerance in ("1e-6", "1e6"):
        out = run("align", "t.csv", "--id", "prompt", "--target", "human", "--tolerance", tolerance, "--json", *QUICK)[
            1
        ]
        shares[tolerance] = [
            json.loads(out)["coverage"][name]
            for name in ("covered", "covered_without_any_one", "covered_without_any_five_lower")
        ]
    assert shares["1e-6"] == [1, 0, 0]
    assert shares["1e6"] == [1, 1, 1]


@pytest.mark.slow
def test_the_same_again_is_the_same_and_something_else_needs_force(run, tmp_path):
    save_long()
    same = ("align", "t.csv", "--out", "mine", *FEWEST)
    first, tables = run(*same), {}
    for again in (same, (*same, "--json")):
        tables[again] = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
        assert run(*again)[0] == 0
    assert [name for name in FILES if tables[same][name] != tables[again][name]] == ["manifest.json"]
    assert re.sub(r"in [\d.]+ s", "", run(*same)[1]) == re.sub(r"in [\d.]+ s", "", first[1])
    before = {path: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    assert refused(run(*same, "--seed", "1"), "mine", "seed is 0 there and 1 now", "--force")
    save_long(items=13)
    assert refused(run(*same), "mine", "table_sha256 is", "--force")
    assert {path: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == before
    assert run(*same, "--force")[0] == 0
    assert (tmp_path / "mine/curves.csv").read_bytes() != tables[same]["curves.csv"]


@pytest.mark.slow
def test_a_failure_while_drawing_costs_no_result(run, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    save_long()
    monkeypatch.setattr(hull_figure, "draw", full)
    code, out, err = run("align", "t.csv", *FEWEST)
    assert code == 1
    assert "align-1" in out
    assert err.count("\n") == 1
    assert "no figure could be drawn (OSError: No space left on device)" in err
    assert {path.name for path in tmp_path.iterdir()} == {"t.csv", "align-1"}
    assert "manifest.json" in {path.name for path in (tmp_path / "align-1").iterdir()}


@pytest.mark.slow
def test_the_progress_bar_is_for_terminals(run, monkeypatch):
    save_long()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    _, out, err = run("align", "t.csv", *FEWEST, "--json")
    assert "leave out" in err
    assert "leave out" not in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.csv"], ["nowhere.csv", "no such file"]),
        (["folder"], ["folder", "directory"]),
        (["t.csv", "--rating", "stars"], ["t.csv", "--rating", "'stars'"]),
        (["text.csv"], ["text.csv", "rating", "row 3", "'good'"]),
        (["twice.csv"], ["twice.csv", "user a, item x", "rows 2 and 4"]),
        (["flat.csv", "--target", "0"], ["flat.csv", "target 0", "varies"]),
        (["flat.csv"], ["flat.csv", "varies"]),
        (["few.csv", "--least-items", "1"], ["few.csv", "3 items", "at least 4"]),
        (["few.csv"], ["few.csv", "--least-items"]),
        (["empty.csv"], ["empty.csv", "is empty"]),
        (["latin.csv"], ["latin.csv", "row 3", "utf-8", "--encoding latin-1"]),
        (["t.csv", "--target", "nobody"], ["--target", "'nobody'"]),
        (["t.csv", "--agents", "1,9"], ["--agents", "at most 4", "9"]),
        (["t.csv", "--agents", "one"], ["--agents", "'one'"]),
        (["t.csv", "--test-share", "1"], ["--test-share"]),
        (["t.csv", "--tolerance", "nan"], ["--tolerance"]),
        (["t.csv", "--offset", "per_state"], ["--offset", "per_state"]),
        (["t.csv", "--out", "t.csv"], ["t.csv", "--out"]),
        (["t.csv", "--norm", "l3"], ["--norm", "l3"]),
        (["text.npz"], ["text.npz"]),
        (["notes.txt"], ["notes.txt", ".csv"]),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, arguments, words):
    save_long()
    save_long("few.csv", items=3)
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.csv").write_text("user,item,rating\na,x,1\nb,x,good\n")
    (tmp_path / "twice.csv").write_text("user,item,rating\na,x,1\nb,x,2\na,x,3\n")
    (tmp_path / "flat.csv").write_text(
        "user,item,rating\n" + "".join(f"{p},{i},3\n" for p in range(4) for i in range(12))
    )
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "latin.csv").write_bytes("user,item,rating\na,x,1\ncaf\u00e9,x,2\n".encode("latin-1"))
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "notes.txt").write_text("")
    before = sorted(path.name for path in tmp_path.iterdir())
    assert refused(run("align", *arguments), *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_help(run):
    code, out, err = run("align", "--help")
    assert (code, err) == (0, "")
    assert "Examples:" in out
    assert "emalign align ml-100k/u.data" in out
    assert "align" in run("--help")[1]


@pytest.mark.slow
def test_figures_hold_what_they_say(run, monkeypatch, tmp_path):
    """The lines are the curves' numbers, an axis an offset; the last panel is a share against the error."""
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: drawn.append(self) or path.touch())
    save_long()
    assert run("align", "t.csv", *QUICK[:2], "--agents", "1,2,4")[0] == 0
    lines = pd.read_csv("align-1/curves.csv").set_index(["offset", "method", "agents"])["held_out"].sort_index()
    none, constant, removed = (axis for part in drawn[0].subfigs for axis in part.axes)
    for axis, offset in ((none, "none"), (constant, "constant")):
        by_label = {line.get_label(): line.get_ydata() for line in axis.lines}
        for label, method in hull_figure.NAMES.items():
            np.testing.assert_allclose(by_label[method], lines[offset, label])
        assert by_label["no agent"][0] == pytest.approx(lines[offset, "offset alone", 0])
        assert axis.get_ylim() == none.get_ylim()
    left = pd.read_csv("align-1/leave_out.csv")
    np.testing.assert_allclose(removed.lines[0].get_xdata()[1:], np.sort(left["error"]))
    np.testing.assert_allclose(removed.lines[1].get_xdata()[1:], np.sort(left["without_one"]))
