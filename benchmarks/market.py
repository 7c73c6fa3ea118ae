"""How long `emalign market` takes on tables of real sizes: `python benchmarks/market.py` (`--quick`).

Each row is a whole process, from the table on disk to the run directory with its figure. Scorers share some of the
user's utility, a bias towards one answer and one that they have in common, and noise.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

# Prompts, answers, agents, resamples, and the seconds that are allowed on two processors.
SIZES = [(419, 2, 65, 0, 120), (419, 2, 65, 10, None), (1763, 4, 48, 0, 900)]
QUICK = [(20, 2, 3, 2, None)]


def write_table(path: Path, prompts: int, answers: int, agents: int) -> None:
    rng = np.random.default_rng(0)
    user = rng.normal(size=(prompts, answers))
    common = np.abs(rng.normal(size=(agents, 1, 1))) * np.abs(rng.normal(size=(1, prompts, answers)))
    bias = 0.4 * rng.normal(size=(agents, 1, answers)) + common
    scores = rng.uniform(0.2, 1, (agents, 1, 1)) * user + bias + 0.6 * rng.normal(size=(agents, prompts, answers))
    columns = {"prompt": np.repeat(np.arange(prompts), answers), "answer": np.tile(np.arange(answers), prompts)}
    columns |= {"human": user.ravel()} | {f"model{k}": scores[k].ravel() for k in range(agents)}
    pd.DataFrame(columns).to_csv(path, index=False)


def row(size: tuple, folder: Path) -> dict:
    prompts, answers, agents, resamples, allowed = size
    table = folder / "table.csv"
    write_table(table, prompts, answers, agents)
    asked = [str(table), "--answers", "--target", "human", "--bootstrap", str(resamples), "--json", "--force"]
    began = time.perf_counter()
    command = [sys.executable, "-m", "emalign_jax", "market", *asked, "--out", str(folder / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    return {
        "prompts": prompts,
        "answers": answers,
        "agents": agents,
        "resamples": resamples,
        "seconds": seconds,
        "allowed": allowed,
        "user": json.loads(done.stdout)["user"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes: a smoke test")
    parser.add_argument("--out", type=Path, help="write the rows as JSON here")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in QUICK if options.quick else SIZES:
            rows.append(row(size, Path(folder)))
            one = rows[-1]
            within = f" of {one['allowed']} s" if one["allowed"] else ""
            print(
                f"{one['prompts']:>6} prompts x {one['answers']} answers x {one['agents']} agents, {one['resamples']} "
                f"resamples: {one['seconds']:.1f} s{within}",
                flush=True,
            )
    if options.out:
        options.out.write_text(json.dumps({"processors": os.cpu_count(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
