"""The figure: held-out error against the number of agents, a panel an offset, and what removing agents does."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from emalign_jax.hull.experiment import ALONE, FITTED, HullJob
from emalign_jax.search.figure import COLOURS

# colour, marker, and how far beside n it is drawn, so that markers do not hide each other
STYLES = {
    "best single": (COLOURS[4], "s", 0.97),
    "mean": (COLOURS[2], "D", 0.99),
    "simplex": (COLOURS[0], "o", 1.01),
    "cone": (COLOURS[1], "^", 1.03),
}
NAMES = {"best single": "best single agent", "mean": "plain mean", "simplex": "simplex", "cone": "cone"}
OFFSETS = {"none": "no offset", "constant": "constant offset", "per_state": "an offset a prompt"}


def draw(
    job: HullJob, lines: pd.DataFrame, left: pd.DataFrame, tolerance: float, path: str | os.PathLike, title: str
) -> None:
    panels = [*job.offsets, None] if left["error"].notna().any() else list(job.offsets)
    figure = Figure(figsize=(3.7 * len(panels) + 0.4, 4.1), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, offset in zip(axes, panels, strict=True):
        axis.spines[["top", "right"]].set_visible(False)
        if offset is None:
            _removed(axis, job, left, tolerance)
        else:
            _curves(axis, job, lines[lines["offset"] == offset], OFFSETS[offset])
    tops = [axis.get_ylim() for axis in axes[: len(job.offsets)]]
    for axis in axes[: len(job.offsets)]:
        axis.set_ylim(min(low for low, _ in tops), max(high for _, high in tops))
    axes[0].set_ylabel("RMS error" if job.norm == "l2" else "largest error")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8.5, loc="outside lower center", ncols=len(labels))
    figure.suptitle(title, fontsize=10.5)
    figure.savefig(path, dpi=160, format="png")


def _curves(axis, job: HullJob, lines: pd.DataFrame, title: str) -> None:
    """Bands and lines of held-out errors; dashed the in-sample ones of fitted weights."""
    shown = []
    for method, (colour, marker, dodge) in STYLES.items():
        part = lines[lines["method"] == method].sort_values(by="agents")
        n = part["agents"].to_numpy(float) * dodge
        held = part["held_out"].to_numpy(float)
        low, high = part["held_out_low"].to_numpy(float), part["held_out_high"].to_numpy(float)
        axis.fill_between(n, low, high, color=colour, alpha=0.2, lw=0)
        axis.plot(n, held, color=colour, marker=marker, ms=4.5, lw=1.7, label=NAMES[method])
        if method in FITTED:
            inside = part["in_sample"].to_numpy(float)
            axis.plot(n, inside, color=colour, lw=1.1, ls=(0, (3, 2)))
            shown += [*inside]
        if method != "cone":
            shown += [*held, *low, *high]
    nobody = lines[lines["method"] == ALONE]["held_out"].to_numpy(float)
    shown = np.array(shown)[np.isfinite(shown)]
    if len(shown):
        low, high = shown.min(), shown.max()
        pad = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        axis.set_ylim(max(0.0, low - pad), high + pad)
    axis.plot([], [], color="0.3", lw=1.1, ls=(0, (3, 2)), label="in-sample")
    axis.axhline(nobody[0], color="0.45", lw=1, ls=":", label="no agent", zorder=0)
    axis.set_xscale("log")
    axis.set_xticks(list(job.sizes), [str(n) for n in job.sizes])
    axis.minorticks_off()
    axis.set_xlabel("random agents n")
    axis.set_title(title, fontsize=9.5)


def _removed(axis, job: HullJob, left: pd.DataFrame, tolerance: float) -> None:
    """The share of targets covered, against the tolerance."""
    for column, colour, style, label in (
        ("error", "0.25", "-", "all agents"),
        ("without_one", COLOURS[0], (0, (4, 1.5)), "without any one"),
    ):
        values = left[column].to_numpy(float)
        values = values[np.isfinite(values)]
        if len(values):
            axis.ecdf(values, color=colour, ls=style, lw=1.7, label=label)
    bounds = [left[f"without_five_{end}"].to_numpy(float) for end in ("lower", "upper")]
    known = np.isfinite(bounds[0]) & np.isfinite(bounds[1])
    if known.any():
        exact = bool(left["without_five_exact"].to_numpy(bool)[known].all())
        low, high = (np.sort(values[known]) for values in bounds)
        share = np.arange(1, known.sum() + 1) / known.sum()
        axis.fill_betweenx(share, low, high, step="pre", color=COLOURS[1], alpha=0.2, lw=0)
        for values in (low, high):
            axis.ecdf(values, color=COLOURS[1], lw=1.1)
        axis.plot([], [], color=COLOURS[1], lw=1.7, label="without any five" + ("" if exact else " (bounds)"))
    axis.axvline(tolerance, color="0.6", lw=0.9, ls=":", zorder=0)
    axis.annotate("tolerance", (tolerance, 1.0), xytext=(3, 0), textcoords="offset points", fontsize=8, color="0.4")
    axis.set_ylim(0, 1.05)
    axis.set_xlabel(("RMS" if job.norm == "l2" else "largest") + " error, all items")
    axis.set_ylabel("share of targets at or below")
    axis.set_title(f"removing agents (n = {job.sizes[-1]}, simplex)", fontsize=9.5)
    axis.legend(frameon=False, fontsize=8, loc="lower right")
