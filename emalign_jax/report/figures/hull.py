"""Weighted agents in place of a user: held-out error against the number of agents, and what removing agents does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emalign_jax.experiments.hull.experiment import FITTED, HullJob
from emalign_jax.internal.arguments import NOT_NEGATIVE, boolean, choice, number, shown
from emalign_jax.report import style
from emalign_jax.report.look import Look
from emalign_jax.report.style import COLOURS, DASHED, GREY

# What a line is called, its colour and marker, and how far beside n it is drawn: markers must not hide each other.
METHODS = {
    "best single": ("best single agent", GREY, "s", 0.97),
    "mean": ("plain mean", COLOURS[2], "D", 0.99),
    "simplex": ("simplex weights", COLOURS[0], "o", 1.01),
    "cone": ("cone weights", COLOURS[1], "^", 1.03),
}
ERRORS = {"l2": "RMS error", "sup": "largest error"}
OFFSETS = {"none": "no offset", "constant": "constant offset", "per_state": "an offset a prompt"}


@style.styled
def hull_curves(curves: pd.DataFrame, *, offset: str | None = None, norm: str = "l2", ax: Any = None) -> Axes:
    """The error of weighted agents on held-out items against their number n; lower is better.

    Bands of 95 %; dashed the in-sample error of fitted weights; dotted that of no agent. Errors of cone weights may
    leave the axis at the top: as without a sum of 1 they are sometimes so large that nothing else could be told apart.

    Args:
        curves: curves.csv of a run of `emalign align`: columns offset, method, agents, held_out, ...
        offset: draw the lines of this offset; by default of the last one in the table.
        norm: "l2" or "sup", what the error is, for the axis.
        ax: matplotlib axes; by default new ones.

    Returns:
        The axes.

    Raises:
        ValueError: names the argument and the rule.

    Example:
        >>> import pandas as pd  # in earnest pd.read_csv("align-1/curves.csv")
        >>> line = {"offset": "none", "method": "simplex", "agents": [1, 5], "held_out": [0.8, 0.6], "in_sample": 0.4}
        >>> line |= {"held_out_low": [0.7, 0.5], "held_out_high": [0.9, 0.7], "no_agent": 1.0}
        >>> type(em.plot.hull_curves(pd.DataFrame(line))).__name__
        'Axes'

    Source: section 7 of docs/model.md.
    """
    ends = ("held_out", "held_out_low", "held_out_high", "in_sample", "no_agent")
    curves = style.frame("curves", curves, ("offset", "method", "agents", *ends))
    known = list(dict.fromkeys(curves["offset"]))
    if offset is not None and not (isinstance(offset, str) and offset in known):
        raise ValueError(f"offset: expected one of {style.shown(', '.join(map(str, known)))}, got {shown(offset)}")
    choice("norm", norm, ERRORS)
    own = style.axes_of(ax)
    own.set_ylim(*_curves(own, curves.loc[curves["offset"] == (offset or known[-1])], main=True))
    own.set_ylabel(f"{ERRORS[norm]}, held out\n(lower is better)")
    return style.key(own, ax)


@style.styled
def agents_removed(
    left: pd.DataFrame, *, tolerance: float | None = None, relative: bool = True, ax: Any = None
) -> Axes:
    """The share of targets that weighted agents fit with at most some error, with all agents and with some removed.

    Lines: with all agents, after removing any one, and after removing any five of them.

    Args:
        left: leave_out.csv of a run of `emalign align`: columns error, no_agent, without_one, ...
        tolerance: the error up to which a target is covered; None: none is drawn.
        relative: whether errors are counted as shares of that with no agent.
        ax: matplotlib axes; by default new ones.

    Returns:
        The axes.

    Raises:
        ValueError: names the argument and the rule.

    Example:
        >>> import pandas as pd  # in earnest pd.read_csv("align-1/leave_out.csv")
        >>> left = pd.DataFrame({"error": [0.1, 0.2], "no_agent": [1.0, 1.0], "without_one": [0.2, 0.3]})
        >>> left = left.assign(without_five_lower=[0.3, 0.4], without_five_upper=[0.3, 0.4])
        >>> type(em.plot.agents_removed(left, tolerance=0.25)).__name__
        'Axes'

    Source: section 7 of docs/model.md.
    """
    left = style.frame("left", left, ("error", "no_agent", "without_one", "without_five_lower", "without_five_upper"))
    boolean("relative", relative)
    if tolerance is not None:
        tolerance = number("tolerance", tolerance, *NOT_NEGATIVE)
    own = style.axes_of(ax)
    unit = left["no_agent"].to_numpy(float) if relative else 1.0
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = {name: left[name].to_numpy(float) / unit for name in left if name.startswith(("error", "without"))}
    for column, colour, dash, label in (
        ("error", GREY, "-", "with all agents"),
        ("without_one", COLOURS[0], DASHED, "without any one"),
    ):
        values = errors[column][np.isfinite(errors[column])]
        if len(values):
            own.ecdf(values, color=colour, ls=dash, label=label)
    bounds = [errors[f"without_five_{end}"] for end in ("lower", "upper")]
    known = np.isfinite(bounds[0]) & np.isfinite(bounds[1])
    if known.any():
        low, high = (np.sort(values[known]) for values in bounds)
        share = np.arange(1, known.sum() + 1) / known.sum()
        own.fill_betweenx(share, low, high, step="pre", color=COLOURS[1], alpha=0.2, lw=0)
        for values in (low, high):
            own.ecdf(values, color=COLOURS[1], lw=0.9)
        same = np.array_equal(low, high)
        own.plot([], [], color=COLOURS[1], label="without any five" + ("" if same else " (bounds)"))
    if tolerance is not None:
        own.axvline(tolerance, color="0.6", lw=0.8, ls=":", zorder=0)
        place: dict[str, Any] = {"xytext": (2, 3), "textcoords": "offset points", "fontsize": style.SMALL}
        own.annotate("tolerance", (tolerance, 1.0), color=GREY, **place)
    own.set_ylim(0, 1.1)
    own.set_xlabel("error, all items" + " / no agent's" * relative)
    own.set_ylabel("one target" if len(left) == 1 else "share of targets\nat or below")
    if len(left) == 1:
        own.set_yticks([])
    return style.key(own, ax)


@style.styled
def figure(job: HullJob, lines: pd.DataFrame, left: pd.DataFrame, title: str, look: Look) -> Figure:
    """A panel an offset, and what removing agents does. lines, left: of `summary.curves` and `removal.leave_out`"""
    removed, narrow = bool(left["error"].notna().any()), look.width < 4.5
    count = len(job.offsets)
    across = 1 if narrow else min(count, 2)
    down = -(-count // across)
    parts = [2.2 * down, 2.1][: 1 + removed]
    whole = Figure(figsize=(look.width, sum(parts)), layout="constrained")
    above, *under = whole.subfigures(1 + removed, 1, height_ratios=parts, squeeze=False).ravel()
    _, axes = style.panels(count, width=look.width, figure=above, share=True)
    limits = []
    for ax, offset in zip(axes, job.offsets, strict=True):
        part = lines.loc[lines["offset"] == offset]
        limits.append(_curves(ax, part, main=offset == job.main_offset))
        ax.set_title(f"{OFFSETS[offset]}\n{_gain(part, job.sizes[-1])}")
        ax.set_xlabel("random agents n" if job.table.overlap is None else "agents n with most in common")
    axes[0].set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    style.left_label(axes, f"{ERRORS[job.norm]}, held out\n(lower is better)")
    style.legend(whole, axes, above)
    if removed:
        ax = under[0].subplots()
        relative = job.tolerance is None
        agents_removed(left, tolerance=job.relative_tolerance if relative else job.tolerance, relative=relative, ax=ax)
        ax.set_title(f"agents removed (n = {job.sizes[-1]}, simplex weights)")
    style.title(whole, title, 5)
    return whole


@style.styled
def draw(job: HullJob, lines: pd.DataFrame, left: pd.DataFrame, paths: list[Path], title: str, look: Look) -> list[str]:
    """Write the figure to each of `paths`; returns their names."""
    return style.save(figure(job, lines, left, title, look), *paths)


def _gain(part: pd.DataFrame, most: int) -> str:
    one = part.loc[part["method"] == "simplex"].sort_values(by="agents")
    gain = [float(one[f"over_none{end}"].iloc[-1]) for end in ("", "_low", "_high")]
    words = f"no agent less simplex, n = {most}:\n{gain[0]:.3g}"
    return words + (f" [{gain[1]:.3g}, {gain[2]:.3g}]" if np.isfinite(gain[1]) else "")


def _curves(ax: Axes, lines: pd.DataFrame, main: bool) -> tuple[float, float]:
    """Bands and lines; returns limits of the error axis. main: whether to keep the line of no agent within them, which
    without any offset may be far above all others."""
    within = []
    for method, (name, colour, marker, dodge) in METHODS.items():
        part = lines.loc[lines["method"] == method].sort_values(by="agents")
        n = part["agents"].to_numpy(float) * dodge
        held, low, high, inside = (
            part[column].to_numpy(float) for column in ("held_out", "held_out_low", "held_out_high", "in_sample")
        )
        ax.fill_between(n, low, high, color=colour, alpha=0.2, lw=0)
        ax.plot(n, held, color=colour, marker=marker, ms=3.2, label=name)
        if method in FITTED:
            ax.plot(n, inside, color=colour, lw=0.9, ls=DASHED)
            within += [*inside]
        if method != "cone":
            within += [*held, *low, *high]
    one = lines.loc[lines["method"] == "simplex"].sort_values(by="agents")
    alone, sizes = one["no_agent"].to_numpy(float), one["agents"].to_numpy(int)
    if main:
        within += [*alone]
    ax.plot(sizes, alone, color=GREY, lw=1.2, ls=":", label="no agent (dashed lines: in-sample)", zorder=0)
    style.log_counts(ax, sizes.tolist())
    ax.set_xlabel("random agents n")
    known = np.array(within)[np.isfinite(within)]
    low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
    pad = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return max(0.0, low - pad), high + pad
