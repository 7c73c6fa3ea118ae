"""`emalign align` from the command line: table, run directory, figure, JSON, exit codes, bad input."""

import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
from support.commands import refused

from emalign_jax.report.figures import hull

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
    assert sorted(lines["method"].unique()) == ["best single", "cone", "mean", "simplex"]
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
    assert sorted({line["agents"] for line in document["curves"]}) == [1, 2, 4]
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
def test_tolerance_decides_who_is_covered_and_one_target_has_no_share(run):
    save_wide()
    arguments, found = ("align", "t.csv", "--id", "prompt", "--target", "human", *QUICK), {}
    for tolerance in ("--tolerance 1e-6", "--tolerance 1e6", "--relative-tolerance 1e6", "--relative-tolerance 0"):
        found[tolerance] = json.loads(run(*arguments, *tolerance.split(), "--json")[1])["coverage"]
        names = ("covered", "covered_without_any_one", "covered_without_any_five_lower")
        shares = [found[tolerance][name] for name in names]
        exact = [True, False, False] if tolerance == "--tolerance 1e-6" else [not tolerance.endswith(" 0")] * 3
        assert [type(share) for share in shares] == [bool] * 3
        assert shares == exact or tolerance.endswith(" 0")  # where rounding decides
    assert [cover["relative"] for cover in found.values()] == [False, False, True, True]
    out = run(*arguments, "--tolerance", "0.001")[1]
    assert "one target" in out
    assert "with all agents                 yes\n  after removing any one           no (exact)" in out
    assert "%" not in out[out.index("Covered:") :]
    assert "RMS error at most 0.8 x that of no agent" in run(*arguments)[1]


@pytest.mark.slow
def test_everyone_is_kept_by_overlap(run):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(12, 60)).cumsum(0)).melt(ignore_index=False, var_name="item")
    frame = frame.rename_axis("user").reset_index().rename(columns={"value": "rating"})
    frame.sample(frac=0.8, random_state=0).to_csv("t.csv", index=False)
    code, out, _ = run("align", "t.csv", "--overlap", "12", "--subsets", "3")
    assert code == 0
    assert "12 users, 60 items; 12 in turn as target" in out
    assert "80.0% of the cells are there; each target is fitted on the items that it and its agents rated" in out
    document = json.loads(run("align", "t.csv", "--overlap", "12", "--subsets", "3", "--json")[1])
    assert document["table"]["overlap"] == 12
    lines = pd.DataFrame(document["curves"])
    errors = pd.read_parquet("align-2/errors.parquet")
    assert (errors["items"] >= 12).all()
    assert (errors["test_items"] >= 2).all()
    for (offset, method, n), group in errors.groupby(["offset", "method", "agents"]):
        line = lines.query(f"offset == '{offset}' and method == '{method}' and agents == {n}").iloc[0]
        assert [line["targets"], line["fits"]] == [group["target"].nunique(), len(group)]
        means = group[["items", "test_items", "no_agent"]].mean()
        np.testing.assert_allclose(line[["items", "test_items", "no_agent"]].astype(float), means)
    largest = lines["agents"].max()
    cells = [line.split()[:4] for line in out.splitlines() if line.startswith(f"{largest:>4}  ")]
    at = lines.query("agents == @largest and method == 'simplex'").iloc[0]
    assert cells == [[str(largest), str(at["targets"]), f"{at['items']:.1f}", f"{at['test_items']:.1f}"]] * 2
    assert f"got {largest + 1}" in run("align", "t.csv", "--overlap", "12", "--agents", f"{largest + 1}")[2]


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
    monkeypatch.setattr(hull, "draw", full)
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
    assert "fit:" in err
    assert "fit:" not in out


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
        (["t.csv", "--relative-tolerance", "-1"], ["--relative-tolerance", "-1"]),
        (["t.csv", "--tolerance", "1", "--relative-tolerance", "1"], ["--relative-tolerance", "expected one of them"]),
        (["t.csv", "--overlap", "9"], ["--overlap", "9 of the items"]),
        (["t.csv", "--overlap", "1"], ["--overlap", "greater than or equal to 2"]),
        (["t.csv", "--overlap", "3", "--agents", "5"], ["--agents", "at most 4", "--overlap 3"]),
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
    curves = pd.read_csv("align-1/curves.csv").set_index(["offset", "method", "agents"]).sort_index()
    lines = curves["held_out"]
    none, constant, removed = (axis for part in drawn[0].subfigs for axis in part.axes)
    for axis, offset in ((none, "none"), (constant, "constant")):
        by_label = {line.get_label(): line.get_ydata() for line in axis.lines}
        for label, method in hull.METHODS.items():
            np.testing.assert_allclose(by_label[method[0]], lines[offset, label])
        np.testing.assert_allclose(
            by_label["no agent (dashed lines: in-sample)"], curves.loc[(offset, "simplex"), "no_agent"]
        )
        gain = curves.loc[(offset, "simplex", 4)]
        assert f"{gain['over_none']:.3g} [{gain['over_none_low']:.3g}, " in axis.get_title()
        assert axis.get_ylim() == none.get_ylim()
    left = pd.read_csv("align-1/leave_out.csv")
    np.testing.assert_allclose(removed.lines[0].get_xdata()[1:], np.sort(left["error"] / left["no_agent"]))
    np.testing.assert_allclose(removed.lines[1].get_xdata()[1:], np.sort(left["without_one"] / left["no_agent"]))
