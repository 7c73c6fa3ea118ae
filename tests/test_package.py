"""What a newcomer touches first: the import, the README, the notebook, the benchmark."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import emalign_jax as em

ROOT = Path(__file__).parent.parent


def child(code_or_file, *arguments, cwd=None):
    environment = os.environ | {"PYTHONPATH": os.path.dirname(os.path.dirname(em.__file__))}
    command = [sys.executable, *([str(code_or_file)] if isinstance(code_or_file, Path) else ["-c", code_or_file])]
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, env=environment, cwd=cwd, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_light_and_sets_no_flag():
    report = json.loads(
        child(
            "import json, sys, time, jax, equinox\n"
            "before = {k: v for k, v in jax.config.values.items()}\n"
            "began = time.perf_counter()\n"
            "import emalign_jax\n"
            "seconds = time.perf_counter() - began\n"
            "modules = 'matplotlib', 'pandas', 'pyarrow', 'typer', 'scipy.optimize', 'scipy.sparse'\n"
            "heavy = [m for m in modules if m in sys.modules]\n"
            "same = before == {k: v for k, v in jax.config.values.items()}\n"
            "print(json.dumps([seconds, heavy, same]))"
        )
    )
    seconds, heavy, same = report
    assert heavy == []
    assert same
    assert seconds < 2  # .3 s alone; two test processes share two cores


def test_public_names_exist_and_are_documented():
    for name in em.__all__:
        value = getattr(em, name)
        assert value.__doc__ or isinstance(value, dict), f"{name} has no docstring"


def test_code_in_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    lines = child("\nprint('---')\n".join(blocks)).split("---\n")
    assert len(lines) == 4
    search, named, talk, exact = ([float(x) for x in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", part)] for part in lines)
    assert 0 < search[0] <= 1
    assert search[1] <= 1e-3
    np.testing.assert_allclose(named, [0.6, 0.7], atol=1e-6)
    np.testing.assert_allclose(talk[:2], [0.75, 1], atol=1e-3)
    np.testing.assert_allclose(exact[:5], [1, 1, 0.7, 0.7, 0.5], atol=1e-6)
    np.testing.assert_allclose(exact[5:], 0.49708735, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of jupyter's own machinery
def test_notebooks_run():
    import nbformat
    from nbclient import NotebookClient

    paths = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert paths
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": ROOT}})
        client.execute()
        assert all(cell.get("execution_count") for cell in notebook.cells if cell.cell_type == "code" and cell.source)
        assert path.stat().st_size < 300_000, "outputs stay small"


@pytest.mark.slow
def test_benchmark_runs_small(tmp_path):
    out = child(ROOT / "benchmarks" / "run.py", "--quick", "--out", tmp_path / "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert len(rows) == 2
    for row in rows:
        assert row["row"] in out
        assert row["per_second"] > 0


@pytest.mark.slow
def test_exact_benchmark_runs_small(tmp_path):
    out = child(ROOT / "benchmarks" / "exact.py", "--quick", "--out", tmp_path / "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert all(row["row"] in out for row in rows)
    assert all(row["closed"] == 1 for row in rows if "closed" in row)


@pytest.mark.slow
def test_conversation_benchmark_runs_small(tmp_path):
    """It exits 1 if a promise is broken."""
    out = child(ROOT / "benchmarks" / "conversations.py", "--quick", "--out", tmp_path / "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert all(row["row"] in out for row in rows)
    assert sum("below_guarantee" in row for row in rows) == 4
