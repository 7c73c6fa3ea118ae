"""Rows and tables of a search: one row a game and start, one line a family and number of agents."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from emalign_jax.exact.certificates.certificate import Certificate, normalise
from emalign_jax.experiments.search.job import Cell
from emalign_jax.result import Result

JSON_SCHEMA = 1
VALUE_ROUNDING = 1e-6  # of V_full - V_none: by so much the values of two methods may differ
LISTED = 20  # games that failed are printed one by one up to this many


def game_rows(cell: Cell) -> pd.DataFrame:
    """One row a game and start; gains and payoffs are lists, one entry an agent."""
    certificate, results = cell.certificate, cell.solution.result
    S, N = results.shape
    between = certificate.no_information[0], certificate.full_information[0]
    alone = normalise(cell.monopoly.mean(1), *between)
    exact = {}
    if cell.worst is not None:
        columns = {"worst_equilibrium": cell.worst, "normalised_worst_equilibrium": normalise(cell.worst, *between)}
        exact = {name: np.repeat(column, S) for name, column in columns.items()}

    def flat(array) -> np.ndarray:
        """[S, N, ...] as rows of the table: starts of a game follow each other."""
        return np.swapaxes(array, 0, 1).reshape(N * S, *np.shape(array)[2:])

    def lists(array) -> list[list[float]]:
        return flat(array).tolist()

    codes = [Result(code) for code in flat(results).tolist()]
    return pd.DataFrame(
        {
            "family": cell.family,
            "agents": cell.agents,
            "game": cell.first + np.repeat(np.arange(N), S),
            "start": np.tile(np.arange(S), N),
            "states": cell.games.outcomes,
            "actions": cell.games.actions,
            "user_features": cell.games.user_features,
            "agent_features": cell.games.agent_features,
            "messages": cell.solution.schemes.shape[-1],
            "user_value": flat(certificate.user),
            "no_information": flat(certificate.no_information),
            "full_information": flat(certificate.full_information),
            "normalised_value": flat(certificate.normalised_value),
            "monopoly_value": np.repeat(alone, S),
            **exact,
            "agent_payoffs": lists(certificate.agents),
            "gain_lower": lists(certificate.gain_lower),
            "gain_upper": lists(certificate.gain_upper),
            "payoff_range": lists(certificate.payoff_range),
            "relative_gain": flat(certificate.relative_gain).max(-1),
            "closed": flat(certificate.closed),
            "guarantee": flat(certificate.guarantee),
            "theorem": flat(certificate.theorem),
            "result": [code.name for code in codes],
            "message": [code.message for code in codes],
            "ok": [code.ok for code in codes],
            "certified": flat(certificate.result) == Result.CERTIFIED,
            "fallback": flat(certificate.fallback),
            "seconds": cell.seconds / (S * N),
        }
    )


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
                "unverified": (group["result"] == Result.UNVERIFIED.name).mean(),
                "by_start": (group["result"] == Result.START.name).mean(),
                "by_play": (group["result"] == Result.PLAY.name).mean(),
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
        checked = line.get("unverified", 0) < 1
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


def json_rows(certificate: Certificate, results: np.ndarray, extra: list[dict] | None = None) -> list[dict]:
    """The contract's entry a game, from a certificate of any batch shape."""
    entries = []
    for n, at in enumerate(np.ndindex(np.shape(certificate.user))):
        entries.append(
            {
                "user": certificate.user[at],
                "agents": certificate.agents[at].tolist(),
                "no_information": certificate.no_information[at],
                "full_information": certificate.full_information[at],
                "gain_lower": certificate.gain_lower[at].tolist(),
                "gain_upper": certificate.gain_upper[at].tolist(),
                "closed": bool(certificate.closed[at]),
                "guarantee": certificate.guarantee[at],
                "result": Result(int(results[at])).message,
                "code": Result(int(results[at])).name,
                **(extra[n] if extra else {}),
            }
        )
    return entries


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
