"""One block of a market: the table itself (number 0) or a resample of its prompts, and in it the market of all agents,
random subsets of them, the market without each agent and with each one that might enter.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from emalign_jax.exact import align
from emalign_jax.exact.certificates.certificate import normalise
from emalign_jax.exact.guarantees.market import MarketSolver, MarketValues
from emalign_jax.experiments.hull.fits import Rule, evaluate, fit
from emalign_jax.experiments.market.config import SIZES, MarketSpecification
from emalign_jax.experiments.market.table import MarketTable, pack, unpack
from emalign_jax.experiments.specification import make
from emalign_jax.games.from_table import UtilityTable
from emalign_jax.games.units import NEGLIGIBLE_INFORMATION_VALUE
from emalign_jax.internal import parquet
from emalign_jax.lp.highs import LPFailed
from emalign_jax.result import columns

ALL, SUBSET, ENTERING = "all", "subset", "entering"  # kinds of markets
WORK = {ALL: 10}  # for each agent, as the curves of subsets are known by then
RESAMPLES = 2**31  # subsets are drawn from smaller numbers after the seed
RULE = Rule("per_state", "l2")  # an offset for each prompt changes no choice, so that only differences count


def sizes(specification: MarketSpecification, agents: int) -> tuple[int, ...]:
    """Numbers of agents of random subsets, less than all."""
    return tuple(n for n in specification.market.n or SIZES if n < agents)


def counts(specification: MarketSpecification, prompts: int, number: int) -> np.ndarray | None:
    """How often each prompt is in the block; None: each once."""
    if number == 0:
        return None
    return np.random.default_rng([specification.seed, RESAMPLES + number]).multinomial(
        prompts, np.full(prompts, 1 / prompts)
    )


def compute(
    data: bytes, text: str, number: int, progress: Callable[[float], None] = lambda _: None
) -> dict[str, bytes]:
    """The tables of a block in parquet, by the name of the table.

    data: of `sent`; text: the specification in JSON, as `Config.text`; progress: called with the share done
    """
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        table = unpack(dict(archive))
    values = {name: tuple(x) if isinstance(x, list) else x for name, x in json.loads(text).items()}
    markets, agents = of_table(table, make(MarketSpecification, values), number, progress)
    found = {}
    for name, schema, rows in (("agents", columns.MARKET_AGENTS, agents), ("markets", columns.MARKETS, markets)):
        file = io.BytesIO()
        pq.write_table(columns.arrow(schema, rows), file, **parquet.WRITTEN)
        found[name] = file.getvalue()
    return found


def sent(table: MarketTable) -> bytes:
    """The table as an .npz, for other processes."""
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **pack(table))
    return file.getvalue()


def of_table(
    table: MarketTable,
    specification: MarketSpecification,
    number: int,
    progress: Callable[[float], None] = lambda _: None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables MARKETS and MARKET_AGENTS of a block."""
    own, K = specification.market, table.agents
    repeats = counts(specification, len(table), number)
    market = table.market(specification.table, specification.seed, repeats)
    game = market.reduced()
    solver = MarketSolver(game)
    hull = _Hull(market, specification, np.ones(len(table), int) if repeats is None else repeats)
    everyone, first = list(range(K)), number == 0
    asked = [(ALL, 0, everyone)]
    for draw in range(own.subsets):
        order = np.random.default_rng([specification.seed, draw]).permutation(K)
        asked += [(SUBSET, draw, sorted(order[:n].tolist())) for n in sizes(specification, K)]
    entering = range(K, len(table.names)) if own.entering and first else []
    asked += [(ENTERING, 0, [*everyone, j]) for j in entering]
    rows, alone, without = [], np.full(K, np.nan), np.full(K, np.nan)
    work = np.cumsum([0, *(WORK.get(kind, 1) * len(some) for kind, _, some in asked)])
    for place, (kind, draw, some) in enumerate(asked):
        began, leaving = time.perf_counter(), own.without and first and kind == ALL

        def tell(done: int, steps: int, at: np.ndarray = work[place : place + 2] / work[-1]) -> None:
            progress(float(at[0] + (at[1] - at[0]) * done / steps))

        try:
            values = solver.values(some, leaving, tell)
        except LPFailed:  # costs this market alone
            unknown = np.full(len(some), np.nan)
            none, full = float(game.user.sum(1).max(-1).sum()), float(game.user.max(-1).sum())
            values = MarketValues(none, full, unknown, np.nan, np.nan, np.nan, np.nan, unknown)
        if kind == ALL:
            alone, without = values.monopoly, values.without
        rows.append(_row(kind, draw, some, values, table))
        rows[-1]["worthless"] = values.full - values.none <= NEGLIGIBLE_INFORMATION_VALUE * hull.unit
        rows[-1] |= hull.errors(draw, some, kind)
        rows[-1]["eps"] = hull.eps(some) if kind == ALL else np.nan
        rows[-1]["transfers"] = _transfers(solver, own.target_value, some, values.full) if kind == ALL else np.nan
        rows[-1]["seconds"] = time.perf_counter() - began
    markets = pd.DataFrame(rows).assign(resample=number)
    people = pd.DataFrame({"agent": table.names[:K], "monopoly": alone, "without": without}).assign(resample=number)
    first_row = markets.iloc[0]  # V_none and V_full are those of every market of the block
    for rows, names in (
        (markets, ("best_monopolist", "worst", "best", "guarantee")),
        (people, ("monopoly", "without")),
    ):
        for name in names:
            normal = normalise(rows[name].to_numpy(), first_row["none"], first_row["full"])
            rows[f"normalised_{name}"] = np.nan if first_row["worthless"] else normal
    return (
        columns.table(columns.MARKETS, dict(markets.items())),
        columns.table(columns.MARKET_AGENTS, dict(people.items())),
    )


