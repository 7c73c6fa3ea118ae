"""Notebooks run from top to bottom, and stay small."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


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
