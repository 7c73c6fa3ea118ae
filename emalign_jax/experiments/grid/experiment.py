"""A search or a sweep from its specification to its directory: what `emalign search` and `emalign sweep` do."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from emalign_jax.exact.certificates.certificate import flatten_games
from emalign_jax.experiments import executors, plan, run_store
from emalign_jax.experiments.grid import check, merge, study
from emalign_jax.experiments.grid.block import modules
from emalign_jax.experiments.grid.run import SEARCH, STEPS, STUDY, SWEEP, TABLE, Block, Progress, blocks, compute
from emalign_jax.experiments.market import experiment as market
from emalign_jax.experiments.plan import Plan
from emalign_jax.experiments.progress import GridProgress, ProgressBar
from emalign_jax.experiments.specification import Flat
from emalign_jax.games.files import load_games, sizes
from emalign_jax.internal import parquet, plugins
from emalign_jax.internal.arguments import boolean, choice, integer, shown
from emalign_jax.internal.files import is_regular

KINDS = {"search": SEARCH, "sweep": SWEEP, "study": STUDY}
PLANS: dict[str, Any] = {"search": plan, "sweep": plan, "study": study}  # what reads and makes the grid
# What a search takes where nothing is said.
FAMILIES = ["hull", "noise", "shared_bias"]
AGENTS = {"selection": [1, 2, 3, 5, 8], "conversation": [1, 2]}  # by kind of protocol
OTHERS = [1, 2, 3]
NOT_MEASURED: Flat = {"measure.coverage": False, "measure.eps": False}
SEARCH_AXES = ("games.family", "games.agents")


class Found(NamedTuple):
    """The directory of a search, sweep or study that is done.

    Attributes:
        path: the directory.
        plan: its grid of specifications.
        work: its blocks, which are the row groups of the table.
        fresh: whether anything was computed; otherwise the run was there and done.
        seconds: of this call.
        title: of the run, in the manifest.
        drawn: what `draw` of `perform` has returned.

    Example:
        >>> found = em.experiments.run({"games.agents": [1, 2], "games.count": 2, "solver.steps": 100}, out="small")
        >>> found.path.name, len(found.rows)
        ('small', 4)
    """

    path: Path
    plan: Plan
    work: list[Block]
    fresh: bool
    seconds: float
    title: str
    drawn: Any = None

    def __repr__(self) -> str:
        rows = sum(block.rows for block in self.work)
        return f"Found({str(self.path)!r}: {rows} rows, axes {', '.join(self.plan.axes) or 'none'})"

    @property
    def rows(self) -> pd.DataFrame:
        """The table, a row a cell, game and start, with the columns of docs/columns.md."""
        return parquet.read(self.path / TABLE)


def run(
    specification: str | PathLike | Mapping[str, Any],
    *,
    kind: Literal["search", "sweep", "study", "market"] = "sweep",
    out: str | PathLike | None = None,
    force: bool = False,
    workers: int = 1,
    cluster: str | None = None,
    executor: Executor | None = None,
    plugin: Iterable[str | PathLike] = (),
    progress: bool | Callable[..., None] = False,
) -> Found | market.Found:
    """Do what `emalign sweep`, `search`, `study` or `market` does, but for the figures.

    What is done is kept, and the same call goes on where an earlier one ended.

    Args:
        specification: a TOML file, the name of a shipped one, or {"games.agents": [2, 4], "user.precision": 20}; lists
            are axes. The keys are those of docs/specification.md.
        kind: "search" has the defaults of that command, lists for family and agents alone, and keeps games and schemes;
            "study" takes kinds of users too: {"users.quantal": {"user.precision": [20, 5]}};
            "market" has keys of its own, "table.file" and more.
        out: the directory; by default the first of search-1, search-2, ... that is free or unfinished.
        force: start anew where a run is there.
        workers: processes of this machine.
        cluster: the address of a Dask scheduler.
        executor: any executor of processes. At most one of `workers`, `cluster` and `executor` may be given.
        plugin: Python files that define protocols, users or families.
        progress: True: a line on stderr, on terminals only; or a function that is called with a `Progress` (of a
            market: with "market", the steps done, and of how many).

    Returns:
        What is there in the end, as `Found` (of a market as `experiments.market.experiment.Found`).

    Raises:
        ValueError: names the argument or key and the rule, before anything is computed.
        FileNotFoundError: where there is no such file or shipped specification.

    Example:
        >>> found = em.experiments.run({"games.agents": [1, 2], "games.count": 2, "solver.steps": 100}, out="small")
        >>> found.rows.groupby("games.agents").size().tolist()
        [2, 2]

    Source: docs/specification.md.
    """
    choice("kind", kind, (*KINDS, "market"))
    place = None if out is None else _path("out", out)
    boolean("force", force)
    integer("workers", workers, 1)
    if (workers != 1) + (cluster is not None) + (executor is not None) > 1:
        raise ValueError("workers, cluster, executor: give one of them")
    if cluster is not None and not (isinstance(cluster, str) and cluster):
        raise ValueError(f"cluster: expected an address such as tcp://HOST:8786, got {shown(cluster)}")
    if executor is not None and not isinstance(executor, Executor):
        raise ValueError(f"executor: expected a concurrent.futures.Executor, got {shown(executor)}")
    if not callable(progress):
        boolean("progress", progress)
    if isinstance(plugin, str | PathLike) or not isinstance(plugin, Iterable):
        raise ValueError(f"plugin: expected a list of files, got {shown(plugin)}")
    loaded = plugins.load(_path("plugin", file) for file in plugin)
    spec, changes = None, {}
    if isinstance(specification, Mapping):
        changes = {str(name): _plain(x) for name, x in specification.items()}
    else:
        spec = str(_path("specification", specification))
    source = executors.chosen(workers, cluster) if executor is None else executors.given(executor)
    if kind == "market":
        if loaded:
            raise ValueError("plugin: a market has a rational user and Selection; leave it out")
        wanted = market.prepare(spec, {}, changes)
        with ProgressBar("step", quiet=progress is not True) as bar:
            tell = progress if callable(progress) else bar
            return market.perform(wanted, place, force, source, tell, command=sys.orig_argv)
    with GridProgress(quiet=progress is not True) as line:
        tell = progress if callable(progress) else line
        return perform(kind, spec, changes, loaded, place, force, source, tell, command=sys.orig_argv)


def _path(name: str, value: Any) -> Path:
    if not isinstance(value, str | PathLike) or not str(value) or "\0" in str(value):
        raise ValueError(f"{name}: expected a path, got {shown(value)}")
    return Path(value)


def _plain(value: Any) -> Any:
    """A value as TOML has it, of tuples, ranges and what is NumPy's."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple | range) else value