def _transfers(solver: MarketSolver, target: float | None, some: list[int], full: float) -> float:
    """NaN where none were asked for, or the target is more than a resample is worth at best."""
    try:
        return np.nan if target is None or target > full else solver.transfers(target, some)
    except LPFailed:
        return np.nan


def _row(kind: str, draw: int, some: list[int], values: MarketValues, table: MarketTable) -> dict[str, Any]:
    return {
        "kind": kind, "agents": len(some), "draw": draw, "entering": table.names[some[-1]] if kind == ENTERING else "",
        "none": values.none, "full": values.full, "best_monopolist": float(np.max(values.monopoly)),
        "worst": values.worst, "best": values.best, "guarantee": values.guarantee, "slack": values.slack,
    }  # fmt: skip


class _Hull:
    """How well weighted agents stand in for the user, on prompts that the weights were not fitted to.

    A prompt that a resample holds several times is wholly in one half.
    """

    def __init__(self, market: UtilityTable, specification: MarketSpecification, repeats: np.ndarray):
        self._specification, self._n = specification, len(repeats)
        there = repeats > 0
        self._prompt = np.repeat(np.flatnonzero(there), repeats[there])
        each = np.repeat(np.arange(int(there.sum())), repeats[there])
        self._once = market.user.T, market.agents.transpose(1, 2, 0)
        self._user, self._agents = (x[..., each] for x in self._once)
        self.unit = float(market.prior @ np.ptp(market.user, axis=1))  # what it would be worth to choose

    def errors(self, draw: int, some: list[int], kind: str) -> dict[str, float]:
        """Held out, of the best weights and of no agent. Of all agents the mean over the splits of all draws."""
        draws = range(self._specification.market.subsets) if kind == ALL else [draw]
        found = np.array([self._split(one, some) for one in draws]) if kind != ENTERING else np.full((1, 2), np.nan)
        return dict(zip(("hull_error", "no_agent_error"), found.mean(0).tolist(), strict=True))

    def eps(self, some: list[int]) -> float:
        user, agents = self._once
        weights = self._specification.market.weights
        return float(align(user, agents[some], weights=weights, offset="per_state", norm="sup").error)

    def _split(self, draw: int, some: list[int]) -> tuple[float, float]:
        own = self._specification
        tests = min(max(2, round(own.market.test_share * self._n)), self._n - 2)
        held = np.random.default_rng([own.seed, draw, 1]).permutation(self._n)[:tests]
        test = np.isin(self._prompt, held)
        if test.all() or not test.any():  # in resamples of very few prompts
            return np.nan, np.nan
        user, agents = self._user[None], self._agents[some]
        weights = fit(user[..., ~test], agents[..., ~test], own.market.weights, RULE).weights
        none = evaluate(np.zeros((1, 1)), user, agents[:1], test, RULE)
        return float(evaluate(weights, user, agents, test, RULE).held_out[0]), float(none.held_out[0])
