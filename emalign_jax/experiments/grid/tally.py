"""The counts and lines that the printed table and the figure of a search need; memory holds one cell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from emalign_jax.experiments.grid import merge
from emalign_jax.experiments.grid.run import Block
from emalign_jax.experiments.grid.table import LISTED, below_worst, means, summary
from emalign_jax.result import Result

DRAWN_POINTS = 2001  # of a family in the figure: more cannot be told apart


class Tally(NamedTuple):
    """What the printed table and the figure need of a run.

    lines: a row a family and number of agents; means: of `table.means`, and spread: rows at even quantiles, for the
    figure; failed: the first games that failed; and counts of rows: all, those that failed, that were not checked, that
    are not certified but have no known gain, without a normalised value, whose batched LPs HiGHS did again, and that
    are certified but worth less than the worst exact equilibrium; short: by how much the last are so at most, as a
    share of V_full - V_none.
    """

    lines: pd.DataFrame
    means: pd.DataFrame
    spread: pd.DataFrame
    failed: pd.DataFrame
    games: int
    failures: int
    unchecked: int
    unproved: int
    worthless: int
    fallbacks: int
    below_worst: int
    short: float


@np.errstate(all="ignore")  # infinite or huge numbers of a file are shown as they are
def tally(directory: Path, work: Sequence[Block]) -> Tally:
    """Read a run's table, a family and number of agents at a time."""
    lines, averages, spread, failed, counts = [], [], [], [], []
    for rows in merge.cells(directory, work):
        unchecked, short = rows["result"] == Result.UNCHECKED.name, below_worst(rows)
        bad = rows[~rows["ok"] & ~unchecked]
        lines.append(summary(rows))
        averages.append(means(rows, ["family", "agents"]))
        spread.append(_spread(rows))
        failed.append(bad.head(LISTED).astype({"family": str, "message": str, "result": str, "found_by": str}))
        unproved = rows["ok"] & ~rows["certified"]
        without = rows["normalised_value"].isna() & rows["user_value"].notna()
        others = (unchecked, unproved, without, rows["fallback"], short > 0)
        counts.append((len(rows), len(bad), *(which.sum() for which in others), short.max(initial=0.0)))
    *totals, worst = zip(*counts, strict=True)
    frames = [pd.concat(frames, ignore_index=True) for frames in (lines, averages, spread, failed)]
    return Tally._make([*frames, *(int(sum(column)) for column in totals), float(max(worst))])


def _spread(rows: pd.DataFrame) -> pd.DataFrame:
    drawn = ("normalised_value", "normalised_best_monopolist")
    columns = {name: pd.Series(np.sort(rows[name].dropna().to_numpy(float))) for name in drawn}
    most = max(1, *map(len, columns.values()))
    step = max(1, most / DRAWN_POINTS)
    at = [int(step * n) for n in range(min(most, DRAWN_POINTS))]
    thin = {name: column.reindex(at).to_numpy() for name, column in columns.items()}
    return pd.DataFrame({"family": str(rows["family"].iloc[0]), "agents": int(rows["agents"].iloc[0])} | thin)
