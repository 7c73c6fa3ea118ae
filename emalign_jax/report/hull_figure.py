"""The figure: held-out error against the number of agents, a panel an offset, and what removing agents does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from emalign_jax.experiments.hull.experiment import FITTED, HullJob
from emalign_jax.report.drawing import save
from emalign_jax.report.search_figure import COLOURS

# colour, marker, and how far beside n it is drawn, so that markers do not hide each other
STYLES = {
    "best single": (COLOURS[4], "s", 0.97),
    "mean": (COLOURS[2], "D", 0.99),
    "simplex": (COLOURS[0], "o", 1.01),
    "cone": (COLOURS[1], "^", 1.03),
}
NAMES = {"best single": "best single agent", "mean": "plain mean", "simplex": "simplex", "cone": "cone"}
OFFSETS = {"none": "no offset", "constant": "constant offset", "per_state": "an offset a prompt"}


def draw(job: HullJob, lines: pd.DataFrame, left: pd.DataFrame, paths: list[Path], title: str) -> list[str]:
    """Write the figure to each of `paths` (.png, .pdf); their names.

    lines, left: of `report.curves` and `removal.leave_out`."""
    count = len(job.offsets)
    removed = bool(left["error"].notna().any())
    figure = Figure(figsize=(3.7 * (count + removed) + 0.4, 4.1), layout="constrained")
    parts = figure.subfigures(1, 1 + removed, squeeze=False, width_ratios=[count, 1][: 1 + removed])[0]
    axes = parts[0].subplots(1, count, squeeze=False, sharey=True)[0]
    limits = np.array(
        [
            _curves(axis, job, lines.loc[lines["offset"] == offset], OFFSETS[offset])
            for axis, offset in zip(axes, job.offsets, strict=True)
        ]
    )
    axes[0].set_ylim(limits[:, 0].min(), limits[:, 1].max())
    axes[0].set_ylabel("RMS error" if job.norm == "l2" else "largest error")
    if removed:
        _removed(parts[1].subplots(), job, left)
    for part in parts:
        handles, labels = part.axes[0].get_legend_handles_labels()
        style = {"fontsize": 8, "handlelength": 1.6, "columnspacing": 1.2}
        part.legend(handles, labels, frameon=False, loc="outside lower center", ncols=len(labels), **style)
        for axis in part.axes:
            axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=10.5)
    return save(figure, paths)


def _curves(axis, job: HullJob, lines: pd.DataFrame, title: str) -> tuple[float, float]:
    """Bands and lines of held-out errors; dashed the in-sample ones of fitted weights.

    Returns limits of the error axis: held-out errors of the cone may leave them at the top, as without a sum of 1 they
    are sometimes so large that nothing else could be told apart."""
    shown = []
    for method, (colour, marker, dodge) in STYLES.items():
        part = lines.loc[lines["method"] == method].sort_values(by="agents")
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
    one = lines.loc[lines["method"] == "simplex"].sort_values(by="agents")
    alone = one["no_agent"].to_numpy(float)
    if lines["offset"].iloc[0] == job.main_offset:  # without any offset it may be far above all others
        shown += [*alone]
    axis.plot([], [], color="0.3", lw=1.1, ls=(0, (3, 2)), label="in-sample")
    axis.plot(job.sizes, alone, color="0.45", lw=1.4, ls=":", label="no agent", zorder=0)
    axis.set_xscale("log")
    following = [*job.sizes[1:], np.inf]
    axis.set_xticks(
        job.sizes, [str(n) if after > 1.15 * n else "" for n, after in zip(job.sizes, following, strict=True)]
    )
    axis.minorticks_off()
    axis.set_xlabel("random agents n" if job.table.overlap is None else "agents n with most in common")
    gain = [one[f"over_none{end}"].iloc[-1] for end in ("", "_low", "_high")]
    words = f"no agent less simplex, n = {job.sizes[-1]}: {gain[0]:.3g}"
    words += f" [{gain[1]:.3g}, {gain[2]:.3g}]" if np.isfinite(gain[1]) else ""
    axis.set_title(f"{title}\n{words}", fontsize=8.5)
    shown = np.array(shown)[np.isfinite(shown)]
    low, high = (shown.min(), shown.max()) if len(shown) else (0.0, 1.0)
    pad = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return max(0.0, low - pad), high + pad


def _removed(axis, job: HullJob, left: pd.DataFrame) -> None:
    """The share of targets covered, against the tolerance."""
    single, relative = len(job.table.targets) == 1, job.tolerance is None
    unit = left["no_agent"].to_numpy(float) if relative else 1.0
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = {name: left[name].to_numpy(float) / unit for name in left if name.startswith(("error", "without"))}
    for column, colour, style, label in (
        ("error", "0.25", "-", "none"),
        ("without_one", COLOURS[0], (0, (4, 1.5)), "any one"),
    ):
        values = errors[column][np.isfinite(errors[column])]
        if len(values):
            axis.ecdf(values, color=colour, ls=style, lw=1.7, label=label)
    bounds = [errors[f"without_five_{end}"] for end in ("lower", "upper")]
    known = np.isfinite(bounds[0]) & np.isfinite(bounds[1])
    if known.any():
        exact = bool(left["without_five_exact"].to_numpy(bool)[known].all())
        low, high = (np.sort(values[known]) for values in bounds)
        share = np.arange(1, known.sum() + 1) / known.sum()
        axis.fill_betweenx(share, low, high, step="pre", color=COLOURS[1], alpha=0.2, lw=0)
        for values in (low, high):
            axis.ecdf(values, color=COLOURS[1], lw=1.1)
        axis.plot([], [], color=COLOURS[1], lw=1.7, label="any five" + ("" if exact else " (bounds)"))
    tolerance = job.relative_tolerance if relative else job.tolerance
    axis.axvline(tolerance, color="0.6", lw=0.9, ls=":", zorder=0)
    axis.annotate("tolerance", (tolerance, 1.0), xytext=(3, 4), textcoords="offset points", fontsize=8, color="0.4")
    axis.set_ylim(0, 1.1)
    axis.set_xlabel(("RMS" if job.norm == "l2" else "largest") + " error, all items" + (" / no agent's" * relative))
    axis.set_ylabel("one target" if single else "share of targets at or below")
    if single:
        axis.set_yticks([])
    axis.set_title(f"agents removed\n(n = {job.sizes[-1]}, simplex)", fontsize=8.5)
