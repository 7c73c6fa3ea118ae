"""A market: the agents one by one, competition against the number of agents, and the hull's error beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emalign_jax.exact.guarantees.market import Market, MarketValues
from emalign_jax.experiments.market import summary
from emalign_jax.experiments.market.experiment import Found
from emalign_jax.games.labels import plain_labels
from emalign_jax.internal.arguments import choice, shown
from emalign_jax.report import style
from emalign_jax.report.look import Look
from emalign_jax.report.style import COLOURS, GREY, ROLES, WORDS

NAMED = 14  # agents that have a line with their name
NO_AGENT = {"color": GREY, "marker": "_", "ms": 4, "lw": 1.1, "ls": style.DOTTED}
# What is drawn against the number of agents: columns, how they look, and their words.
AGAINST = {
    "value": {
        "normalised_worst": (ROLES["worst"] | {"lw": 1.6}, WORDS["worst"]),
        "normalised_best_monopolist": (ROLES["alone"], WORDS["alone"]),
        "normalised_guarantee": (ROLES["guarantee"], WORDS["guarantee"]),
    },
    "hull": {"hull_error": (ROLES["hull"], "weighted agents"), "no_agent_error": (NO_AGENT, "no agent")},
}


@style.styled
def market(found: MarketValues | Market | Found, *, names: Sequence[str] | None = None, ax: Any = None) -> Axes:
    """A market, agent by agent: the user's value with this agent alone, and the worst equilibrium without it.

    Beside them the worst equilibrium of all agents. 0: no agent is asked; 1: all that the agents know.

    Args:
        found: what `em.market` or `em.experiments.run(kind="market")` returned.
        names: of the agents, in order; by default their numbers, or those of the run.
        ax: matplotlib axes; by default new ones.

    Returns:
        The axes.

    Raises:
        ValueError: names the argument and the rule.

    Example:
        >>> type(em.plot.market(em.market(em.catalog.two_prosecutors()), names=["one", "other"])).__name__
        'Axes'

    Source: docs/guides/market.md.
    """
    if not isinstance(found, MarketValues | Market | Found):
        raise ValueError(f"found: expected what em.market returns, got {shown(found)}")
    people, worst = _people(found, names)
    own = style.axes_of(ax, height=1.0 + 0.16 * min(max(len(people), 4), NAMED))
    _agents(own, people, worst)
    return style.key(own, ax)


@style.styled
def market_against_agents(rows: pd.DataFrame, *, show: str = "value", ax: Any = None) -> Axes:
    """A market against the number of agents: means over random subsets, and bands of 95 % over resampled prompts.

    Args:
        rows: markets.parquet, or `found.rows` of `em.experiments.run(kind="market")`.
        show: the user's "value" in the worst equilibrium, with the best single agent, and what is guaranteed; or the
            error of the "hull", weighted agents, on prompts held out (lower is better).
        ax: matplotlib axes; by default new ones.

    Returns:
        The axes.

    Raises:
        ValueError: names the argument and the rule.

    Example:
        >>> import pandas as pd
        >>> rows = pd.DataFrame({"kind": ["subset", "all"], "agents": [2, 5], "normalised_worst": [0.5, 0.8]})
        >>> rows = rows.assign(resample=0, normalised_best_monopolist=0.4, normalised_guarantee=0.1)
        >>> rows = rows.assign(hull_error=0.4, no_agent_error=0.6)
        >>> type(em.plot.market_against_agents(rows)).__name__
        'Axes'

    Source: docs/guides/market.md.
    """
    rows = style.frame("rows", rows, ("resample", "kind", "agents", *summary.CURVES))
    choice("show", show, AGAINST)
    own, lines = style.axes_of(ax), summary.curves(rows)
    n = lines["agents"].to_numpy(int)
    drawn = []
    for name, (look, words) in AGAINST[show].items():
        low, high = (lines[f"{name}_{end}"].to_numpy(float) for end in ("low", "high"))
        own.fill_between(n, low, high, color=look["color"], alpha=0.2, lw=0)
        if len(n) == 1:  # an interval of one n is no band
            own.vlines(n, low, high, color=look["color"], alpha=0.4, lw=3)
        own.plot(n, lines[name], label=words, **look)
        drawn += [lines[name], low, high]
    style.log_counts(own, n.tolist())
    own.set_xlabel("agents n")
    if show == "value":
        style.levels(own)
        style.value_limits(own, drawn)
        if not np.isfinite(lines["normalised_worst"].to_numpy(float)).any():
            own.text(0.5, 0.5, "information is\nworth nothing", ha="center", transform=own.transAxes)
        own.set_ylabel("user value, mean\n(1: all known)")
    else:
        own.set_ylim(bottom=0)
        own.set_ylabel("error held out\n(lower is better)")
    return style.key(own, ax)


@style.styled
def figure(found: Found, look: Look) -> Figure:
    """Two panels against n, and the agents below."""
    people, worst = _people(found, None)
    narrow = look.width < 4.5
    below = 0.9 + 0.15 * min(max(len(people), 4), NAMED)
    whole = Figure(figsize=(look.width, 2.3 * (1 + narrow) + below), layout="constrained")
    above, under = whole.subfigures(2, 1, height_ratios=[2.3 * (1 + narrow), below])
    pair = above.subplots(1 + narrow, 2 - narrow)
    for ax, show in zip(pair, AGAINST, strict=True):
        market_against_agents(found.rows, show=show, ax=ax)
    ax = under.subplots()
    _agents(ax, people, worst)
    style.key(ax, ax)
    facts = found.facts
    style.title(whole, f"{style.shown(facts['target'])}: {facts['prompts']} {facts['items']}, {facts['agents']} agents")
    return whole


@style.styled
def draw(found: Found, look: Look | None = None) -> list[str]:
    """Write the figure into the directory of the run; returns the names of the files."""
    look = Look() if look is None else look
    return style.save(figure(found, look), *look.paths(found.path, "market"))


def _people(found: Any, names: Any) -> tuple[pd.DataFrame, float]:
    """A line an agent as `summary.agents` has it, the best alone first; and the worst equilibrium of all."""
    if isinstance(found, Found):
        people, worst = summary.agents(found), float(summary.whole(found.rows)["normalised_worst"])
    else:
        worth = found.full - found.none if found.full > found.none else np.nan
        worst = (found.worst - found.none) / worth
        values = {"monopoly": found.monopoly, "without": found.without}
        people = pd.DataFrame({f"normalised_{name}": (x - found.none) / worth for name, x in values.items()})
        people = people.assign(name=plain_labels("agents", len(people)))
    if names is not None:
        if not (
            isinstance(names, list | tuple) and len(names) == len(people) and all(isinstance(x, str) for x in names)
        ):
            raise ValueError(f"names: expected a list of {len(people)} words, one an agent, got {shown(names)}")
        people = people.assign(name=list(names))
    return people.sort_values("normalised_monopoly", ascending=False, kind="stable"), worst


def _agents(ax: Axes, people: pd.DataFrame, worst: float) -> None:
    named, y = len(people) <= NAMED, np.arange(len(people))
    alone = ROLES["alone"]["color"]
    if "normalised_monopoly_low" in people:
        low, high = people["normalised_monopoly_low"], people["normalised_monopoly_high"]
        ax.hlines(y, low, high, color=alone, alpha=0.4, lw=2.2 if named else 0.8)
    ax.plot(people["normalised_monopoly"], y, "s", color=alone, ms=3.2 if named else 2, label="as the only agent")
    if np.isfinite(people["normalised_without"].to_numpy(float)).any():
        label = "worst equilibrium without it"
        ax.plot(people["normalised_without"], y, "x", color=COLOURS[0], ms=4 if named else 2.5, label=label)
    if np.isfinite(worst):
        ax.axvline(worst, color=ROLES["worst"]["color"], lw=1.3, label="worst equilibrium of all", zorder=1)
    for value, words, side in ((0, "nobody", "center"), (1, "all known", "right")):
        ax.axvline(value, color="0.6", lw=0.6, ls=":", zorder=0)
        ax.annotate(
            words, (value, 1), xycoords=("data", "axes fraction"), xytext=(0, 1.5), textcoords="offset points",
            ha=side, fontsize=style.SMALL, color=GREY,
        )  # fmt: skip
    ax.set_ylim(len(y) - 0.5, -0.5)
    ax.set_yticks(y if named else [], [style.shown(name, 18) for name in people["name"]] if named else [])
    ax.set_ylabel("" if named else f"{len(people)} agents, the best first")
    reach = people[["normalised_monopoly", "normalised_without"]].to_numpy(float)
    ax.set_xlim(min(-0.08, np.nanmin(reach, initial=0.0) - 0.05), max(1.08, np.nanmax(reach, initial=0.0) + 0.05))
    ax.set_xlabel(style.wrapped("user value (0 nobody, 1 all known)", 0.75 * style.inches(ax)[0]))
