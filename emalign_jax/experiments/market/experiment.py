"""A market from its specification to its directory: what `emalign market` does."""

from __future__ import annotations

import contextlib
import hashlib
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from emalign_jax.experiments import engine, run_store
from emalign_jax.experiments.engine import Executors, Task
from emalign_jax.experiments.grid.table import plain
from emalign_jax.experiments.market import block, config
from emalign_jax.experiments.market.config import Config
from emalign_jax.experiments.market.table import MarketTable, read
from emalign_jax.experiments.run_store import Kind, Run, figures
from emalign_jax.experiments.specification import Flat
from emalign_jax.internal import memory, parquet
from emalign_jax.internal.files import atomic
from emalign_jax.result import columns

TABLES = {"markets": columns.MARKETS, "agents": columns.MARKET_AGENTS}
FIGURES = figures("market")
MARKET = Kind("market", (*(f"{name}.parquet" for name in TABLES), *FIGURES))
STEPS = 100  # of progress, in a block
ROW = 400  # bytes that a row takes

Progress = Callable[[str, int, int], None]


class Experiment(NamedTuple):
    """A market that can be computed."""

    config: Config
    table: MarketTable


class Found(NamedTuple):
    """What is in the directory of a market that is done.

    path:    the directory
    rows:    the columns MARKETS of docs/columns.md: a row a resample and market
    agents:  the columns MARKET_AGENTS: a row a resample and agent
    facts:   of the table: target, agents, prompts, actions, what was left out
    config:  the specification, by key
    fresh:   whether anything was computed; otherwise the run was there and done
    seconds: of this call
    """

    path: Path
    rows: pd.DataFrame
    agents: pd.DataFrame
    facts: dict[str, Any]
    config: dict[str, Any]
    fresh: bool
    seconds: float

    def __repr__(self) -> str:
        return f"Found({str(self.path)!r}: {len(self.rows)} markets)"


def prepare(path: str | None, given: Flat, changes: Flat | None = None) -> Experiment:
    """The specification and its table, checked: nothing is begun that cannot be ended.

    path: a TOML file, or None; given, changes: values of keys
    """
    made = config.read(path, given, changes)
    table = read(made.made.table)
    where, K = f"{made.path}: " if made.path else "", table.agents
    most = max(made.made.market.n or (2,))
    if most > K:
        raise ValueError(f"{where}market.n: expected at most {K}, the agents in {made.made.table.file}, got {most}")
    full = float(table.market(made.made.table, made.made.seed).user.max(1).mean())
    target = made.made.market.target_value
    if target is not None and not target <= full:
        raise ValueError(
            f"{where}market.target_value: expected at most what all that the agents know is worth, {full:.6g}, got "
            f"{target:g}"
        )
    with open(made.made.table.file or "", "rb") as file:  # a table may change under its name
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    section = made.made.table.model_copy(update={"digest": digest})
    own, usual = made.made.market, config.RESAMPLES * (len(table) * table.actions * K <= config.MOST_SCORES)
    bootstrap = usual if own.bootstrap is None else own.bootstrap
    own = own.model_copy(update={"bootstrap": bootstrap})
    made = Config(made.path, made.title, made.made.model_copy(update={"table": section, "market": own}))
    rows = (1 + bootstrap) * (1 + own.subsets * len(block.sizes(made.made, K)) + K)
    memory.require(ROW * rows, f"{where}market.bootstrap, market.subsets: {rows} rows")
    return Experiment(made, table)


def perform(
    made: Experiment,
    out: Path | None,
    force: bool,
    source: contextlib.AbstractContextManager[Executors | None],
    progress: Progress,
    draw: Callable[[Found], list[str]] = lambda _: [],
    redraw: bool = False,
    **more: Any,
) -> Found:
    """Compute the blocks that are not there, merge them, and draw.

    source: of `executors`; draw: writes the figures, before the run is done, and returns their names; redraw: also of a
    run that was done; more: for the manifest
    """
    began = time.perf_counter()
    own, table = made.config, made.table
    entries = run_store.manifest(MARKET, own.plain(), own.made.seed, **more)
    facts = {
        "target": table.target, "agents": table.agents, "entering": len(table.names) - table.agents,
        "prompts": len(table), "items": table.items, "actions": table.actions, "left_out": list(table.notes),
    }  # fmt: skip
    with run_store.begun(out, MARKET, entries, force) as here:
        fresh = not here.done
        if fresh:
            with source as workers:
                merged = _compute(made, here, workers, progress)
            for name, rows in merged.items():
                with atomic(here.path / f"{name}.parquet") as file:
                    parquet.write(file, columns.arrow(TABLES[name], rows))
        tables = {name: read_rows(here.path, name) for name in TABLES}
        seconds = time.perf_counter() - began
        found = Found(here.path, tables["markets"], tables["agents"], facts, own.plain(), fresh, seconds)
        if fresh:
            draw(found)
            here.finish(plain(entries | {"table": facts}), time.perf_counter() - began)
        elif redraw:
            run_store.add(here.path, *draw(found))
    return found


def read_rows(path: Path, name: str) -> pd.DataFrame:
    """One of TABLES of a run that is done. Raises `ValueError` that names the file and the column."""
    schema = TABLES[name]
    rows = parquet.read(path / f"{name}.parquet", columns.kinds(schema, (column.name for column in schema)))
    if not len(rows) or rows[[c.name for c in schema if c.kind in ("whole", "text", "flag")]].isna().to_numpy().any():
        raise ValueError(f"{path / f'{name}.parquet'}: expected a row at least, and names and numbers in every row")
    return rows


def _compute(made: Experiment, here: Run, workers: Executors | None, progress: Progress) -> dict[str, pd.DataFrame]:
    text, data, count = made.config.text, block.sent(made.table), 1 + (made.config.made.market.bootstrap or 0)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    tasks = [Task(f"{key}-{number:05d}", (data, text, number)) for number in range(count)]
    left = [task for task in tasks if not all(here.kept(f"{task.name}-{name}", ".parquet") for name in TABLES)]
    done = count - len(left)

    def tell(share: float = 0.0) -> None:
        """share: of the block that is computed here"""
        progress("market", round(STEPS * (done + share)), STEPS * count)

    def keep(task: Task, found: dict[str, bytes]) -> None:
        nonlocal done
        for name, held in found.items():
            here.keep(f"{task.name}-{name}", ".parquet", held)
        done += 1
        tell()

    def compute_here(*arguments) -> dict[str, bytes]:
        return block.compute(*arguments, progress=tell)

    tell()
    engine.run(compute_here if workers is None else block.compute, left, keep, executors=workers)
    return {
        name: pd.concat([_part(here, f"{task.name}-{name}") for task in tasks], ignore_index=True) for name in TABLES
    }


def _part(here: Run, name: str) -> pd.DataFrame:
    held = here.part(name, ".parquet")
    if held is None:
        raise OSError(f"{here.path}: {name}: vanished while it was merged; run the same command again")
    return pd.read_parquet(io.BytesIO(held))
