"""Conversations: how fast equilibria are found, and whether what the theory promises holds of every one.

`python benchmarks/conversations.py` (`--quick`: few games); exits 1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import jax
import numpy as np

import emalign_jax as em
from emalign_jax.exact.checks import searched
from emalign_jax.exact.checks.base import make_check
from emalign_jax.exact.obedience.persuasion_mechanism import MechanismLP

TOLERANCE = 1e-3
SIZE = {"states": 3, "actions": 4, "user_features": 3, "information_worth": 0.02}
STARTS = 32  # random starts an agent, where the search is done once more, harder


def draw(count: int, family: str, seed: int = 0, agents: int = 2, **size) -> em.Game:
    return em.random_games(jax.random.key(seed), count, family=family, agents=agents, **(SIZE | size))


def searched_row(count: int, family: str, protocol, user, messages: int, seed: int = 0) -> dict:
    """Equilibria of `count` games, and what a search with more starts says of the same profiles."""
    games = draw(count, family, seed)
    began = time.perf_counter()
    found = em.solve(games, protocol, user, key=jax.random.key(1), messages=messages)
    seconds = time.perf_counter() - began
    usual, searched.RANDOM_STARTS = searched.RANDOM_STARTS, STARTS
    try:
        harder = em.certify(games, found.schemes, protocol, user)
    finally:
        searched.RANDOM_STARTS = usual
    gains, again = found.certificate.relative_gain.max(-1), harder.relative_gain.max(-1)
    return {
        "row": f"search, {name_of(protocol, user)}, K = 2, M = {messages}, {family}", "games": count,
        "seconds": seconds, "within": float((gains <= TOLERANCE).mean()), "worst": float(gains.max()),
        "within_harder": float((again <= TOLERANCE).mean()),
        "certified": float((found.certificate.result == em.Result.CERTIFIED).mean()),
        "value": float(np.nanmedian(found.certificate.normalised_value)),
    }  # fmt: skip


def certified_row(count: int, family: str, user) -> dict:
    """The share of equilibria that are certified, at the sizes of the table in docs/guides/conversations.md."""
    began, certified = time.process_time(), []
    for to in ("each", "all"):
        games = em.random_games(3, count, agents=2, user_features=2, agent_features=2, actions=3, family=family)
        found = em.solve(games, em.Conversation(2, 2, to), user, messages=2, key=3)
        certified.append(np.asarray(found.result) == em.Result.CERTIFIED)
    return {
        "row": f"certified, {user.title}, R = Q = M = XA = XB = K = 2, A = 3, {family}", "games": 2 * count,
        "cpu_seconds": time.process_time() - began, "certified": float(np.mean(certified)),
    }  # fmt: skip


def mechanism_row(count: int) -> dict:
    """One agent with many messages against the persuasion-mechanism LP."""
    games = draw(count, "noise", 3, agents=1, user_features=2)
    protocol, user = em.Conversation(2, 2), em.RationalUser()
    began = time.perf_counter()
    found = em.solve(games, protocol, user, key=jax.random.key(1), messages=4)
    seconds = time.perf_counter() - began
    played = em.solve(games, protocol, user, key=jax.random.key(1), messages=4, verify=False)
    reduced = em.reduce_game(games, np)
    optimum = np.empty(count)
    for k in range(count):
        check = make_check(reduced, k, protocol, user, 4)
        value = MechanismLP(check.game).best(check.game.agents[0]).value
        optimum[k] = check.form.agent_unit[0] * value + check.form.agent_zero[0]
    ranges = found.certificate.payoff_range[:, 0]
    short = (optimum - found.agents[:, 0]) / ranges
    alone = (optimum - em.certify(games, played.schemes, protocol, user).agents[:, 0]) / ranges
    return {
        "row": "K = 1, M = 4, XA = 2, R = 2, rational: payoff against the persuasion-mechanism LP", "games": count,
        "seconds": seconds, "within": float((abs(short) <= TOLERANCE).mean()), "worst": float(abs(short).max()),
        "by_play_alone": float((alone <= TOLERANCE).mean()),
    }  # fmt: skip


def promise_rows(count: int) -> list[dict]:
    """The guarantees at every equilibrium found, and the user's share of V_full, in the hull and outside."""
    rows = []
    for family in ("hull", "shared_bias"):
        for user in (em.RationalUser(), em.QuantalUser(20.0)):
            protocol = em.Conversation(2, 2)
            games = draw(count, family, 7)
            found = em.solve(games, protocol, user, key=jax.random.key(2), messages=2)
            c = found.certificate
            kept = np.array([em.Result(int(r)).ok for r in found.result])
            measured = em.premises(games, found.schemes, protocol, user)
            # the bounds hold up to rounding and what the tie tolerance lets the user forgo at each of two choices
            scale = np.abs(c.full_information) + np.abs(c.user)
            forgone = 2 * getattr(user, "tolerance", 0) * np.ptp(games.user_utility, axis=-2).max(-1)
            least = (c.user + 1e-9 * scale + forgone)[kept]
            worst = c.normalised_value[kept]
            rows.append(
                {
                    "row": f"promises, {name_of(protocol, user)}, K = 2, M = 2, {family}",
                    "games": count,
                    "equilibria": int(kept.sum()),
                    "certified": int((c.result == em.Result.CERTIFIED).sum()),
                    "below_guarantee": int((least < c.guarantee[kept]).sum()),
                    "below_theorem": int((least < c.theorem[kept]).sum()),
                    "below_bound": int((least < measured.bound[kept]).sum()),
                    "least_value": float(np.nanmin(worst)),
                    "below_0.9": int((worst < 0.9).sum()),
                    "games_of_least_value": np.flatnonzero(kept)[np.argsort(worst)[:5]].tolist(),
                }
            )
    return rows


