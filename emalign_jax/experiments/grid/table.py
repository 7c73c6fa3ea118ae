"""Rows and tables of a search: one row a game and start, one line a family and number of agents."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from emalign_jax.exact.certificates.certificate import Certificate
from emalign_jax.result import FoundBy, Result

JSON_SCHEMA = 1
VALUE_ROUNDING = 1e-6  # of V_full - V_none: by so much the values of two methods may differ
LISTED = 20  # games that failed are printed one by one up to this many


def certificate_values(certificate: Certificate) -> dict[str, Any]:
    """The columns CERTIFICATE of the certificates of N games."""
    codes = [Result(code) for code in certificate.result.tolist()]
    return {
        "user_value": certificate.user,
        "no_information": certificate.no_information,
        "full_information": certificate.full_information,
        "normalised_value": certificate.normalised_value,
        "agent_payoffs": certificate.agents.tolist(),
        "gain_lower": certificate.gain_lower.tolist(),
        "gain_upper": certificate.gain_upper.tolist(),
        "payoff_range": certificate.payoff_range.tolist(),
        "relative_gain": certificate.relative_gain.max(-1),
        "closed": certificate.closed,
        "guarantee": certificate.guarantee,
        "theorem": certificate.theorem,
        "result": [code.name for code in codes],
        "message": [code.message for code in codes],
        "ok": [code.ok for code in codes],
        "certified": certificate.result == Result.CERTIFIED,
        "fallback": certificate.fallback,
    }


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One line a family and number of agents."""
    lines = []
    for (family, agents), group in rows.groupby(["family", "agents"], sort=False, observed=True):
        value = group["normalised_value"]
        lines.append(
            {
                "family": str(family),
                "agents": int(agents),
                "games": len(group),
                "q10": value.quantile(0.1),
                "median": value.median(),
                "q90": value.quantile(0.9),
                "mean": value.mean(),
                "monopoly": group["monopoly_value"].mean(),
                "within_tolerance": group["ok"].mean(),
                "certified": group["certified"].mean(),
                "unchecked": (group["result"] == Result.UNCHECKED.name).mean(),
                "by_start": (group["found_by"] == FoundBy.START.name).mean(),
                "by_play": (group["found_by"] == FoundBy.PLAY.name).mean(),
                "largest_gain": group["relative_gain"].max(),
                "seconds": group["seconds"].sum(),
            }
        )
    return pd.DataFrame(lines)


def below_worst(rows: pd.DataFrame) -> np.ndarray:
    """By how much, as a share of V_full - V_none, each certified profile is worth less to the user than the worst exact
    equilibrium of its game; 0 where it is not, or nothing is known of that."""
    short = rows["normalised_worst_equilibrium"].to_numpy(float) - rows["normalised_value"].to_numpy(float)
    return np.where(rows["certified"].to_numpy(bool) & (short > VALUE_ROUNDING), short, 0.0)


def below_worst_words(count: int, most: float) -> str:
    """The sentence on `count` such profiles; `most`: the largest number of `below_worst`."""
    profiles = "1 certified profile is" if count == 1 else f"{count} certified profiles are"
    return (
        f"{profiles} worth less to the user than the game's worst exact equilibrium (by at most {most:.2g} of V_full - "
        "V_none): epsilon-equilibria with a value that no exact equilibrium has."
    )


def render(lines: pd.DataFrame, tolerance: float) -> str:
    """The summary as text that lines up."""
    head = (
        f"{'family':<12} {'K':>3} {'games':>6}   {'user value: 10 %':>16} {'median':>7} {'90 %':>7} {'mean':>7} "
        f"{'monopoly':>9}   {f'gain <= {tolerance:g}':>13} {'largest':>8} {'seconds':>8}"
    )
    text = [head, "-" * len(head)]
    previous = None
    for line in lines.to_dict("records"):
        family = line["family"] if line["family"] != previous else ""
        previous = line["family"]
        values = "".join(f" {_number(line[name]):>7}" for name in ("median", "q90", "mean"))
        checked = line["unchecked"] < 1
        gains = (
            f"{line['within_tolerance']:>12.1%}  {line['largest_gain']:>8.1e}" if checked else f"{'not checked':>22}"
        )
        text.append(
            f"{family:<12} {line['agents']:>3} {line['games']:>6}   {_number(line['q10']):>16}{values} "
            f"{_number(line['monopoly']):>9}   {gains} "
            f"{line['seconds']:>8.1f}"
        )
    return "\n".join(text)


def failures(rows: pd.DataFrame, axes: tuple[str, ...] = (), count: int | None = None) -> str:
    """The games that failed or did not certify, with the sentence that says why; "" if there are none.

    axes: further columns that tell rows apart; count: how many there are, where `rows` has only the first of them."""
    bad = rows.query("not ok")
    text = [
        f"  {row['family']} K={row['agents']} "
        + "".join(f"{name.split('.')[-1]}={row[name]} " for name in axes)
        + f"game {row['game']} start {row['start']}: {row['message']}"
        + (f" (largest gain {row['relative_gain']:.2e} of the range)" if math.isfinite(row["relative_gain"]) else "")
        for row in bad.head(LISTED).to_dict(orient="records")
    ]
    count = len(bad) if count is None else count
    if count > LISTED:
        text.append(f"  ... and {count - LISTED} more")
    return "\n".join(text)


def document(games: list[dict], summary: dict) -> dict:
    """The one JSON document; numbers that are not finite become null."""
    return plain({"schema": JSON_SCHEMA, "games": games, "summary": summary})


def plain(value) -> Any:
    """`value` as JSON takes it; numbers that are not finite become None."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"
