"""`em.solve` with its certificates where belief LPs are solved (Pooled, and Selection with a quantal user), here and in
another release of this package.

`python benchmarks/beliefs.py --release FOLDER` (a checkout of the release; without it only this one; `--quick`: a smoke
test). Random starts, the default solver and tolerance; and `em.certify` of profiles of L = 50 whose rivals are interior
to nearly deterministic. Each side runs in a process of its own, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

import emalign_jax as em

USER = em.QuantalUser(20.0)
SPREADS = (1.0, 0.3, 0.05)  # of the rivals' rows


def solved(family: str, count: int, protocol, user, **size):
    """A search of `count` games, and the share of its profiles that are certified."""
    games = em.random_games(
        jax.random.key(0), count, family=family, agent_features=3, actions=4, information_worth=0.0, **size
    )

    def run():
        found = em.solve(games, protocol, user, messages=4, key=jax.random.key(1))
        return float((np.asarray(found.result) == 0).mean())

    return run


def profiles(agents: int, features: int, count: int) -> tuple[em.Game, np.ndarray]:
    """Games of all families, at least `count`, and schemes from interior to nearly deterministic."""
    each, rng, parts, schemes = -(-count // len(em.FAMILIES)), np.random.default_rng(0), [], []
    for family in em.FAMILIES:
        parts.append(
            em.random_games(jax.random.key(0), each, family=family, agents=agents, states=features,
                            information_worth=0.02)
        )  # fmt: skip
        schemes += [rng.dirichlet(np.full(features, SPREADS[k % 3]), (agents, features)) for k in range(each)]
    fields = ("prior", "user_utility", "agent_utilities")
    columns = (np.concatenate([np.asarray(getattr(part, name)) for part in parts]) for name in fields)
    return em.Game(*columns), np.array(schemes)


def certified(agents: int, features: int, count: int):
    """Certificates of `count` profiles, and the share of them whose gains are bracketed."""
    games, schemes = profiles(agents, features, count)

    def run():
        found = em.certify(games, schemes, em.Pooled(), em.QuantalUser(50.0), tolerance=1e-3)
        return float(np.mean(found.closed))

    return run


def rows(count: int) -> dict[str, object]:
    few = max(5, count // 4)
    return {
        f"em.solve, Pooled quantal, hull, {count} games": solved("hull", count, em.Pooled(), USER, agents=2),
        f"em.solve, Pooled quantal, noise, {count // 2} games": solved(
            "noise", count // 2, em.Pooled(), USER, agents=2
        ),
        f"em.solve, Pooled rational, hull, {few} games": solved("hull", few, em.Pooled(), em.RationalUser(), agents=2),
        f"em.solve, Selection quantal, hull, {few} games": solved("hull", few, em.Selection(), USER, agents=3),
        f"em.certify, L = 50, K = 3, XB = M = 3, {few} games": certified(3, 3, few),
    }


def timed(count: int, repeats: int) -> dict[str, dict]:
    """Seconds of each row, the first run (with compilation) apart."""
    found = {}
    for name, run in rows(count).items():
        seconds = []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            share = run()
            seconds.append(time.perf_counter() - began)
        found[name] = {"first_s": seconds[0], "seconds": statistics.median(seconds[1:]), "share": share}
    return found


def elsewhere(folder: Path, count: int, repeats: int) -> dict[str, dict]:
    """`timed` with the package in `folder`."""
    asked = [sys.executable, __file__, "--one", str(count), str(repeats)]
    out = subprocess.run(asked, env=os.environ | {"PYTHONPATH": str(folder)}, cwd=folder, check=True, text=True,
                         stdout=subprocess.PIPE).stdout  # fmt: skip
    return json.loads(out.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, one repeat: a smoke test")
    parser.add_argument("--release", type=Path, help="a checkout of another release, to compare with")
    parser.add_argument("--out", type=Path, help="write the rows as JSON here")
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(timed(*options.one)))
        return
    count, repeats = (16, 1) if options.quick else (512, 2)
    here = timed(count, repeats)
    there = elsewhere(options.release.resolve(), count, repeats) if options.release else {}
    for name, row in here.items():
        text = f"{name}: first {row['first_s']:.1f} s, median {row['seconds']:.2f} s, done {row['share']:.1%}"
        if name in there:
            other = there[name]
            row |= {"other_seconds": other["seconds"], "other_share": other["share"]}
            row["ratio"] = other["seconds"] / row["seconds"]
            text += f"; the other release {other['seconds']:.2f} s, {other['share']:.1%}: ratio {row['ratio']:.1f}"
        print(text)
    if options.out:
        options.out.write_text(json.dumps({"jax": jax.__version__, "rows": here}, indent=2) + "\n")


if __name__ == "__main__":
    main()
