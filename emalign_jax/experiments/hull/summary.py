"""What the experiment says: curves with confidence bands, who carries the weight, who is still covered."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from emalign_jax.experiments.hull.experiment import ALONE, METHODS, HullJob
from emalign_jax.experiments.hull.fits import Rule
from emalign_jax.experiments.hull.removal import MANY

CONFIDENCE = 0.95
LISTED = 10  # agents shown
ROUNDING = 1e-6  # the default tolerance is at least so much of what targets leave without any agent
MARGIN = 1.1  # the default tolerance: so many times the median error with all agents


def curves(job: HullJob, errors: pd.DataFrame) -> pd.DataFrame:
    """A line an (offset, method, n): means of held_out, in_sample and over_mean (how much smaller the held-out error
    is than the plain mean's, pair by pair), each with the ends _low, _high of its confidence band."""
    plain = errors.loc[errors["method"] == "mean"].set_index(["offset", "agents", "subset", "target"])["held_out"]
    at = pd.MultiIndex.from_frame(errors.loc[:, ["offset", "agents", "subset", "target"]])
    errors = errors.assign(over_mean=plain.reindex(at).to_numpy(float) - errors["held_out"].to_numpy(float))
    lines = []
    for offset in job.offsets:
        for method in (ALONE, *METHODS):
            part = errors.loc[(errors["offset"] == offset) & (errors["method"] == method)]
            for n, group in part.groupby("agents"):
                line = {"offset": offset, "method": method, "agents": n, "targets": group["target"].nunique()}
                line |= {
                    "subsets": group["subset"].nunique(),
                    "fits": len(group),
                    "failed": int((~group["solved"]).sum()),
                }
                group = group.loc[group["solved"].to_numpy(bool)]
                for name in ("held_out", "in_sample", "over_mean"):
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
    """Shares of targets whose error is within the tolerance: with all agents, without any one, without any five."""
    known = left.loc[left["error"].notna()]
    tolerance = job.tolerance
    if tolerance is None:
        targets = job.table.utilities[job.table.targets]
        rounding = ROUNDING * float(np.median(Rule(job.main_offset, job.norm).best_error(targets)))
        tolerance = max(MARGIN * float(known["error"].median()), rounding)
    limit = tolerance * (1 + 1e-9) + 1e-300
    five = known.loc[known["without_five_lower"].notna() & known["without_five_upper"].notna()]

    def share(values):
        return float((values <= limit).mean()) if len(values) else math.nan

    low, high = share(five["without_five_upper"]), share(five["without_five_lower"])
    return {
        "tolerance": tolerance,
        "agents": job.sizes[-1],
        "offset": job.main_offset,
        "targets": len(known),
        "covered": share(known["error"]),
        "covered_without_any_one": share(known["without_one"]) if job.sizes[-1] > 1 else math.nan,
        "five_targets": len(five),
        "five_covered": share(five["error"]),
        "covered_without_any_five_lower": low,
        "covered_without_any_five_upper": high,
        "covered_without_any_five_exact": bool(len(five) and low == high),
    }


def render(job: HullJob, lines: pd.DataFrame) -> str:
    """The curves as text that lines up, a block an offset."""
    text = []
    what = "RMS error" if job.norm == "l2" else "largest error"
    for offset in job.offsets:
        part = lines.loc[lines["offset"] == offset]
        text += [f"Offset {offset}: held-out {what} (in brackets: in-sample)", ""]
        head = f"{'n':>4}" + "".join(f"  {name:>19}" for name in METHODS) + f"  {'simplex over mean, 95 % band':>30}"
        text += [head, "-" * len(head)]
        for n in job.sizes:
            at = part.loc[part["agents"] == n].set_index("method")
            cells = "".join(
                f"  {_number(at['held_out'][name]):>8} ({_number(at['in_sample'][name]):>8})" for name in METHODS
            )
            gain = [at[f"over_mean{end}"]["simplex"] for end in ("", "_low", "_high")]
            text.append(f"{n:>4}{cells}  {_number(gain[0]):>9} [{_number(gain[1]):>8}, {_number(gain[2]):>8}]")
        alone = part.loc[part["method"] == ALONE, "held_out"].iloc[0]
        text += [
            f"No agent at all ({'the utility itself' if offset == 'none' else 'the offset alone'}): {_number(alone)}",
            "",
        ]
    return "\n".join(text)


def verdict(job: HullJob, lines: pd.DataFrame) -> str:
    """Is a weighting of the agents worth more than their plain mean? On held-out items, beyond the band."""
    at = lines.loc[
        (lines["offset"] == job.main_offset) & (lines["method"] == "simplex") & (lines["agents"] == job.sizes[-1])
    ]
    gain, low, high = (float(at[f"over_mean{end}"].iloc[0]) for end in ("", "_low", "_high"))
    n = f"{job.sizes[-1]} agent" + "s" * (job.sizes[-1] > 1)
    if not math.isfinite(low):
        return f"With {n} (offset {job.main_offset}): simplex weights against the plain mean: {_number(gain)}, no band."
    word = "beat" if low > 0 else "lose to" if high < 0 else "are not told apart from"
    return (
        f"With {n} (offset {job.main_offset}), simplex weights {word} the plain mean on held-out items: "
        f"the mean's error less theirs is {_number(gain)} [{_number(low)}, {_number(high)}]."
    )


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


def render_coverage(job: HullJob, found: dict) -> str:
    kind = "RMS" if job.norm == "l2" else "largest"
    default = "" if job.tolerance is not None else f", {MARGIN:g} x the median"
    text = [
        f"Covered: {kind} error within {_number(found['tolerance'])}{default}, simplex weights, offset "
        f"{found['offset']}, {found['agents']} agents, all {job.table.items}",
        f"  with all agents              {found['covered']:>6.1%} of {found['targets']} targets",
    ]
    if math.isfinite(found["covered_without_any_one"]):
        text.append(f"  after removing any one       {found['covered_without_any_one']:>6.1%} (exact)")
    if found["five_targets"]:
        low, high = (found[f"covered_without_any_five_{end}"] for end in ("lower", "upper"))
        share = (
            f"{low:>6.1%} (exact)"
            if found["covered_without_any_five_exact"]
            else f"{low:>6.1%} at least, {high:.1%} at most (bounds)"
        )
        of = (
            ""
            if found["five_targets"] == found["targets"]
            else f" of {found['five_targets']} targets, of whom all agents cover {found['five_covered']:.1%}"
        )
        text.append(f"  after removing any {MANY:<9} {share}{of}")
    return "\n".join(text)


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e3 else f"{value:.1e}"
