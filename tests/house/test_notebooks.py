"""Notebooks run from top to bottom, and stay small."""

from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SMALLER = {
    "does_competition_align": ("NUMBERS, GAMES = (1, 2, 3, 5, 8), 40", "NUMBERS, GAMES = (1, 2, 3), 8"),
    "tuning_a_market": ("steps=20)", "steps=2)"),
}
LONGEST = ("conversations", "tuning_a_market")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # of jupyter's own machinery


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.nightly if name in LONGEST else ())
        for name in sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    ],
)
def test_it_runs(name, tmp_path, monkeypatch):
    """Elsewhere, as one of them writes a picture of the README."""
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOKS.parent))
    path = NOTEBOOKS / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    large, small = SMALLER.get(name, ("", ""))
    assert any(large in cell.source for cell in notebook.cells)
    for cell in notebook.cells if large else []:
        cell.source = cell.source.replace(large, small)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    assert all(cell.get("execution_count") for cell in notebook.cells if cell.cell_type == "code" and cell.source)
    assert path.stat().st_size < 300_000, "outputs stay small"
