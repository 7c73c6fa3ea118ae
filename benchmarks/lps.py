"""Batched LPs against HiGHS and scipy, one by one: `OMP_NUM_THREADS=1 python benchmarks/lps.py` (`--quick`: few).

Both sides in one process, in turn, medians of pairs; compilation apart; answers compared after the clock stops. Exits 1
if the two sides do not agree. Targets: 5 times (stability), 30 times (least squares), 10 times (Selection).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import jax
import numpy as np
from scipy.optimize import nnls

import emalign_jax as em
from emalign_jax.lp import batched_lp
from emalign_jax.lp.highs import KeptLP

TOLERANCE = 1e-3
ROWS = ("stability", "cone", "selection", "coverage", "fits", "shared", "certify", "triangle", "simplex", "random")
SELECTION, RATIONAL = em.Selection(), em.RationalUser()


def clock(call):
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def pairs(ours, theirs, repeats: int) -> dict:
    """ours() and theirs() return (seconds an item, answer): the first of ours compiles."""
    first = clock(ours)[0]
    seconds, answers = [], {}
    for _ in range(repeats):  # only the last answers are kept, so that memory is not new to the system each time
        mine, answers["ours"] = ours()
        other, answers["theirs"] = theirs()
        seconds.append((mine, other))
    mine, other = (statistics.median(side) for side in zip(*seconds, strict=True))
    ratio = statistics.median(other / mine for mine, other in seconds)
    return {"first_s": first, "median_us": 1e6 * mine, "baseline_us": 1e6 * other, "ratio": ratio, "answers": answers}


def games(count: int) -> em.Game:
    return em.random_games(jax.random.key(0), count, family="shared_bias", agents=5, information_worth=0.02)


def each(call, items):
    """Seconds an item and the list of answers."""
    seconds, found = clock(lambda: [call(k) for k in items])
    return seconds / len(items), found


def together(call, count: int):
    seconds, found = clock(call)
    return seconds / count, found


def stability_row(count: int, sample: int, repeats: int) -> dict:
    drawn = games(count)
    some = drawn[:sample]
    row = pairs(
        lambda: together(lambda: em.stability(drawn, lp="batched"), count),
        lambda: together(lambda: em.stability(some, lp="highs"), sample),
        repeats,
    )
    found, exact = row["answers"]["ours"], row["answers"]["theirs"]
    apart = 0.0
    for k in range(sample):
        (v, gap, _), (at, gaps, _) = found.profile((k,)), exact.profile((k,))
        total = exact.payoff_range[k].sum()
        inside = at < exact.full_information[k] - 1e-9  # at V_full the profile may jump to 0
        apart = max(apart, float(np.abs(np.interp(at, v, gap) - gaps)[inside].max(initial=0)) / total)
        apart = max(apart, abs(found.worst[k] - exact.worst[k]), abs(found.best[k] - exact.best[k]))
    return row | {
        "row": "stability profiles, K = 5, A = Y = 4, against HiGHS",
        "size": f"{count} games ({sample} by HiGHS)", "apart": apart, "target": 5,
        "fallback": int(found.fallback.sum()),
    }  # fmt: skip


def least_squares_row(weights: str, count: int, sample: int, repeats: int, reduced: bool) -> dict:
    """Targets: random weights of the agents and noise. reduced: scipy gets the triangle of one QR that all share."""
    rng = np.random.default_rng(0)
    agents, instances = 100, 350
    tables = rng.normal(size=(instances, agents))
    targets = rng.dirichlet(np.full(agents, 0.3), count) @ tables.T + rng.normal(size=(count, instances))

    def ours():
        return together(
            lambda: em.align(targets[:, None], tables.T[:, None], weights=weights, norm="l2", lp="batched"), count
        )

    def theirs():
        began = time.perf_counter()
        columns, goals = tables, targets[:sample]
        if weights == "simplex":  # each target has a problem of its own: the distance of 0 from the hull of U_i - u
            found = [
                nnls(np.concatenate([tables - goal[:, None], np.full((1, agents), 10.0)]), np.eye(instances + 1)[-1])[0]
                for goal in goals
            ]
            found = [w / w.sum() for w in found]
        else:
            if reduced:
                basis, columns = np.linalg.qr(tables)
                goals = goals @ basis
            found = [nnls(columns, goal)[0] for goal in goals]
        return (time.perf_counter() - began) / sample, np.array(found)

    row = pairs(ours, theirs, repeats)
    found, w = row["answers"]["ours"], row["answers"]["theirs"]
    error = np.linalg.norm(w @ tables.T - targets[:sample], axis=1)
    return row | {
        "row": f"{weights} least squares, {agents} agents, {instances} instances, against scipy NNLS"
        + (" on the shared triangle" if reduced else ""),
        "size": f"{count} targets ({sample} by scipy)", "apart": float(np.abs(found.error[:sample] / error - 1).max()),
        "gap": float(found.gap.max()), "target": 30,
    }  # fmt: skip


def selection_row(count: int, sample: int, repeats: int) -> dict:
    drawn = games(count)
    dynamics = {"solver": em.BestResponseDynamics(tolerance=TOLERANCE), "start": "monopolist"}

    def ours():
        return em.solve(drawn, SELECTION, RATIONAL, lp="batched", **dynamics)

    def theirs(k):
        return em.solve(drawn[k], SELECTION, RATIONAL, lp="highs", **dynamics).schemes

    row = pairs(lambda: together(ours, count), lambda: each(theirs, range(sample)), repeats)
    schemes = row["answers"]["ours"].schemes
    some = slice(sample)
    certificate = em.certify(drawn, schemes, SELECTION, RATIONAL, tolerance=1.001 * TOLERANCE, lp="batched")
    by_highs = em.certify(drawn[some], schemes[some], SELECTION, RATIONAL, tolerance=1.001 * TOLERANCE, lp="highs")
    apart = float(np.abs(by_highs.relative_gain - certificate.relative_gain[some]).max())
    other = em.certify(drawn[:sample], np.stack(row["answers"]["theirs"]), SELECTION, RATIONAL, lp="highs")
    return row | {
        "row": "Selection rational, K = 5, A = Y = 4, monopoly start to gains <= 1e-3, against outbidding by HiGHS",
        "size": f"{count} games ({sample} by HiGHS)", "target": 10,
        "fallback": row["answers"]["ours"].stats["lp_fallbacks"],
        "apart": max(apart, float(np.maximum(certificate.relative_gain - TOLERANCE, 0).max())),
        "gap": float(certificate.relative_gain.max()), "baseline_gap": float(other.relative_gain.max()),
    }  # fmt: skip


def coverage_row(count: int, sample: int, repeats: int) -> dict:
    """worst_case of a rational user, no gains."""
    drawn = games(count)
    row = pairs(
        lambda: together(lambda: em.coverage(drawn, obedience=True, lp="batched"), count),
        lambda: together(lambda: em.coverage(drawn[:sample], obedience=True, lp="highs"), sample),
        repeats,
    )
    found, exact = row["answers"]["ours"], row["answers"]["theirs"]
    return row | {
        "row": "worst distributions of an obedient user, K = 5, A = Y = 4, against HiGHS",
        "size": f"{count} games ({sample} by HiGHS)", "fallback": int(found.fallback.sum()),
        "apart": float(np.abs(found.slack[:sample] - exact.slack).max()),
    }  # fmt: skip


def fits_row(count: int, sample: int, repeats: int, shared: bool) -> dict:
    """shared: all targets have the agents of game 0, so that HiGHS goes on from the last target's basis."""
    drawn = games(count)
    user, agents = np.asarray(drawn.user_utility), np.asarray(drawn.agent_utilities)
    agents = agents[0] if shared else agents
    some = agents if shared else agents[:sample]
    words = {"offset": "per_state", "norm": "sup"}
    row = pairs(
        lambda: together(lambda: em.align(user, agents, lp="batched", **words), count),
        lambda: together(lambda: em.align(user[:sample], some, lp="highs", **words), sample),
        repeats,
    )
    found, exact = row["answers"]["ours"], row["answers"]["theirs"]
    whose = "of one model kept warm" if shared else "of a model each"
    return row | {
        "row": f"sup-norm simplex fits with c(y), K = 5, A = Y = 4, against HiGHS {whose}",
        "size": f"{count} targets ({sample} by HiGHS)", "fallback": int(found.fallback.sum()),
        "apart": float(np.abs(found.error[:sample] - exact.error).max()), "gap": float(found.gap.max()),
    }  # fmt: skip


