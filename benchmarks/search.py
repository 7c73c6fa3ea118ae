"""Times of the main job's parts on this machine: `python benchmarks/search.py` (`--quick`: a smoke test).

Every row prints size, dtype, device, the median of five runs with compilation apart, and the gain reached.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path

import jax
import numpy as np

import emalign_jax as em


def timed(call, repeats: int):
    """(first seconds with compilation, median seconds of the repeats, last result)."""
    began = time.perf_counter()
    result = call()
    first = time.perf_counter() - began
    rest = []
    for _ in range(repeats):
        began = time.perf_counter()
        result = call()
        rest.append(time.perf_counter() - began)
    return first, statistics.median(rest), result


def search_row(name, games, protocol, user, repeats, **arguments):
    first, median, found = timed(lambda: em.solve(games, protocol, user, **arguments), repeats)
    relative = found.certificate.relative_gain.max(-1)
    count = games.batch_shape[0]
    return {
        "row": name,
        "games": count,
        "dtype": "float32 play, float64 check",
        "first_s": first,
        "median_s": median,
        "per_second": count / median,
        "unit": "games",
        "reached": f"{np.mean(relative <= 1e-3):.1%} within 1e-3, worst {relative.max():.1e}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, one repeat: a smoke test")
    parser.add_argument("--out", type=Path, help="write the rows as JSON here")
    options = parser.parse_args()
    count, repeats = (8, 1) if options.quick else (256, 5)
    key = jax.random.key(0)
    selection = em.random_games(key, count, family="shared_bias", agents=5, information_worth=0.02)
    pooled = em.random_games(key, count, family="hull", agents=2, states=3, information_worth=0.02)
    rows = [
        search_row(
            "search, Selection rational, K = 5, A = Y = 4, from monopolists",
            selection,
            em.Selection(),
            em.RationalUser(),
            repeats,
            start="monopolist",
            key=key,
        ),
        search_row(
            "search, Pooled quantal L = 20, K = 2, XB = 3, M = A = 4",
            pooled,
            em.Pooled(),
            em.QuantalUser(20.0),
            repeats,
            key=key,
            messages=4,
        ),
    ]
    device = jax.devices()[0]
    document = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device.device_kind,
        "processors": os.cpu_count(),
        "machine": platform.platform(),
        "jax": jax.__version__,
        "rows": rows,
    }
    print(f"{document['created']}  {document['device']}, {document['processors']} processors, jax {jax.__version__}\n")
    for row in rows:
        print(
            f"{row['row']}\n    {row['games']} games, {row['dtype']}: first {row['first_s']:.2f} s, median "
            f"{row['median_s']:.2f} s, {row['per_second']:.0f} {row['unit']}/s; {row['reached']}"
        )
    if options.out:
        options.out.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
