"""Benchmarks run, small; a module of its own so that another process runs the notebooks meanwhile."""

import json
from pathlib import Path

import pytest
from support.commands import child

pytestmark = pytest.mark.host_only

ROOT = Path(__file__).parents[2]


@pytest.mark.nightly
def test_search_benchmark_runs_small(tmp_path):
    out = child(ROOT / "benchmarks" / "search.py", "--quick", "--out", tmp_path / "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert len(rows) == 2
    for row in rows:
        assert row["row"] in out
        assert row["per_second"] > 0


@pytest.mark.nightly
def test_selection_benchmark_runs_small(tmp_path):
    """Both sides reach the gap, which HiGHS confirms."""
    out = child(ROOT / "benchmarks" / "selection.py", "--quick", "--out", tmp_path / "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert len(rows) == 2
    for row in rows:
        assert row["row"] in out
        assert min(row["certified"], *row["sample_certified"]) > 0.8


@pytest.mark.nightly
def test_benchmark_of_belief_lps_runs_small(tmp_path):
    """Both sides are this release here."""
    script = ROOT / "benchmarks" / "beliefs.py"
    child(script, "--quick", "--release", ROOT, "--out", tmp_path / "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert len(rows) == 5
    for row in rows.values():
        assert row["share"] == row["other_share"] > 0.8
        assert row["ratio"] > 0


@pytest.mark.nightly
def test_benchmark_of_workers_runs_small(tmp_path):
    """The same games are certified whoever computes them."""
    out = child(ROOT / "benchmarks" / "workers.py", "--quick", "--checked", "--out", tmp_path / "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert len(rows) == 3
    assert all(row["row"] in out and row["seconds"] > 0 for row in rows)
    assert {(row["games"], row["certified"]) for row in rows} == {(64, rows[0]["certified"])}


@pytest.mark.nightly
def test_market_benchmark_runs_small(tmp_path):
    child(ROOT / "benchmarks" / "market.py", "--quick", "--out", tmp_path / "rows.json")
    (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert row["user"]["none"] <= row["user"]["worst"] <= row["user"]["best"] == row["user"]["full"]


@pytest.mark.nightly
def test_exact_benchmark_runs_small(tmp_path):
    out = child(ROOT / "benchmarks" / "exact.py", "--quick", "--out", tmp_path / "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert all(row["row"] in out for row in rows)
    assert all(row["closed"] == 1 for row in rows if "closed" in row)


@pytest.mark.nightly
def test_conversation_benchmark_runs_small(tmp_path):
    """It exits 1 if a promise is broken."""
    out = child(ROOT / "benchmarks" / "conversations.py", "--quick", "--out", tmp_path / "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert all(row["row"] in out for row in rows)
    assert sum("below_guarantee" in row for row in rows) == 4


@pytest.mark.nightly
def test_tuning_benchmark_runs_small(tmp_path):
    out = child(ROOT / "benchmarks" / "tuning.py", "gradients", "batch", "--quick", "--out", tmp_path / "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert len(rows) == 3
    assert all(row["row"] in out for row in rows)
    assert sum(row.get("wrong but not flagged", 0) for row in rows) == 0


@pytest.mark.nightly
def test_lp_benchmark_runs_small(tmp_path):
    """It exits 1 if the two sides do not agree."""
    out = child(ROOT / "benchmarks" / "lps.py", "--quick", "--out", tmp_path / "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert all(row["row"] in out and row["ratio"] > 0 for row in rows)


@pytest.mark.nightly
def test_accelerator_benchmark_runs_on_a_cpu(tmp_path):
    """It exits 1 if the host does not agree; here both are the host, so that schemes are the same too."""
    out = child(ROOT / "benchmarks" / "accelerator.py", "--quick", "--out", tmp_path / "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert len(rows) == 4
    assert all(row["row"] in out and row["per_second"] > 0 and row["platform"] == "cpu" for row in rows)
    checks = [row["check"] for row in rows if "check" in row]
    assert [check.get("within") for check in checks] == [True, True, None]  # none of play alone
    assert all(check["same_schemes"] == 1 for check in checks)
    assert [row["round_trips_a_chunk"] for row in rows if row.get("round_trips_a_chunk")] == [2]  # games and starts too


@pytest.mark.slow
def test_all_benchmarks_from_one_command(tmp_path):
    out = child(ROOT / "benchmarks" / "run.py", "--quick", "--only", "play", "--out", tmp_path)
    rows = json.loads((tmp_path / "play.json").read_text())["rows"]
    assert len(rows) == 2
    assert all(row["row"] in out and row["ratio"] > 0 for row in rows)
    assert (tmp_path / "ratios.md").read_text().count("\n") == 4
    assert (tmp_path / "ratios.png").stat().st_size > 0
