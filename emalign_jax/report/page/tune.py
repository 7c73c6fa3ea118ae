"""What `emalign tune` leaves, on the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emalign_jax.experiments import manifests
from emalign_jax.experiments.manifests import MANIFEST
from emalign_jax.experiments.tune import run
from emalign_jax.report.page.rows import Rows
from emalign_jax.report.page.tables import table
from emalign_jax.result import columns
from emalign_jax.result.columns import Column

GAMES = ["game", "user_before", "user_after", "change", "cost_after", "gain_before", "gain_after", "result_before",
         "result_after"]  # fmt: skip
CHANGE = Column("change", "number", "what tuning adds to the user's value, net of costs", "utility")
STEPS = (
    Column("step", "whole", "number of the gradient step"),
    Column("restart", "whole", "number of the point that gradients move"),
    Column("objective", "number", "what is tuned for, net of cost, in the smoothed equilibria"),
    Column("value", "number", "mean value of the user", "utility"),
    Column("cost", "number", "what the mechanism costs", "utility"),
    Column("trusted", "number", "share of the games whose derivative can be trusted"),
    Column("skipped", "whole", "1 where the gradient was not finite and the step was skipped"),
)


def read(directory: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    tolerance = manifests.number(directory / MANIFEST, manifest, "tolerance") or 0.0
    found = run.read(directory, tolerance)
    summary = run.summary(found)
    words = {"before": "user value before", "after": "user value after", "change": "change, net of costs"}
    values = pd.DataFrame(
        [dict(zip(("", "mean", "95 % from", "to"), (words[name], *summary[name]), strict=True)) for name in words]
    )
    tuned = pd.DataFrame(
        [
            {"parameter": name, "at": ", ".join(map(str, at)), "value": float(array[at])}
            for name, array in found.values.items()
            for at in np.ndindex(array.shape)
        ]
    )
    games = found.rows.assign(
        change=found.rows["user_after"] - found.rows["cost_after"] - found.rows["user_before"]
        + found.rows["cost_before"]
    )  # fmt: skip
    steps, restarts = found.history["objective"].shape
    at = {"step": np.repeat(np.arange(1, steps + 1), restarts), "restart": np.tile(np.arange(restarts), steps)}
    history = pd.DataFrame(at | {name: array.astype(float).ravel() for name, array in found.history.items()})
    failed = summary["games"] - summary["certified"] - summary["unrefuted"]
    notes = [
        f"{summary['games']} games, in {summary['certified']} of them both equilibria are certified within "
        f"{tolerance:g} of the payoff range; {summary['steps']} steps."
    ]
    if summary["unrefuted"]:
        notes.append(f"In {summary['unrefuted']} more no larger gain was found, but none is excluded either.")
    return {
        "title": manifest.get("title") or manifest["config"].get("title") or "Tuned",
        "facts": [("cost of the mechanism", f"{summary['cost']:.4f}"),
                  ("derivatives trusted", f"{summary['trusted']:.0%} of games")],
        "tables": [
            table("The user's value over the games of the evaluation", values, {name: name for name in values}),
            table("What was tuned", tuned, {name: name for name in tuned}),
        ],
        "rows": [
            Rows("Games before and after", "game", games, (*columns.TUNE, CHANGE), GAMES,
                 ["result_before", "result_after"], "user_before", "user_after", "result_after"),
            Rows("Steps", "step", history, STEPS, [column.name for column in STEPS], ["restart"], "step", "objective",
                 "restart"),
        ],
        "notes": notes,
        "failed": failed,
    }  # fmt: skip
