"""A headless Chromium for pages of this package, and large runs for it to show."""

import contextlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import emalign_jax as em
from emalign_jax.internal import parquet
from emalign_jax.result import columns

QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip


@contextlib.contextmanager
def chromium(**how):
    """The system's Chromium, closed in the end; the test is skipped where it or playwright is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="needs the test extra's playwright")
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("needs Chromium: none is on the path, and CHROMIUM is not set")
    with api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=found, args=list(QUIET), **how)
        yield opened
        opened.close()


def faults(page):
    """The serious and critical faults that axe-core finds in what is shown, as (rule, element)."""
    source = pytest.importorskip("axe_playwright_python", reason="needs the test extra's axe-playwright-python")
    page.evaluate((Path(source.__file__).parent / "axe.min.js").read_text("utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    return [(x["id"], x["nodes"][0]["html"]) for x in found if x["impact"] in ("serious", "critical")]


def grown(run, path, count, rng):
    """A copy of a search with one start and one number of agents, with `count` games, numbers of its rows drawn anew:
    nothing in it compresses better than in a real run."""
    shutil.copytree(run, path)
    games = em.load_games(path / "games.npz")
    schemes = em.load_schemes(path / "schemes.npz")
    more = em.random_games(0, count, agents=games.agents, states=games.outcomes, actions=games.actions,
                           agent_features=games.agent_features)  # fmt: skip
    em.save_games(path / "games.npz", more)
    em.save_schemes(path / "schemes.npz", rng.dirichlet(np.ones(schemes.shape[-1]), (count, *schemes.shape[1:-1])))
    rows = pd.read_parquet(path / "games.parquet")
    rows = rows.iloc[rng.integers(len(rows), size=count)].reset_index(drop=True).assign(game=np.arange(count))
    for column in columns.GAMES:
        if column.kind == "number":
            rows[column.name] = rng.normal(size=count)
        if column.kind == "numbers":
            rows[column.name] = rng.normal(size=(count, games.agents)).tolist()
    parquet.write(path / "games.parquet", columns.arrow((columns.CELL, *columns.GAMES), rows))
    return path


def rewritten(run, path, change, manifest):
    """A copy of a run with other rows, change(rows), and other entries of its manifest."""
    shutil.copytree(run, path)
    change(rows := pd.read_parquet(path / "games.parquet"))
    rows.to_parquet(path / "games.parquet", index=False)
    found = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(found | manifest))
    return path