def rounds_row(count: int) -> dict:
    """The user's value by rounds, with replies and without, for one aligned agent with one bit a round."""
    games = draw(count, "hull", 11, agents=1, states=6, agent_features=6, noise=0.0)
    values = {}
    for replies in (1, 3):
        for rounds in (1, 2, 3):
            protocol = em.Conversation(rounds, replies)
            found = em.solve(games, protocol, em.RationalUser(), key=jax.random.key(4), messages=2)
            values[f"R = {rounds}, Q = {replies}"] = float(np.nanmean(found.certificate.normalised_value))
    return {"row": "mean normalised value, K = 1, M = 2, aligned, XA = 3, XB = 6", "games": count, "values": values}


def name_of(protocol, user) -> str:
    who = "rational" if isinstance(user, em.RationalUser) else f"quantal L = {float(user.precision):g}"
    return f"Conversation R = {protocol.rounds}, Q = {protocol.replies}, {who}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few games: a smoke test")
    parser.add_argument("--out", type=Path, help="write the rows as JSON here")
    options = parser.parse_args()
    quick = options.quick
    rows = []

    def add(row):
        rows.append(row)
        numbers = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items() if k != "row")
        print(row["row"] + "\n    " + ", ".join(numbers), flush=True)

    quantal, rational = em.QuantalUser(20.0), em.RationalUser()
    for family in ("noise",) if quick else ("noise", "hull", "shared_bias"):
        add(searched_row(8 if quick else 256, family, em.Conversation(2, 2), quantal, 2))
    if not quick:
        add(searched_row(64, "noise", em.Conversation(2, 2), rational, 2))
    for user in (quantal, em.FixedReplies("truthful", quantal)):
        for family in ("hull",) if quick else ("hull", "shared_bias", "opposed"):
            add(certified_row(2 if quick else 16, family, user))
    add(mechanism_row(5 if quick else 100))
    for row in promise_rows(4 if quick else 250):
        add(row)
    if not quick:
        add(rounds_row(40))
    broken = sum(row.get(name, 0) for row in rows for name in ("below_guarantee", "below_theorem", "below_bound"))
    print(f"{broken} promises broken")
    document = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"), "machine": platform.platform(),
        "processors": os.cpu_count(), "jax": jax.__version__, "rows": rows,
    }  # fmt: skip
    if options.out:
        options.out.write_text(json.dumps(document, indent=2) + "\n")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
