"""What `emalign align` leaves, on the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from emalign_jax.experiments import manifests
from emalign_jax.experiments.hull import text as texts
from emalign_jax.experiments.hull.experiment import CURVES, WEIGHTS
from emalign_jax.experiments.manifests import MANIFEST
from emalign_jax.report.page.rows import Rows
from emalign_jax.report.page.tables import Table, read_csv, share, table, text
from emalign_jax.result.columns import Column

COLUMNS = (
    Column("offset", "text", "what each fit may add: nothing, a constant, or a number for each item"),
    Column("method", "text", "how n agents are combined"),
    Column("agents", "whole", "number of random agents n", label="n"),
    Column("held_out", "number", "error on items that were held out", label="held-out error"),
    Column("held_out_low", "number", "its 95 % interval, from", label="95 % from"),
    Column("held_out_high", "number", "its 95 % interval, to", label="to"),
    Column("in_sample", "number", "error on the items that were fitted to", label="in-sample"),
    Column("no_agent", "number", "error of the offset alone", label="no agent"),
    Column("items", "number", "items that were fitted to"),
    Column("targets", "whole", "people whose utility was fitted"),
    Column("fits", "whole", "fits that the means are of"),
    Column("failed", "whole", "fits that were not solved"),
)


def read(directory: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    facts = manifest.get("table", {})
    kinds: dict[str, list[str]] = {"text": [], "number": [], "whole": []}
    for column in COLUMNS:
        kinds[column.kind].append(column.name)
    curves = read_csv(directory / CURVES, kinds["text"], kinds["number"], kinds["whole"])
    weights = read_csv(directory / WEIGHTS, ["agent"], ["mean_weight", "share_used"], ["fits"])
    weights["agent"] = weights["agent"].map(texts.plain)
    left_out = facts.get("left_out")
    source = Path(str(manifest["config"].get("table", "a table"))).name
    people = [
        Column("agent", "text", "name of the agent"),
        Column("mean_weight", "number", "mean simplex weight", label="mean weight"),
        Column("share_used", "number", "share of the fits in which the weight is not zero", label="share used"),
        Column("fits", "whole", "fits that could use the agent"),
    ]
    return {
        "title": f"Is the user in the hull? {source}",
        "tables": [
            table("Errors of n random agents", curves, {each.name: each.label or each.name for each in COLUMNS}),
            table("Who carries the weight", weights, {name: name.replace("_", " ") for name in weights}),
            _covered(manifest.get("coverage", {}), directory / MANIFEST),
        ],
        "rows": [
            Rows("Errors", "curve point", curves, COLUMNS, [column.name for column in COLUMNS[:10]],
                 ["offset", "method", "agents"], "agents", "held_out", "method"),
            Rows("Agents", "agent", weights, people, [column.name for column in people], [], "mean_weight",
                 "share_used", ""),
        ],
        "notes": [
            str(note)
            for note in (manifest.get("verdict"), *(left_out if isinstance(left_out, list) else ()))
            if note is not None
        ],
        "failed": int(np.sum(curves["failed"].to_numpy())),
    }  # fmt: skip


def _covered(found: dict[str, Any], path: Path) -> Table:
    """Shares of the targets that simplex weights of all agents, or of those left, fit within the tolerance."""

    def share_of(name: str) -> str:
        value = found.get(name)
        if isinstance(value, bool):  # of a single target
            return "yes" if value else "no"
        return share(manifests.number(path, found, f"coverage.{name}"))

    caption = f"Who is still covered: error at most {text(found.get('tolerance'))}"
    caption += f"{' x that of no agent' if found.get('relative') else ''} on all items, simplex weights"
    caption += f" of {found.get('agents', '?')} agents, offset {found.get('offset', '?')}"
    rows = [["with all agents", share_of("covered"), text(found.get("targets"))]]
    if found.get("covered_without_any_one") is not None:
        rows.append(["after removing any one (exact)", share_of("covered_without_any_one"), rows[0][2]])
    if found.get("five_targets"):
        low, high = (share_of(f"covered_without_any_five_{end}") for end in ("lower", "upper"))
        exact = found.get("covered_without_any_five_exact")
        what = f"after removing any five ({'exact' if exact else 'at least, at most'})"
        rows.append([what, low if exact else f"{low} to {high}", text(found["five_targets"])])
        if found["five_targets"] != found.get("targets"):
            rows.append(["with all agents, of these targets", share_of("five_covered"), text(found["five_targets"])])
    return Table(caption, ["", "share covered", "targets"], rows)
