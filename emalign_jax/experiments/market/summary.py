"""What a market says: values with intervals, curves against n, and what each agent does to the worst equilibrium."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from emalign_jax.experiments.grid.table import JSON_SCHEMA
from emalign_jax.experiments.market.block import ALL, ENTERING, SUBSET
from emalign_jax.experiments.market.experiment import Found

CONFIDENCE = 0.95
LISTED = 10  # agents that are printed
VALUES = ("none", "full", "best_monopolist", "worst", "best", "guarantee")
HULL = {"error": "hull_error", "no_agent": "no_agent_error", "slack": "slack", "eps": "eps"}
CURVES = ("normalised_worst", "normalised_best_monopolist", "normalised_guarantee", "hull_error", "no_agent_error")
WORDS = {
    "none": "asks nobody", "best_monopolist": "best single agent", "guarantee": "guarantee (every equilibrium)",
    "worst": "worst equilibrium", "best": "best equilibrium", "full": "all that the agents know",
}  # fmt: skip


def interval(values: Any) -> tuple[float, float]:
    """The percentile interval of resampled values; NaN where there are fewer than two, or one is unknown."""
    values = np.asarray(values, float)
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan, math.nan
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def whole(rows: pd.DataFrame) -> dict[str, Any]:
    """The row of the market of all agents, of the table itself."""
    return rows.loc[(rows["resample"] == 0) & (rows["kind"] == ALL)].to_dict("records")[0]


def curves(rows: pd.DataFrame) -> pd.DataFrame:
    """A line a number n of agents: means over random subsets of CURVES, each with the ends _low, _high of the interval
    over resamples, and `fits`, the number of subsets."""
    rows = rows.loc[rows["kind"].isin((ALL, SUBSET))]
    means = rows.groupby(["resample", "agents"], as_index=False).agg(dict.fromkeys(CURVES, "mean"))
    lines = []
    for n in means.loc[means["resample"] == 0, "agents"]:
        group = means.loc[means["agents"] == n]
        point = group.loc[group["resample"] == 0].to_dict("records")[0]
        line: dict[str, Any] = {"agents": int(n)}
        line["subsets"] = int(((rows["agents"] == n) & (rows["resample"] == 0)).sum())
        for name in CURVES:
            low, high = interval(group.loc[group["resample"] > 0, name])
            line |= {name: float(point[name]), f"{name}_low": low, f"{name}_high": high}
        lines.append(line)
    return pd.DataFrame(lines)


def agents(found: Found) -> pd.DataFrame:
    """A line an agent of the market: its value as a monopolist, and the worst equilibrium without it and the change;
    normalised ones besides, with the ends _low, _high of the interval. Those without whom the user loses most first."""
    lines, worst = [], float(whole(found.rows)["worst"])
    for name in found.agents.loc[found.agents["resample"] == 0, "agent"]:
        group = found.agents.loc[found.agents["agent"] == name]
        point = group.loc[group["resample"] == 0].to_dict("records")[0]
        line = {"name": str(name), "monopoly": float(point["monopoly"]), "without": float(point["without"])}
        line |= {"change": line["without"] - worst}
        line |= {f"normalised_{name}": float(point[f"normalised_{name}"]) for name in ("monopoly", "without")}
        low, high = interval(group.loc[group["resample"] > 0, "normalised_monopoly"])
        lines.append(line | {"normalised_monopoly_low": low, "normalised_monopoly_high": high})
    order = {"by": ["change", "monopoly"], "ascending": [True, False], "key": lambda x: x.round(9)}
    return pd.DataFrame(lines).sort_values(kind="stable", **order)


def entering(rows: pd.DataFrame) -> pd.DataFrame:
    """A line an agent that might enter: the worst equilibrium with it, and the change; the largest first."""
    part = rows.loc[rows["kind"] == ENTERING]
    worst = part["worst"].to_numpy(float)
    lines = pd.DataFrame({"name": part["entering"], "worst": worst, "change": worst - float(whole(rows)["worst"])})
    return lines.sort_values("change", ascending=False, kind="stable")


def failed(rows: pd.DataFrame) -> int:
    """Markets of which an equilibrium was not computed."""
    return int((~np.isfinite(rows[["worst", "best", "guarantee"]].to_numpy(float))).any(1).sum())


def warning(found: Found) -> str:
    """Where information is worth nothing to the user, a sentence on that; else ""."""
    if not bool(whole(found.rows)["worthless"]):
        return ""
    return (
        f"Information is worth nothing to {found.facts['target']} here: with all that the agents know the user chooses "
        "no better than without (V_full = V_none), so that every market is worth the same and nothing is normalised."
    )


def document(found: Found) -> dict[str, Any]:
    """The JSON document."""
    rows, row = found.rows, whole(found.rows)
    resampled = rows.loc[(rows["resample"] > 0) & (rows["kind"] == ALL)]
    intervals = {
        "user": {name: interval(resampled[name]) for name in VALUES},
        "hull": {key: interval(resampled[name]) for key, name in HULL.items()},
        "transfers": interval(resampled["transfers"]),
    }
    target = found.config["market.target_value"]
    normalised = {"none": 0.0, "full": 1.0} if not row["worthless"] else dict.fromkeys(VALUES[:2], math.nan)
    return {
        "schema": JSON_SCHEMA,
        "user": {name: float(row[name]) for name in VALUES},
        "normalised": normalised | {name: float(row[f"normalised_{name}"]) for name in VALUES[2:]},
        "agents": agents(found).to_dict("records"),
        "entering": entering(rows).to_dict("records"),
        "hull": {key: float(row[name]) for key, name in HULL.items()},
        "transfers": None if target is None else {"target_value": target, "budget": float(row["transfers"])},
        "curves": curves(rows).to_dict("records"),
        "intervals": intervals | {"resamples": len(resampled), "confidence": CONFIDENCE},
        "table": found.facts,
        "warning": warning(found),
        "summary": {
            "failed": failed(rows), "markets": len(rows), "run": str(found.path), "seconds": found.seconds,
        },
    }  # fmt: skip


def render(found: Found) -> str:
    """The document as text that lines up."""
    said, facts = document(found), found.facts
    text = [
        f"Market: {facts['agents']} agents compete for {facts['target']}, {facts['prompts']} {facts['items']} x "
        f"{facts['actions']} actions",
        *(f"  {note}" for note in facts["left_out"]),
    ]
    if said["warning"]:
        text += ["", said["warning"]]
    count = said["intervals"]["resamples"]
    band = f"95 % over {count} resamples" if count > 1 else ""
    head = f"{'the user':<31} {'value':>9} {'0 to 1':>8}   {band:>22}"
    text += ["", head, "-" * len(head)]
    for name, words in WORDS.items():
        ends = _interval(said["intervals"]["user"][name])
        text.append(f"{words:<31} {_number(said['user'][name]):>9} {_share(said['normalised'][name]):>8}   {ends:>22}")
    hull = said["hull"]
    ends = _interval(said["intervals"]["hull"]["error"])
    text += [
        "",
        f"Hull: error on {facts['items']} held out {_number(hull['error'])}{f' {ends}' if ends else ''}, without any "
        f"agent {_number(hull['no_agent'])}; eps (largest error) {_number(hull['eps'])}, coverage slack "
        f"{_number(hull['slack'])}",
    ]
    if said["transfers"] is not None:
        text.append(
            f"Transfers that lift the guarantee to {said['transfers']['target_value']:g}: a budget of "
            f"{_number(said['transfers']['budget'])} for each agent and answer"
        )
    if len(said["curves"]) > 1:
        head = f"{'n':>4} {'subsets':>8}   {'worst equilibrium, 0 to 1':>31}   {'hull error, held out':>31}"
        text += ["", head, "-" * len(head)]
        for line in said["curves"]:
            cells = [
                f"{_number(line[name]):>9}{_interval((line[f'{name}_low'], line[f'{name}_high'])):>22}"
                for name in ("normalised_worst", "hull_error")
            ]
            text.append(f"{line['agents']:>4} {line['subsets']:>8}   {cells[0]}   {cells[1]}")
    text += ["", *_people(said["agents"], ("monopoly", "without", "change"), ("alone", "worst without", "change"))]
    if said["entering"]:
        text += ["", *_people(said["entering"], ("worst", "change"), ("worst with it", "change"))]
    return "\n".join(line.rstrip() for line in text)


def _people(lines: list[dict], names: tuple[str, ...], heads: tuple[str, ...]) -> list[str]:
    width = max([5, *(len(line["name"]) for line in lines[:LISTED])])
    head = f"{'agent':<{width}}" + "".join(f"  {head:>13}" for head in heads)
    text = [head, "-" * len(head)]
    for line in lines[:LISTED]:
        text.append(f"{line['name']:<{width}}" + "".join(f"  {_number(line[name]):>13}" for name in names))
    return text + [f"... and {len(lines) - LISTED} more (agents.parquet)"] * (len(lines) > LISTED)


def _interval(ends: tuple[float, float]) -> str:
    return f"[{_number(ends[0])}, {_number(ends[1])}]" if math.isfinite(ends[0]) else ""


def _share(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}" if math.isfinite(value) else "-"


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{round(value, 4) + 0.0:.4f}" if abs(value) < 1e-12 or 1e-3 <= abs(value) < 1e4 else f"{value:.1e}"