def _planned(kind: str, path: str, own: Flat, changes: Flat, loaded: dict[str, str]) -> tuple[Plan, Any]:
    """The plan, and the games of a file by number of agents.

    path: what messages call the file that `own` is from; changes: other values of some keys; loaded: digests of plugins
    """
    games, counts = None, None
    if "games.file" in changes and "games.file" not in own:  # in place of the random games of a config
        own = {name: value for name, value in own.items() if not name.startswith("games.")}
    base, stated = {}, own | changes
    file = stated.get("games.file")
    if isinstance(file, str):
        if others := sorted(name for name in stated if name.startswith("games.") and name != "games.file"):
            raise ValueError(f"{others[0]}: belongs to random games; leave it out with games.file")
        batches = [load_games(file, agents=k) for k in sizes(file)]
        games = {batch.agents: flatten_games(batch, batch.batch_shape) for batch in batches}
        counts = {batch.agents: math.prod(batch.batch_shape) for batch in batches}
        # Text of a specification is UTF-8, which names of files need not be.
        name = {"games.file": os.fsencode(file).decode("utf-8", "backslashreplace")}
        own, changes = (given | name if "games.file" in given else given for given in (own, changes))
        with open(file, "rb") as held:
            digest = hashlib.file_digest(held, "sha256").hexdigest()
        base = {"games.agents": sorted(games), "games.digest": digest}
    elif kind == "search":
        base = {"games.family": FAMILIES, "games.agents": _agents(stated)}
    if kind == "search":
        base |= NOT_MEASURED
    grid = PLANS[kind].plan(base | own, path, changes, counts=counts, plugins=loaded)
    for name in grid.axes if kind == "search" else ():
        if name not in SEARCH_AXES:
            raise ValueError(f"{path + ': ' if path else ''}{name}: expected one value; lists are for emalign sweep")
    return grid, games