def certify_row(count: int, sample: int, repeats: int) -> dict:
    """Whole certificates: best responses, ranges, both guarantees."""
    drawn = games(count)
    schemes = np.random.default_rng(0).dirichlet(np.ones(4), (count, 5, 4))
    row = pairs(
        lambda: together(lambda: em.certify(drawn, schemes, SELECTION, RATIONAL, lp="batched"), count),
        lambda: together(lambda: em.certify(drawn[:sample], schemes[:sample], SELECTION, RATIONAL, lp="highs"), sample),
        repeats,
    )
    found, exact = row["answers"]["ours"], row["answers"]["theirs"]
    fields = ("gain_lower", "guarantee", "theorem")
    return row | {
        "row": "certificates of random schemes, Selection rational, K = 5, A = Y = 4, against HiGHS",
        "size": f"{count} games ({sample} by HiGHS)", "fallback": int(found.fallback.sum()),
        "apart": max(float(np.abs(getattr(found, f)[:sample] - getattr(exact, f)).max()) for f in fields),
    }  # fmt: skip


def random_lps(count: int, seed: int = 0):
    """cost, rows, right, equalities of LPs that have an optimum: general, integer, sparse, with repeated rows, and with
    nearly all constraints active at one vertex, in turn."""
    rng = np.random.default_rng(seed)
    for m, n, equal in ((6, 5, 2), (12, 10, 0), (17, 16, 4), (30, 20, 3)):
        N = count // 4
        kind = np.arange(N) % 5
        x = rng.random((N, n)) * (rng.random((N, n)) < 0.6)
        rows = rng.normal(size=(N, m, n))
        rows[kind == 1] = np.round(rows[kind == 1])
        rows[kind == 2] *= rng.random((N, m, n))[kind == 2] < 0.4
        rows[kind == 3, m // 2] = rows[kind == 3, m // 2 - 1]
        x[kind == 4] = np.eye(n)[0]
        room = rng.random((N, m)) * (rng.random((N, m)) < 0.4)
        room[:, :equal] = 0
        price = rng.random((N, m)) * (rng.random((N, m)) < 0.5)
        cost = (rows * price[..., None]).sum(1) - rng.random((N, n)) * (rng.random((N, n)) < 0.5)
        yield cost, rows, (rows * x[:, None]).sum(2) + room, equal


def random_row(count: int, repeats: int) -> dict:
    problems = list(random_lps(count))

    def theirs():
        def one(cost, rows, right, equal):
            lower = np.full(len(right), -np.inf)
            lower[:equal] = right[:equal]
            return KeptLP(rows, lower, right, cost=cost).solve().value

        return together(
            lambda: [[one(*lp, equal) for lp in zip(*data, strict=True)] for *data, equal in problems], count
        )

    row = pairs(
        lambda: together(lambda: [batched_lp.maximise(*p[:3], equal=p[3]) for p in problems], count), theirs, repeats
    )
    apart, failed = 0.0, 0
    for found, values in zip(row["answers"]["ours"], row["answers"]["theirs"], strict=True):
        values = np.array(values)
        apart = max(apart, float(np.abs(np.where(found.proved, found.value - values, 0) / (1 + np.abs(values))).max()))
        failed += int((~found.proved).sum())
    return row | {"row": "random LPs, many of them degenerate, four shapes, against HiGHS (a model each)",
                  "size": f"{count} LPs", "apart": apart, "fallback": failed}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few items, one pair: a smoke test")
    parser.add_argument("--only", nargs="+", choices=ROWS, help="these rows")
    parser.add_argument("--out", type=Path, help="write the rows as JSON here")
    options = parser.parse_args()
    quick, repeats = options.quick, 1 if options.quick else 5
    targets, by_scipy = (64, 10) if quick else (5000, 200)
    calls = {
        "stability": lambda: stability_row(64 if quick else 1024, 16 if quick else 64, repeats),
        "cone": lambda: least_squares_row("cone", targets, by_scipy, repeats, False),
        "selection": lambda: selection_row(64 if quick else 1024, 8 if quick else 64, repeats),
        "coverage": lambda: coverage_row(64 if quick else 1024, 8 if quick else 64, repeats),
        "fits": lambda: fits_row(64 if quick else 1024, 8 if quick else 64, repeats, False),
        "shared": lambda: fits_row(64 if quick else 1024, 8 if quick else 64, repeats, True),
        "certify": lambda: certify_row(64 if quick else 1024, 8 if quick else 64, repeats),
        "triangle": lambda: least_squares_row("cone", targets, by_scipy, repeats, True),
        "simplex": lambda: least_squares_row("simplex", targets, by_scipy, repeats, False),
        "random": lambda: random_row(10_000, repeats),
    }
    chosen = options.only or list(calls)[: 3 if quick else None]
    document = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"), "device": jax.devices()[0].device_kind,
        "processors": os.cpu_count(), "threads": f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}",
        "dtype": "float64", "load": os.getloadavg()[0], "machine": platform.platform(), "jax": jax.__version__,
        "rows": [],
    }  # fmt: skip
    print(*(f"{key}: {value}" for key, value in document.items() if key != "rows"), sep=", ", end="\n\n")
    for name in chosen:
        row = calls[name]()
        del row["answers"]
        document["rows"].append(row)
        print(
            f"{row['row']}\n    {row['size']}: {row['median_us']:.1f} us, baseline {row['baseline_us']:.0f} us "
            f"an item, ratio {row['ratio']:.1f} (target {row.get('target')}), first {row['first_s']:.1f} s; apart "
            f"{row['apart']:.1e}, gap {row.get('gap', 0):.1e}, fell back {row.get('fallback', 0)}",
            flush=True,
        )
    if options.out:
        options.out.write_text(json.dumps(document, indent=2) + "\n")
    if any(row["apart"] > 1e-7 for row in document["rows"]):
        sys.exit("the two sides do not agree")


if __name__ == "__main__":
    main()
