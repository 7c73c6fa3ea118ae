"""Summaries of the experiment: curves with confidence bands, the weights of agents, targets that stay covered."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from emalign_jax.experiments.hull.experiment import METHODS, HullJob
from emalign_jax.experiments.hull.removal import MANY

CONFIDENCE = 0.95
LISTED = 10  # agents shown
AGAINST = {"over_mean": "the plain mean", "over_none": "no agent"}


def curves(job: HullJob, errors: pd.DataFrame) -> pd.DataFrame:
    """A line an (offset, method, n): means of held_out, in_sample, over_mean and over_none (how much smaller the
    held-out error is than the plain mean's and than with no agent, pair by pair), each with the ends _low, _high of its
    confidence band; and means of no_agent and of the numbers of items fitted to and held out."""
    plain = errors.loc[errors["method"] == "mean"].set_index(["offset", "agents", "subset", "target"])["held_out"]
    at = pd.MultiIndex.from_frame(errors.loc[:, ["offset", "agents", "subset", "target"]])
    held_out = errors["held_out"].to_numpy(float)
    errors = errors.assign(over_mean=plain.reindex(at).to_numpy(float) - held_out)
    errors = errors.assign(over_none=errors["no_agent"].to_numpy(float) - held_out)
    lines = []
    for offset, method, n in itertools.product(job.offsets, METHODS, job.sizes):
        which = (errors["offset"] == offset) & (errors["method"] == method) & (errors["agents"] == n)
        group = errors.loc[which]
        line = {"offset": offset, "method": method, "agents": n, "targets": group["target"].nunique()}
        line |= {"subsets": group["subset"].nunique(), "fits": len(group), "failed": int((~group["solved"]).sum())}
        group = group.loc[group["solved"].to_numpy(bool)]
        line |= {name: float(group[name].mean()) for name in ("items", "test_items", "no_agent")}
        for name in ("held_out", "in_sample", *AGAINST):
            values = group[name].to_numpy(float)
            mean, half = band(values, group["subset"].to_numpy(), group["target"].to_numpy())
            line |= {name: mean, f"{name}_low": mean - half, f"{name}_high": mean + half}
        lines.append(line | {"largest_gap": group["gap"].max()})
    return pd.DataFrame(lines)


def band(values: np.ndarray, subset: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Mean, and half the width of its confidence interval over subsets and targets, both random.

    Two-way clustered variance (Cameron, Gelbach and Miller 2011): that over subsets plus that over targets less that
    of single values, at least the larger of the two; a t quantile with one degree of freedom less than the fewer."""
    if len(values) == 0 or not np.isfinite(values).all():
        return math.nan, math.nan
    mean = values.mean()
    variances, degrees = [], []
    for cluster in (subset, target, np.arange(len(values))):
        code, inverse = np.unique(cluster, return_inverse=True)
        if len(code) > 1:
            sums = np.bincount(inverse, values - mean)
            variances.append((sums**2).sum() / len(values) ** 2 * len(code) / (len(code) - 1))
            degrees.append(len(code) - 1)
        else:
            variances.append(0.0)
    if not degrees:
        return float(mean), math.nan
    variance = max(variances[0] + variances[1] - variances[2], variances[0], variances[1])
    return float(mean), float(stdtrit(min(degrees), 0.5 + CONFIDENCE / 2) * math.sqrt(variance))


def coverage(job: HullJob, left: pd.DataFrame) -> dict:
    """Shares of targets whose error is within the tolerance: with all agents, without any one, without any five; of a
    single target whether it is."""
    known = left.loc[left["error"].notna()]
    relative = job.tolerance is None
    tolerance = job.relative_tolerance if job.tolerance is None else job.tolerance
    five = known.loc[known["without_five_lower"].notna() & known["without_five_upper"].notna()]

    def share(rows, name):
        within = rows[name] <= tolerance * (1 + 1e-9) * (rows["no_agent"] if relative else 1) + 1e-300
        if len(job.table.targets) == 1 and len(rows):
            return bool(within.iloc[0])
        return float(within.mean()) if len(rows) else math.nan

    low, high = share(five, "without_five_upper"), share(five, "without_five_lower")
    return {
        "tolerance": tolerance,
        "relative": relative,
        "agents": job.sizes[-1],
        "offset": job.main_offset,
        "targets": len(known),
        "covered": share(known, "error"),
        "covered_without_any_one": share(known, "without_one") if job.sizes[-1] > 1 else math.nan,
        "five_targets": len(five),
        "five_covered": share(five, "error"),
        "covered_without_any_five_lower": low,
        "covered_without_any_five_upper": high,
        "covered_without_any_five_exact": bool(len(five) and low == high),
    }


def render(job: HullJob, lines: pd.DataFrame) -> str:
    """The curves as text that lines up, a block an offset."""
    text, sparse = [], job.table.overlap is not None
    what = "RMS error" if job.norm == "l2" else "largest error"
    for offset in job.offsets:
        text += [f"Offset {offset}: held-out {what} (in brackets: in-sample)", ""]
        head = f"{'n':>4}" + (f"  {'targets':>7}  {'fitted to':>9}  {'held out':>8}" if sparse else "")
        head += f"  {'no agent':>8}" + "".join(f"  {name:>19}" for name in METHODS)
        head += f"  {'simplex over mean, 95 % band':>30}"
        text += [head, "-" * len(head)]
        for n in job.sizes:
            at = lines.loc[(lines["offset"] == offset) & (lines["agents"] == n)].set_index("method")
            one = at.loc["simplex"]
            used = f"  {one['targets']:>7}  {one['items']:>9.1f}  {one['test_items']:>8.1f}" if sparse else ""
            cells = "".join(
                f"  {_number(at['held_out'][name]):>8} ({_number(at['in_sample'][name]):>8})" for name in METHODS
            )
            gain = [_number(one[f"over_mean{end}"]) for end in ("", "_low", "_high")]
            text.append(
                f"{n:>4}{used}  {_number(one['no_agent']):>8}{cells}  {gain[0]:>9} [{gain[1]:>8}, {gain[2]:>8}]"
            )
        text.append("")
    alone = "the utility itself" if job.main_offset == "none" else "the offset alone"
    text.append(f"No agent: {alone}{', of the same targets and items' if sparse else ''}.")
    return "\n".join(text)


def verdict(job: HullJob, lines: pd.DataFrame) -> str:
    """Is a weighting of the agents worth more than their plain mean, and than the offset alone? On held-out items,
    beyond the band."""
    at = lines.loc[
        (lines["offset"] == job.main_offset) & (lines["method"] == "simplex") & (lines["agents"] == job.sizes[-1])
    ].iloc[0]
    found = []
    for name, other in AGAINST.items():
        gain, low, high = (float(at[f"{name}{end}"]) for end in ("", "_low", "_high"))
        word = "beat" if low > 0 else "lose to" if high < 0 else "are not told apart from"
        word, ends = (word, f"[{_number(low)}, {_number(high)}]") if math.isfinite(low) else ("against", "no band")
        found.append(f"{word} {other} (its error less theirs: {_number(gain)} {ends})")
    n = f"{job.sizes[-1]} agent" + "s" * (job.sizes[-1] > 1)
    return f"With {n} (offset {job.main_offset}), on held-out items, simplex weights {' and '.join(found)}."


def render_weights(weights: pd.DataFrame, n: int) -> str:
    width = max([5, *(len(str(name)) for name in weights["agent"].head(LISTED))])
    text = [f"Who carries the weight (simplex, n = {n}; 1/n = {1 / n:.3f}; means over targets who had the agent)", ""]
    text.append(f"{'agent':<{width}}  {'mean weight':>11}  {'in use':>7}  {'fits':>6}")
    for row in weights.head(LISTED).to_dict("records"):
        text.append(
            f"{row['agent']:<{width}}  {row['mean_weight']:>11.4f}  {row['share_used']:>7.1%}  {row['fits']:>6}"
        )
    if len(weights) > LISTED:
        text.append(f"... and {len(weights) - LISTED} more (weights.csv)")
    return "\n".join(text)


def tolerance_words(job: HullJob) -> str:
    """What an error must be at most for a target to be covered."""
    return f"{job.relative_tolerance:g} x that of no agent" if job.tolerance is None else f"{_number(job.tolerance)}"


def render_coverage(job: HullJob, found: dict, seconds: float | None = None) -> str:
    """seconds: that removing agents took"""
    kind = "RMS" if job.norm == "l2" else "largest"
    items = f"all {job.table.items}" + (" that all rated" if job.table.overlap is not None else "")
    targets = "one target" if isinstance(found["covered"], bool) else f"{found['targets']} targets"
    text = [
        f"Covered: {kind} error at most {tolerance_words(job)}, simplex weights, offset {found['offset']}, "
        f"{found['agents']} agents, {items}; {targets}",
        f"  with all agents              {share_words(found['covered'])}",
    ]
    if math.isfinite(found["covered_without_any_one"]):
        text.append(f"  after removing any one       {share_words(found['covered_without_any_one'])} (exact)")
    if found["five_targets"]:
        low, high = (share_words(found[f"covered_without_any_five_{end}"]) for end in ("lower", "upper"))
        exact = found["covered_without_any_five_exact"]
        share = f"{low} (exact" if exact else f"{low} at least, {high.strip()} at most (bounds"
        share += ", branch and bound" + (")" if seconds is None else f" in {seconds:.1f} s)")
        if found["five_targets"] != found["targets"]:
            of = share_words(found["five_covered"]).strip()
            share += f" of {found['five_targets']} targets, of whom all agents cover {of}"
        text.append(f"  after removing any {MANY:<9} {share}")
    return "\n".join(text)


def share_words(share: float | bool) -> str:
    """A share, or of a single target whether it is covered."""
    return ("   yes" if share else "    no") if isinstance(share, bool) else f"{share:>6.1%}"


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e3 else f"{value:.1e}"
