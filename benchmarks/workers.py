"""What the engine costs: a search here, and by 1, 2 and 4 processes: `python benchmarks/workers.py` (`--quick`).

Each row is a whole `em.experiments.run`, table and arrays on disk, of games that are checked (`--checked`) or just
played. `waiting` is the share of the time in which this process had nothing to do but wait for workers; what is left of
it is the engine: making tasks, keeping parts, merging. Processes have compiled programs in the cache and start anew.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from concurrent import futures
from pathlib import Path
from unittest import mock

import emalign_jax as em
from emalign_jax.experiments import engine
from emalign_jax.internal import compiled_cache

SEARCH = {
    "protocol.kind": "pooled", "user.precision": 20.0, "games.family": "hull", "games.agents": 2, "games.states": 3,
    "games.actions": 3,
}  # fmt: skip


def row(specification: dict, workers: int | None, folder: Path) -> dict:
    """workers: None for this process alone; 1 goes through the engine, too."""
    waited = 0.0

    def wait(*arguments, **words):
        nonlocal waited
        began = time.perf_counter()
        try:
            return futures.wait(*arguments, **words)
        finally:
            waited += time.perf_counter() - began

    began = time.perf_counter()
    with mock.patch.object(engine, "wait", wait):
        if workers == 1:
            with engine.local(1) as source:
                found = em.experiments.run(specification, kind="search", out=folder, executor=source.executor())
        else:
            found = em.experiments.run(specification, kind="search", out=folder, workers=workers or 1)
    seconds = time.perf_counter() - began
    rows = found.rows
    return {
        "row": "in this process" if workers is None else f"{workers} workers",
        "games": len(rows),
        "seconds": seconds,
        "per_second": len(rows) / seconds,
        "waiting": waited / seconds if workers else None,
        "certified": float(rows["certified"].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes: a smoke test")
    parser.add_argument("--checked", action="store_true", help="games that are checked, not just played")
    parser.add_argument("--games", type=int, default=None, help="default 100,000, or 5,000 checked ones")
    parser.add_argument("--out", type=Path, help="write the rows as JSON here")
    options = parser.parse_args()
    count = options.games or (64 if options.quick else 5000 if options.checked else 100_000)
    specification = SEARCH | {"games.count": count, "measure.verify": options.checked}
    if options.quick:
        specification |= {"block": 16}
    compiled_cache.keep()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        row(specification | {"games.count": min(count, 2000)}, None, Path(folder) / "warm")
        for workers in (None, 1, 2) if options.quick else (None, 1, 2, 4):
            rows.append(row(specification, workers, Path(folder) / str(workers)))
            one = rows[-1]
            share = "" if one["waiting"] is None else f"{1 - one['waiting']:.1%} of the time in the engine"
            size = f"{one['games']:>7} games {one['seconds']:7.1f} s {one['per_second']:8.0f} /s"
            print(f"{one['row']:<16} {size}  {share}", flush=True)
    if options.out:
        options.out.write_text(json.dumps({"processors": os.cpu_count(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
