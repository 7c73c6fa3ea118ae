"""Times and brackets of the exact core on one core: `OMP_NUM_THREADS=1 python benchmarks/exact.py` (`--quick`: few).

Rows: exact best responses of Selection inside `certify`, `stability`, and how often and how fast the brackets of
Pooled and of Selection with a quantal user close. Seconds are of this process's CPU, medians over games.
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
from emalign_jax.exact.checks.base import make_check
from emalign_jax.exact.checks.examination import examine

BRACKET = 1e-4
SPREADS = (1.0, 0.3, 0.05)  # of the rivals' rows: from interior to nearly deterministic


def draw(count: int, agents: int, features: int, seed: int = 0):
    """`count` games, as many from each family, and one profile of schemes for each."""
    each = -(-count // len(em.FAMILIES))
    rng = np.random.default_rng(seed)
    for family in em.FAMILIES:
        games = em.random_games(
            jax.random.key(seed), each, family=family, agents=agents, states=features, information_worth=0.02
        )
        for k in range(each):
            yield games[k], rng.dirichlet(np.full(features, SPREADS[k % 3]), (agents, features))


def bracket_row(protocol, user, count: int, agents: int, features: int) -> dict:
    """How many games have every agent's gain bracketed within 1e-4 of its payoff range, and CPU seconds a game."""
    seconds, widths = [], []
    for game, schemes in draw(count, agents, features):
        reduced = em.reduce_game(game, np)
        began = time.process_time()
        check = make_check(em.ReducedGame(*(np.asarray(x)[None] for x in reduced)), 0, protocol, user)
        examined = examine(check, schemes, BRACKET)
        seconds.append(time.process_time() - began)
        widths.append(
            max(
                (d.upper - d.value) / r if r > 0 else 0.0
                for d, r in zip(examined.deviations, check.payoff_range, strict=True)
            )
        )
    widths = np.array(widths)
    return {
        "row": f"{name_of(protocol, user)}, K = {agents}, XB = M = {features}, A = 4",
        "games": len(widths), "closed": float((widths <= BRACKET).mean()), "widest": float(widths.max()),
        "median_s": statistics.median(seconds), "p90_s": float(np.quantile(seconds, 0.9)), "max_s": max(seconds),
    }  # fmt: skip


def name_of(protocol, user) -> str:
    who = "rational" if isinstance(user, em.RationalUser) else f"quantal L = {float(user.precision):g}"
    soft = f" (temperature {float(protocol.temperature):g})" if isinstance(protocol, em.Selection) else ""
    return f"{type(protocol).__name__}{soft}, {who}"


def rate_rows(count: int, repeats: int) -> list[dict]:
    games = em.random_games(jax.random.key(0), count, family="shared_bias", agents=5, information_worth=0.02)
    schemes = np.random.default_rng(0).dirichlet(np.ones(5), (count, 5, 4))
    rows = []
    for name, call, unit, number in (
        ("certify, Selection rational, K = 5, A = Y = 4", lambda: em.certify(
            games, schemes, em.Selection(), em.RationalUser()), "best responses", 5 * count),
        ("stability, K = 5, A = Y = 4", lambda: em.stability(games), "games", count),
    ):  # fmt: skip
        call()
        seconds = []
        for _ in range(repeats):
            began = time.process_time()
            call()
            seconds.append(time.process_time() - began)
        middle = statistics.median(seconds)
        rows.append(
            {
                "row": name,
                "games": count,
                "unit": unit,
                "per_second": number / middle,
                "ms_a_game": 1e3 * middle / count,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few games: a smoke test")
    parser.add_argument("--out", type=Path, help="write the rows as JSON here")
    options = parser.parse_args()
    count = 5 if options.quick else 200
    rows = rate_rows(8 if options.quick else 256, 1 if options.quick else 5)
    for row in rows:
        rate = f"{row['per_second']:.0f} {row['unit']}/s, {row['ms_a_game']:.1f} ms a game"
        print(f"{row['row']}\n    {row['games']} games: {rate}")
    quantal, rational = em.QuantalUser(50.0), em.RationalUser()
    settings = [(em.Pooled(), quantal, count, 3, XB) for XB in (2, 3)]
    settings += [(em.Pooled(), em.QuantalUser(5.0), count, 3, 3), (em.Pooled(), quantal, count // 4, 2, 4)]
    settings += [(em.Pooled(), quantal, count // 4, 3, 4)]
    settings += [(em.Pooled(), rational, count, 3, XB) for XB in (2, 3)] + [(em.Pooled(), rational, count // 4, 2, 4)]
    settings += [(em.Selection(tau), em.QuantalUser(20.0), count // 4, 3, 3) for tau in (0.0, 0.1)]
    for setting in settings:
        row = bracket_row(setting[0], setting[1], max(setting[2], 5), *setting[3:])
        rows.append(row)
        print(
            f"{row['row']}\n    {row['closed']:.1%} of {row['games']} within {BRACKET:g}, widest {row['widest']:.1e}; "
            f"CPU s a game: median {row['median_s']:.3f}, 90 % {row['p90_s']:.3f}, most {row['max_s']:.2f}",
            flush=True,
        )
    document = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"), "machine": platform.platform(),
        "processors": os.cpu_count(), "jax": jax.__version__, "rows": rows,
    }  # fmt: skip
    if options.out:
        options.out.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
