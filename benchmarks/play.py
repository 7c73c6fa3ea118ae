"""Gradient play against the machine's floor, plain vmap(grad) with optax, and NashOpt: `python benchmarks/play.py`.

Both sides run in one process, with medians of pairs, compilation apart and the same certified gap on both,
checked after the clock stops. `--quick` is the smoke test; `--nashopt PYTHON` names an interpreter that has
nashopt (`pip install nashopt jaxopt` in an environment of its own), without which that row is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import emalign_jax as em

KEY = jax.random.key(0)
POOLED, QUANTAL = em.Pooled(), em.QuantalUser(20.0)
GAP = 1e-3  # of the payoff range


def clock(call):
    began = time.perf_counter()
    result = jax.block_until_ready(call())
    return time.perf_counter() - began, result


def paired(ours, theirs, repeats):
    """(first seconds of ours, medians of both, median ratio)."""
    first = clock(ours)[0]
    clock(theirs)
    pairs = [(clock(ours)[0], clock(theirs)[0]) for _ in range(repeats)]
    mine, other = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    return first, mine, other, statistics.median(pair[1] / pair[0] for pair in pairs)


def gaps(games, schemes):
    """Certified upper bound of the largest gain of each game, over the payoff range."""
    schemes = np.asarray(schemes, np.float64)
    found = em.certify(games, schemes / schemes.sum(-1, keepdims=True), POOLED, QUANTAL)
    return (found.gain_upper / np.maximum(found.payoff_range, 1e-300)).max(-1)


def plain_payoffs(mass, user, agents, schemes):
    """[K] of one game, as anyone would write them from the formulas."""
    weights = jnp.ones_like(mass[:1])
    for scheme in schemes:
        weights = (weights[:, None] * scheme.T[None]).reshape(-1, weights.shape[-1])
    sent = jnp.einsum("nb,xb->nx", weights, mass)
    total = jnp.einsum("nb,xba->nxa", weights, user)
    response = jax.nn.softmax(20.0 * total / jnp.maximum(sent, 1e-30)[..., None], -1)
    return jnp.einsum("nxa,nb,ixba->i", response, weights, agents)


def plain_gradient(mass, user, agents, logits):
    def payoff(own, i):
        everyone = jnp.where(jnp.arange(len(logits))[:, None, None] == i, own, logits)
        return plain_payoffs(mass, user, agents, jax.nn.softmax(everyone, -1))[i]

    return jax.vmap(lambda own, i: jax.grad(payoff)(own, i))(logits, jnp.arange(len(logits)))


@partial(jax.jit, static_argnums=(2, 3))
def plain_play(game, start, steps, rate):
    """jax.vmap(jax.grad(...)) and optax.adam for a fixed number of steps; both as their manuals say."""
    optimizer = optax.adam(rate)

    def step(state, _):
        logits, moments = state
        update, moments = optimizer.update(-jax.vmap(plain_gradient)(*game[:3], logits), moments)
        return (optax.apply_updates(logits, update), moments), None

    logits = jnp.log(start)
    return jax.nn.softmax(jax.lax.scan(step, (logits, optimizer.init(logits)), None, length=steps)[0][0], -1)


def reduced(games):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), em.reduce_game(games, np))


def floor_seconds(exponentials: int, flops: int) -> tuple[float, dict]:
    """What the machine needs at least: its rates for long vectors of exponentials and large products, in this run."""
    size = 2048
    square, vector = jnp.ones((size, size), jnp.float32), jnp.linspace(-5, 0, 2**22, dtype=jnp.float32)
    product, exponential = jax.jit(jnp.matmul), jax.jit(jnp.exp)
    for call in (lambda: product(square, square), lambda: exponential(vector)):
        clock(call)
    flop_rate = 2 * size**3 / min(clock(lambda: product(square, square))[0] for _ in range(7))
    exp_rate = len(vector) / min(clock(lambda: exponential(vector))[0] for _ in range(7))
    rates = {"GFLOP_per_s": flop_rate / 1e9, "Gexp_per_s": exp_rate / 1e9}
    return exponentials / exp_rate + flops / flop_rate, rates


def step_row(count, repeats):
    """One pseudo-gradient step of K = 3, M = A = XB = 4, float32, inside play: all cores, tiles as play cuts them."""
    K, M, A, XB, steps = 3, 4, 4, 4, 400
    games = em.random_games(KEY, count, family="noise", agents=K, states=XB, actions=A, information_worth=0.0)
    start = em.random_schemes(KEY, count, K, XB, M)
    solver = em.GradientPlay(steps=steps, chunk=100, tolerance=1e-9)
    game = reduced(games)
    by_hand = jax.jit(lambda game, logits: jax.vmap(plain_gradient)(*game[:3], logits))
    logits = jnp.log(jnp.asarray(start, jnp.float32))

    def ours():
        return em.solve(games, POOLED, QUANTAL, solver, start=np.asarray(start), messages=M, verify=False).schemes

    first, whole, plain, _ = paired(ours, lambda: by_hand(game, logits), repeats)
    N = M**K
    # multiply-adds: W m and W g and W G_i; S H_i, C_i; S G_i, C_i g into dW; contraction with the others' weights
    flops = count * 2 * (N * XB * (1 + A + K * A) + K * N * A * 3 + 2 * K * N * XB * A + 2 * K * N * XB)
    floor, rates = floor_seconds(count * N * A, flops)
    return {
        "row": "one pseudo-gradient step in play, K = 3, M = A = XB = 4, against the floor",
        "size": f"{count} games", "first_s": first, "median_s": whole / steps, "baseline_s": floor,
        "ratio": whole / steps / floor, "plain_vmap_grad_s": plain, "target": "<= 8", **rates,
    }  # fmt: skip


def against_plain_row(count, trial, sample, repeats, tried):
    """Both sides at those settings (numbers of steps, of both sides, and plain's rates) that are
    fastest, on `trial` games, to the share of games that both can reach."""
    games = em.random_games(KEY, count, family="noise", agents=2, states=3, information_worth=0.02)
    start = np.asarray(em.random_schemes(KEY, count, 2, 3, 4))
    game = reduced(games)

    def plain(n, steps, rate):
        some = jax.tree.map(lambda x: x[:n], game)
        return partial(plain_play, some, jnp.asarray(start[:n], jnp.float32), steps, rate)

    def ours(n, steps, rate):
        solver = em.GradientPlay(steps=steps, chunk=min(steps, 100), tolerance=1e-9, learning_rate=(rate, 0.02))
        return lambda: em.solve(games[:n], POOLED, QUANTAL, solver, start=start[:n], messages=4, verify=False).schemes

    sides = {"plain": plain, "ours": ours}
    plain_steps, rates, our_steps = tried
    settings = [("plain", steps, rate) for steps in plain_steps for rate in rates]
    settings += [("ours", steps, 1.0) for steps in our_steps]
    share, seconds = {}, {}
    for name in settings:
        call = sides[name[0]](trial, *name[1:])
        share[name] = float((gaps(games[:sample], np.asarray(call())[:sample]) <= GAP).mean())
        seconds[name] = min(clock(call)[0] for _ in range(3))
    common = min(max(x for name, x in share.items() if name[0] == side) for side in sides)
    chosen = {
        side: min((n for n in settings if n[0] == side and share[n] >= common - 1e-9), key=lambda n: seconds[n])
        for side in sides
    }
    whole = {side: sides[side](count, *chosen[side][1:]) for side in sides}
    first, mine, other, ratio = paired(whole["ours"], whole["plain"], repeats)
    return {
        "row": "Pooled quantal L = 20, K = 2, XB = 3, M = A = 4, against plain vmap(grad) and optax.adam",
        "size": f"{count} games", "first_s": first, "median_s": mine, "baseline_s": other, "ratio": ratio,
        "target": ">= 8", "ours_steps_rate": chosen["ours"][1:], "plain_steps_rate": chosen["plain"][1:],
        "reached": {side: f"{share[chosen[side]]:.3f} of {sample} within {GAP:g}" for side in chosen},
        "all_settings": {
            " ".join(map(str, name)): f"{1e6 * seconds[name] / trial:.0f} us a game, {share[name]:.3f} within {GAP:g}"
            for name in settings
        },
    }  # fmt: skip


def against_nashopt_row(python, count, sample, repeats):
    """NashOpt solves `sample` games from the same starts in each of its settings; the best one counts."""
    games = em.random_games(KEY, count, family="noise", agents=2, states=3, information_worth=0.02)
    start = np.asarray(em.random_schemes(KEY, count, 2, 3, 4), np.float64)
    start /= start.sum(-1, keepdims=True)
    solve = partial(em.solve, games, POOLED, QUANTAL, em.GradientPlay(tolerance=1e-9), start=start, verify=False)
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder, "in.npz"), Path(folder, "out.npz")
        small = em.reduce_game(games[:sample], np)
        np.savez(given, **small._asdict(), start=start[:sample], precision=20.0)
        side = Path(__file__).with_name("nashopt_side.py")
        subprocess.run([python, side, given, found], check=True)
        theirs = dict(np.load(found))
    settings = sorted({name.rsplit(" ", 1)[0] for name in theirs})
    gap = {name: gaps(games[:sample], theirs[f"{name} schemes"].clip(1e-300)) for name in settings}
    best = min(settings, key=lambda name: (np.median(gap[name]), theirs[f"{name} seconds"].mean()))
    first = clock(lambda: solve().schemes)[0]
    timed = [clock(lambda: solve().schemes) for _ in range(repeats)]
    mine = statistics.median(seconds for seconds, _ in timed) / count
    ours = gaps(games[:sample], timed[-1][1][:sample])
    return {
        "row": "Pooled quantal L = 20, K = 2, XB = 3, M = A = 4, against NashOpt",
        "size": f"{count} games, {sample} there",
        "first_s": first, "median_s": mine, "baseline_s": float(np.median(theirs[f"{best} seconds"])),
        "ratio": float(np.median(theirs[f"{best} seconds"])) / mine, "target": ">= 5000", "setting": best,
        "reached": {
            side: f"median gain {np.median(x):.1e}, {np.mean(x <= GAP):.2f} within {GAP:g}"
            for side, x in (("ours", ours), ("NashOpt", gap[best]))
        },
        "all_settings": {
            name: f"{np.median(theirs[f'{name} seconds']):.2f} s, median gain {np.median(gap[name]):.1e}"
            for name in settings
        },
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, one repeat: a smoke test")
    parser.add_argument("--nashopt", metavar="PYTHON", help="an interpreter that has nashopt")
    parser.add_argument("--out", type=Path, help="write the rows as JSON here")
    given = parser.parse_args()
    count, trial, sample, repeats = (16, 16, 4, 1) if given.quick else (4096, 256, 64, 5)
    tried = ((50, 100, 200, 500, 1000), (0.1, 0.3, 1.0), (50, 100, 200, 400))
    tried = ((100,), (0.3,), (50,)) if given.quick else tried
    calls = [
        partial(step_row, min(count, 1024), repeats),
        partial(against_plain_row, count, trial, sample, repeats, tried),
    ]
    if given.nashopt:
        calls.append(partial(against_nashopt_row, given.nashopt, count, min(sample, 8), repeats))
    document = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"), "device": jax.devices()[0].device_kind,
        "processors": os.cpu_count(), "dtype": "float32 play, float64 certificates", "machine": platform.platform(),
        "jax": jax.__version__, "command": sys.argv, "rows": [],
    }  # fmt: skip
    print(f"{document['created']}  {document['device']}, {document['processors']} processors, jax {jax.__version__}\n")
    for call in calls:
        row = call()
        document["rows"].append(row)
        both = f"{1e6 * row['median_s']:.4g} us against {1e6 * row['baseline_s']:.4g} us"
        print(f"{row['row']}\n    {row['size']}: {both}: {row['ratio']:.4g} (target {row['target']})")
        for name in row.keys() - {"row", "size", "median_s", "baseline_s", "ratio", "target"}:
            print(f"    {name}: {row[name]}", flush=True)
    if given.out:
        given.out.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
