"""`em.solve` with its certificates in Selection against best-response dynamics written on HiGHS alone.

`python benchmarks/selection.py` (`--quick`: a smoke test). Both sides search K = 5, A = Y = 4 games from random starts
until every gain is at most 1e-5 of the payoff range, and prove it; `em.certify(..., lp="highs")` checks both after the
clock stops. The other side keeps one HiGHS model a game, whose costs and value bound it changes, on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import highspy
import jax
import numpy as np

import emalign_jax as em

TOLERANCE = 1e-5
SETTING = em.Selection(), em.RationalUser()
STAGES = ("frontier.trace", "frontier.largest_payoffs", "play", "settle", "examine", "certify", "guarantees")


class HighsDynamics:
    """Outbidding in one game with XA = 1: an LP of HiGHS for every best response, warm-started from the last one."""

    def __init__(self, prior, user, agents):
        self.user, self.agents = prior[0] @ user.T, np.einsum("by,kay->kba", prior[0], agents)  # [XB, A], [K, XB, A]
        self.XB, self.A = self.user.shape
        self.full, self.none = self.user.max(1).sum(), self.user.sum(0).max()
        self.unit = max(self.full - self.none, 1e-12)
        n, pairs = self.XB * self.A, [(a, c) for a in range(self.A) for c in range(self.A) if a != c]
        rows = np.zeros((self.XB + len(pairs) + 1, self.XB, self.A))
        rows[np.arange(self.XB), np.arange(self.XB)] = 1
        for row, (a, c) in enumerate(pairs, self.XB):
            rows[row, :, a] = self.user[:, a] - self.user[:, c]
        rows[-1] = self.user
        low = np.concatenate([np.ones(self.XB), np.zeros(len(pairs)), [-np.inf]])
        high = np.concatenate([np.ones(self.XB), np.full(len(pairs) + 1, np.inf)])
        matrix = rows.reshape(len(rows), n)
        self.highs, self.columns, self.value_row = highspy.Highs(), np.arange(n, dtype=np.int32), len(rows) - 1
        for option, value in (("output_flag", False), ("threads", 1), ("presolve", "off"), ("solver", "simplex")):
            self.highs.setOptionValue(option, value)
        self.highs.setOptionValue("primal_feasibility_tolerance", 1e-9)
        self.highs.setOptionValue("dual_feasibility_tolerance", 1e-9)
        self.highs.changeObjectiveSense(highspy.ObjSense.kMaximize)
        kept = matrix != 0
        starts = np.concatenate([[0], kept.sum(1).cumsum()[:-1]]).astype(np.int32)
        nothing = np.zeros(n)
        self.highs.addVars(n, nothing, np.full(n, np.inf))
        indices = np.nonzero(kept)[1].astype(np.int32)
        self.highs.addRows(len(rows), low, high, int(kept.sum()), starts, indices, matrix[kept])
        ranges = [self.best(own)[0] + self.best(-own)[0] for own in self.agents]
        self.range = np.where(np.array(ranges) > 1e-9, ranges, np.inf)

    def best(self, payoff, value=-np.inf):
        """The largest payoff at user value at least `value`, and a distribution over recommendations."""
        self.highs.changeColsCost(len(self.columns), self.columns, payoff.ravel())
        self.highs.changeRowBounds(self.value_row, min(value, self.full - 1e-9 * self.unit), np.inf)
        self.highs.run()
        x = np.maximum(np.array(self.highs.getSolution().col_value).reshape(self.XB, self.A), 0)
        return self.highs.getInfo().objective_function_value, x / x.sum(1, keepdims=True)

    def obeyed(self, scheme, agent):
        """The distribution over recommendations that a scheme induces, with ties for the agent."""
        totals, own = scheme.T @ self.user, scheme.T @ self.agents[agent]
        tied = totals >= totals.max(1, keepdims=True) - 1e-7 * self.unit
        chosen = np.where(tied, own, -np.inf).argmax(1)
        return scheme @ np.eye(self.A)[chosen]

    def solve(self, schemes, steps=100):
        """The last profile [K, XB, A] of outbidding from `schemes`, or full revelation where it does not settle."""
        offers = np.stack([self.obeyed(scheme, i) for i, scheme in enumerate(schemes)])
        margin, lowered, K = 1e-3 * self.unit, 0, len(offers)
        for _ in range(steps):
            values = (offers * self.user).sum((1, 2))
            selected = int((values >= values.max() - 1e-9 * self.unit).argmax())
            rivals = np.delete(np.arange(K), selected)
            rival = rivals[int(values[rivals].argmax())]
            gains, found = np.zeros(K), [None] * K
            for i in range(K):
                if i > selected and values[selected] >= self.full - 1e-9 * self.unit:
                    continue  # no scheme is worth more to the user
                paid, found[i] = self.best(self.agents[i], values[selected] if i != selected else values[rival])
                gains[i] = paid - (offers[selected] * self.agents[i]).sum()
            mover = int((gains / self.range).argmax())
            if gains[mover] <= TOLERANCE * self.range[mover]:
                return offers
            if mover != selected:
                offers[mover] = self.best(self.agents[mover], values[selected] + margin)[1]
                margin *= 1.5
            elif lowered < 2:
                offers[mover], lowered = self.best(self.agents[mover], values[rival] + 4e-9 * self.unit)[1], lowered + 1
            else:
                silent = np.eye(self.A)[np.full(self.XB, self.user.sum(0).argmax())]
                offers[rival] = (1 - 1e-7) * offers[selected] + 1e-7 * silent
        return np.repeat(np.eye(self.A)[self.user.argmax(1)][None], K, 0)


def by_highs(games, starts):
    """Profiles [N, K, XB, A], one game after the other."""
    parts = zip(*(np.asarray(x, float) for x in (games.prior, games.user_utility, games.agent_utilities)), strict=True)
    return np.array([HighsDynamics(*game).solve(own) for game, own in zip(parts, starts, strict=True)])


def clock(call):
    began = time.perf_counter()
    answer = call()
    return time.perf_counter() - began, answer


def stages(call) -> dict[str, float]:
    """Seconds of the stages of one call."""
    from emalign_jax.equilibrium.search import Search
    from emalign_jax.exact.obedience import frontier

    places = {"frontier.trace": (frontier, "trace"), "frontier.largest_payoffs": (frontier, "largest_payoffs")}
    names = {"play": "play", "settle": "settle", "examine": "examine", "certify": "_certify",
             "guarantees": "_add_guarantees"}  # fmt: skip
    places |= {stage: (Search, name) for stage, name in names.items()}
    seconds, kept = dict.fromkeys(STAGES, 0.0), {stage: getattr(*place) for stage, place in places.items()}

    def timed(stage, inner):
        def outer(*arguments, **words):
            took, answer = clock(lambda: inner(*arguments, **words))
            seconds[stage] += took
            return answer

        return outer

    try:
        for stage, place in places.items():
            setattr(*place, timed(stage, kept[stage]))
        whole = clock(call)[0]
    finally:
        for stage, place in places.items():
            setattr(*place, kept[stage])
    return seconds | {"rest": whole - sum(seconds.values())}


def row(family: str, count: int, sample: int, repeats: int) -> dict:
    games = em.random_games(jax.random.key(0), count, family=family, agents=5, information_worth=0.0)
    some = games[:sample]
    solver = em.GradientPlay(tolerance=TOLERANCE)
    starts = np.asarray(em.random_schemes(jax.random.key(1), sample, 5, 4, 4))

    def ours(**words):
        return em.solve(games, *SETTING, solver, key=1, start="random", **words)

    first, pairs = clock(ours)[0], []
    for _ in range(repeats):
        pairs.append((clock(ours), clock(lambda: by_highs(some, starts))))
    mine, theirs = (statistics.median(pair[side][0] for pair in pairs) for side in (0, 1))
    found, other = pairs[-1][0][1], pairs[-1][1][1]
    checks = [
        em.certify(some, schemes, *SETTING, tolerance=1.01 * TOLERANCE, lp="highs")
        for schemes in (found.schemes[:sample], other)
    ]
    return {
        "row": f"Selection rational, K = 5, A = Y = 4, {family}, random starts, certified to 1e-5",
        "against": "best-response dynamics on HiGHS, one kept model a game, one core",
        "size": f"{count} games ({sample} by HiGHS)", "dtype": "float32 play, float64 certificates",
        "first_s": first, "seconds": mine, "games_per_second": count / mine, "highs_per_second": sample / theirs,
        "ratio": count / mine / (sample / theirs), "target": 30, "fallback": found.stats["lp_fallbacks"],
        "certified": float((found.result == em.Result.CERTIFIED).mean()),
        "sample_certified": [float((check.result == em.Result.CERTIFIED).mean()) for check in checks],
        # With progress, blocks are searched one after the other, so that stages do not overlap.
        "stages": stages(lambda: ours(progress=lambda *_: None)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, one repeat: a smoke test")
    parser.add_argument("--out", type=Path, help="write the rows as JSON here")
    options = parser.parse_args()
    count, sample, repeats = (64, 8, 1) if options.quick else (1024, 128, 5)
    rows = [row(family, count, sample, repeats) for family in ("hull", "shared_bias")]
    device = jax.devices()[0].device_kind
    print(f"{device}, {os.cpu_count()} processors, jax {jax.__version__}\n")
    for one in rows:
        spent = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in one["stages"].items())
        print(
            f"{one['row']}, against {one['against']}\n    {one['size']}, {one['dtype']}: first {one['first_s']:.1f} s, "
            f"median {one['seconds']:.2f} s, {one['games_per_second']:.0f} games/s against "
            f"{one['highs_per_second']:.0f}: ratio {one['ratio']:.1f} (target {one['target']}); certified "
            f"{one['certified']:.1%}, of the sample {one['sample_certified'][0]:.1%} and "
            f"{one['sample_certified'][1]:.1%}\n    s: {spent}"
        )
    if options.out:
        options.out.write_text(json.dumps({"device": device, "jax": jax.__version__, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