def _agents(stated: Flat) -> list[int]:
    kind, least = stated.get("protocol.kind", "selection"), stated.get("protocol.compare")
    numbers = AGENTS.get(kind, OTHERS) if isinstance(kind, str) else OTHERS
    # A comparison needs as many agents as it compares.
    return [k for k in numbers if k >= least] or [least] if isinstance(least, int) else numbers


def _title(grid: Plan, named: bool) -> str:
    """What a search is about."""
    made = grid.cells()[0].specification
    protocol, user, _ = modules(made)
    start = "agents start as monopolists" if made.solver.start == "monopolist" else "random starts"
    checked = "" if made.measure.verify else ", not verified"
    return f"{grid.title + ': ' if named else ''}{protocol.title}, {user.title}, {start}{checked}"


def perform(
    name: str,
    spec: str | None,
    changes: Flat,
    loaded: dict[str, str],
    out: Path | None,
    force: bool,
    source: contextlib.AbstractContextManager[Any],
    progress: Callable[[Progress], None],
    draw: Callable[[Found], Any] = lambda _: None,
    redraw: bool = False,
    accept: Callable[[Any, Any], object] = lambda protocol, user: None,
    **more: Any,
) -> Found:
    """Plan and check, compute what is not there, merge it, and draw.

    name: search, sweep or study; spec: a file, or the name of a shipped one; loaded: digests of plugins; source: of
    `executors`; draw: writes the figures, before the run is done; redraw: also of a run that was done;
    accept: raises for a protocol and user that the caller cannot take, before any work; more: for the manifest
    """
    began = time.perf_counter()
    own, search = {} if spec is None else PLANS[name].document(spec), name == "search"
    grid, games = _planned(name, spec or "", own, changes, loaded)
    cells, size = grid.cells(), check.block_size(grid)
    room = check.check(grid, cells, size, games, whole=not search)
    accept(*modules(cells[0].specification)[:2])
    kind, plain, work = KINDS[name], grid.plain(), blocks(cells, size)
    title = _title(grid, "title" in own | changes) if search else grid.title
    more |= {"title": title, "tolerances": list(grid.tolerances)}
    entries = run_store.manifest(kind, plain, plain["seed"], **more)
    was = None if out is None else run_store.check(out, kind, force, entries)
    if was is None or force or was["status"] != "done":
        run_store.require_room(out or Path(name), room, "games.count: the run")
    with run_store.begun(out, kind, entries, force) as store:
        found = Found(store.path, grid, work, not store.done, 0.0, title)
        if found.fresh:
            with source as workers:
                compute(grid, work, store, games, workers, progress, search)
            merge.merge_rows(grid, work, store)
            if met := [block for block in work if block.cell.specification.measure.trajectory]:
                merge.merge_rows(grid, met, store, STEPS, ".trajectories")
            if search:
                merge.merge_arrays(work, store)
            found = found._replace(drawn=draw(found))
        else:
            merge.check_rows(grid, work, store.path)
            if redraw:
                found = found._replace(drawn=draw(found))
                run_store.add(store.path, *(name for name in kind.files if is_regular(store.path / name)))
        found = found._replace(seconds=time.perf_counter() - began)
        if found.fresh:
            rows = sum(block.rows for block in work)
            store.finish(entries | {"cells": len(cells), "rows": rows}, found.seconds)
    return found
