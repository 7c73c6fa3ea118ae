"""What `emalign market` leaves, on the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from emalign_jax.experiments.market import experiment, summary
from emalign_jax.report.page.rows import Rows
from emalign_jax.report.page.tables import table
from emalign_jax.result import columns

MARKETS = ["kind", "agents", "draw", "entering", "normalised_worst", "normalised_best", "normalised_best_monopolist",
           "normalised_guarantee", "hull_error", "slack"]  # fmt: skip
AGENTS = ["agent", "monopoly", "without", "normalised_monopoly", "normalised_without", "resample"]


def read(directory: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    rows, people = (experiment.read_rows(directory, name) for name in experiment.TABLES)
    facts = {"target": "the target"} | manifest.get("table", {})
    left_out = facts.get("left_out")
    config = {"market.target_value": None} | manifest["config"]
    if not ((rows["resample"] == 0) & (rows["kind"] == "all")).any() or not (people["resample"] == 0).any():
        raise ValueError(f"{directory / 'markets.parquet'}: resample, kind: expected the market of the table itself")
    found = summary.document(experiment.Found(directory, rows, people, facts, config, False, 0.0))
    values = pd.DataFrame(
        {"": words, "value": found["user"][name], "0 to 1": found["normalised"].get(name),
         "95 % from": found["intervals"]["user"][name][0], "to": found["intervals"]["user"][name][1]}
        for name, words in summary.WORDS.items()
    )  # fmt: skip
    hull = pd.DataFrame([found["hull"]])
    curves, agents, entering = (pd.DataFrame(found[name]) for name in ("curves", "agents", "entering"))
    heads = {"agents": "n", "subsets": "subsets"}
    for name, head in (("normalised_worst", "worst equilibrium, 0 to 1"), ("hull_error", "hull error, held out")):
        heads |= {name: head, f"{name}_low": "95 % from", f"{name}_high": "to"}
    people_heads = {"name": "agent", "monopoly": "alone", "without": "worst equilibrium without it", "change": "change"}
    return {
        "title": manifest.get("title") or f"A market for {facts['target']}",
        "tables": [
            table("The user's value", values, {name: name for name in values}),
            table("The hull", hull, {"error": "error held out", "no_agent": "without any agent", "eps": "eps",
                                     "slack": "coverage slack"}),
            table("Against the number of agents", curves, heads),
            table("Agents", agents, people_heads),
            *([table("Entering", entering, {"name": "agent", "worst": "worst equilibrium", "change": "change"})]
              * bool(len(entering))),
        ],
        "rows": [
            Rows("Markets", "market", rows, columns.MARKETS, MARKETS, ["kind", "agents", "resample"], "agents",
                 "normalised_worst", "kind", {"resample": 0}),
            Rows("Agents one by one", "agent", people, columns.MARKET_AGENTS, AGENTS, ["resample"], "monopoly",
                 "without", "", {"resample": 0}),
        ],
        "notes": [str(note) for note in (found["warning"], *(left_out if isinstance(left_out, list) else ())) if note],
        "failed": found["summary"]["failed"],
    }  # fmt: skip
