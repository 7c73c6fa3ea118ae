"""What a run directory holds, as sections of tables and figures; nothing is computed but summaries."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from emalign_jax.experiments import columns, manifests, run_store
from emalign_jax.experiments.grid import table as search_table
from emalign_jax.experiments.grid.merge import known_agents
from emalign_jax.experiments.hull import text
from emalign_jax.experiments.manifests import MANIFEST
from emalign_jax.internal import memory, parquet
from emalign_jax.internal.arguments import MOST
from emalign_jax.internal.files import check_input, is_regular


class Table(NamedTuple):
    """cells are text, numbers right-aligned; note: what is left out."""

    caption: str
    heads: list[str]
    rows: list[list[str]]
    note: str = ""


class Figure(NamedTuple):
    """png, pdf: what the files hold (pdf None if there is none)."""

    name: str
    caption: str
    png: bytes
    pdf: bytes | None


class Contents(NamedTuple):
    """What the page shows; `failed` counts what was not within the tolerance, `files` are the run's own."""

    title: str
    kind: str
    facts: list[tuple[str, str]]
    tables: list[Table]
    figures: list[Figure]
    notes: list[str]
    command: str
    manifest: str
    failed: int
    files: list[str]


def read(directory: Path) -> Contents:
    """The contents of a directory written by `search`, `sweep`, `study`, `align` or `market`.

    Raises `ValueError`, or `FileNotFoundError`, naming the file and what was expected.
    """
    check(directory)
    manifest = run_store.read(directory, tuple(KINDS))
    name, files = manifest["kind"], manifest["files"]
    kind = KINDS[name]
    if manifest["status"] != "done" or not (directory / kind.table).exists():
        raise ValueError(
            f"{directory / kind.table}: not there, the {name} has not ended; run {_command(manifest)} again"
        )
    for file in (kind.table, *files):
        if os.path.lexists(directory / file) and not (file in files and is_regular(directory / file)):
            raise ValueError(f"{directory / file}: expected a regular file that {MANIFEST} names")
    with np.errstate(all="ignore"):  # infinite or huge numbers are shown as they are
        found = kind.read(directory, manifest)
    return Contents(
        found.pop("title"), name, _facts(manifest) + found.pop("facts", []), found.pop("tables"),
        _figures(directory, files, kind.captions),
        found.pop("notes", []), _command(manifest), json.dumps(manifest, indent=2), found.pop("failed", 0), files,
    )  # fmt: skip


def check(directory: Path) -> None:
    """Raise `ValueError`, or `FileNotFoundError`, where there is no directory."""
    if not directory.exists():
        raise FileNotFoundError(f"{directory}: no such directory")
    if not directory.is_dir():
        raise ValueError(f"{directory}: expected the directory of a run or sweep, got a file")


READ = (  # columns that every search and sweep needs here
    "family", "agents", "game", "start", "normalised_value", "normalised_worst_equilibrium", "relative_gain", "seconds",
    "ok", "certified", "message",
)  # fmt: skip


def _parquet(path: Path, kinds: dict[str, str]) -> pd.DataFrame:
    rows = parquet.read(path, kinds)
    if not len(rows):
        raise ValueError(f"{path}: has no rows")
    return rows


def _csv(path: Path, words: list[str], numbers: list[str], whole: list[str]) -> pd.DataFrame:
    source = text.source(path, "utf-8")
    text.need(source, {name: name for name in (*words, *numbers, *whole)})
    rows = text.read(source, words, numbers + whole)
    for name in whole:
        values = rows[name].to_numpy(float)
        if not ((values == np.floor(values)) & (abs(values) < MOST)).all():
            raise ValueError(f"{path}: {name}: expected integers in every row")
        rows[name] = values.astype(int)
    return rows


# what each command leaves


def _search(directory: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    rows = _parquet(
        directory / "games.parquet", columns.kinds(columns.GAMES, (*READ, "monopoly_value", "result", "found_by"))
    )
    lines = search_table.summary(rows)
    config = manifest["config"]
    number = manifests.number(directory / MANIFEST, config, "config.solver.tolerance", 1e-3)
    tolerance = "the tolerance" if number is None else f"{number:g}"
    heads = {
        "family": "family", "agents": "K", "games": "games", "q10": "10 %", "median": "median", "q90": "90 %",
        "mean": "mean", "monopoly": "one agent alone", "within_tolerance": f"gain ≤ {tolerance}",
        "certified": "certified", "largest_gain": "largest gain", "seconds": "seconds",
    }  # fmt: skip
    return {
        "title": manifest.get("title") or "Search: user value",
        "facts": [("agents", ", ".join(names))] if (names := known_agents(directory)) else [],
        "tables": [
            _table("User value (0 no information, 1 full information), by family and K", lines, heads),
            *_unsolved(rows, tolerance),
        ],
        "notes": _verdicts(rows),
        "failed": int(np.sum(~rows["ok"].to_numpy(bool))),
    }


def _sweep(directory: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    from emalign_jax.experiments import plan
    from emalign_jax.experiments.grid import threshold
    from emalign_jax.report import sweep_table

    grid = plan.from_manifest(manifest["config"], str(directory / MANIFEST))
    axes = {name: grid.kind(name) for name in grid.axes}
    known = columns.kinds((columns.CELL, *columns.GAMES), (*READ, "cell", *sweep_table.MEANS.values()))
    rows = _parquet(directory / "games.parquet", known | axes)
    if rows["cell"].isna().any():
        raise ValueError(f"{directory / 'games.parquet'}: cell: expected the key of a cell in every row")
    lines = pd.DataFrame(sweep_table.summary(grid, rows))
    numbers = [name for name in grid.axes if lines[name].dtype.kind == "f"]
    lines[numbers] = lines[numbers].map("{:g}".format)
    stops = [[stop.family, str(stop.agents), threshold.words(grid, stop)] for stop in threshold.thresholds(grid, rows)]
    axes = {name: "K" if name == "games.agents" else name.split(".")[-1] for name in grid.axes}
    heads = axes | {
        "rows": "rows", "q10": "10 %", "median": "median", "q90": "90 %", "mean": "mean",
        **sweep_table.labels(),
        "ok": "within tolerance", "certified": "certified", "seconds": "seconds",
    }  # fmt: skip
    return {
        "title": grid.title,
        "tables": [
            _table("User value (0 no information, 1 full information), a line a cell", lines, heads),
            *([Table(threshold.explain(grid), ["family", "K", "beyond"], stops)] if stops else []),
            *_unsolved(rows, sweep_table.tolerance(grid), axes),
        ],
        "notes": _verdicts(rows),
        "failed": int(np.sum(~rows["ok"].to_numpy(bool))),
    }


def _study(directory: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    from emalign_jax.experiments.grid import study
    from emalign_jax.report import study_table

    made = study.from_manifest(manifest["config"], str(directory / MANIFEST))
    names = ("user_value", *study.ALONE.values(), "single_agents_certified", "rational_no_information",
             "rational_full_information")  # fmt: skip
    kinds = columns.kinds((columns.CELL, *columns.GAMES), (*READ, "cell", *names))
    rows = _parquet(directory / "games.parquet", kinds | {name: made.kind(name) for name in made.axes})
    games = study.by_game(made, rows)
    stops = [[study.name_of(stop), study.words(made, stop)] for stop in study.thresholds(made, games)]
    unproved = study.unproved(games)
    return {
        "title": made.title,
        "tables": [
            Table(study_table.NOTE, study_table.heads(made), study_table.cells(made, study.summary(made, games))),
            *([Table(study.EXPLANATION, ["users", "beyond"], stops)] if stops else []),
            *_unsolved(rows, "the tolerance", {name: name for name in (study.USERS, study.STRENGTH)}),
        ],
        "notes": [f"In {unproved} of {len(games)} games not all values are certified; they are in the means."],
        "failed": int(np.sum(~rows["ok"].to_numpy(bool))),
    }


def _align(directory: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    facts = manifest.get("table", {})
    names = {"offset": "offset", "method": "method", "agents": "n", "held_out": "held-out error"}
    ends = {"held_out_low": "95 % from", "held_out_high": "to", "in_sample": "in-sample"}
    ends |= {"no_agent": "no agent", "items": "items fitted to"}
    whole = ["agents", "targets", "fits", "failed"]
    curves = _csv(directory / "curves.csv", ["offset", "method"], ["held_out", *ends], whole)
    weights = _csv(directory / "weights.csv", ["agent"], ["mean_weight", "share_used"], ["fits"])
    weights["agent"] = weights["agent"].map(text.plain)
    left_out = facts.get("left_out")
    source = Path(str(manifest["config"].get("table", "a table"))).name
    return {
        "title": f"Is the user in the hull? {source}",
        "tables": [
            _table("Errors of n random agents", curves, names | ends | {name: name for name in whole[1:]}),
            _table("Who carries the weight", weights, {name: name.replace("_", " ") for name in weights}),
            _covered(manifest.get("coverage", {}), directory / MANIFEST),
        ],
        "notes": [
            str(note)
            for note in (manifest.get("verdict"), *(left_out if isinstance(left_out, list) else ()))
            if note is not None
        ],
        "failed": int(np.sum(curves["failed"].to_numpy())),
    }


def _market(directory: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    from emalign_jax.experiments.market import experiment, summary

    rows, people = (experiment.read_rows(directory, name) for name in experiment.TABLES)
    facts = {"target": "the target"} | manifest.get("table", {})
    left_out = facts.get("left_out")
    config = {"market.target_value": None} | manifest["config"]
    if not ((rows["resample"] == 0) & (rows["kind"] == "all")).any() or not (people["resample"] == 0).any():
        raise ValueError(f"{directory / 'markets.parquet'}: resample, kind: expected the market of the table itself")
    found = summary.document(experiment.Found(directory, rows, people, facts, config, False, 0.0))
    values = pd.DataFrame(
        {"": words, "value": found["user"][name], "0 to 1": found["normalised"].get(name),
         "95 % from": found["intervals"]["user"][name][0], "to": found["intervals"]["user"][name][1]}
        for name, words in summary.WORDS.items()
    )  # fmt: skip
    hull = pd.DataFrame([found["hull"]])
    curves, agents, entering = (pd.DataFrame(found[name]) for name in ("curves", "agents", "entering"))
    heads = {"agents": "n", "subsets": "subsets"}
    for name, head in (("normalised_worst", "worst equilibrium, 0 to 1"), ("hull_error", "hull error, held out")):
        heads |= {name: head, f"{name}_low": "95 % from", f"{name}_high": "to"}
    people_heads = {"name": "agent", "monopoly": "alone", "without": "worst equilibrium without it", "change": "change"}
    return {
        "title": manifest.get("title") or f"A market for {facts['target']}",
        "tables": [
            _table("The user's value", values, {name: name for name in values}),
            _table("The hull", hull, {"error": "error held out", "no_agent": "without any agent", "eps": "eps",
                                      "slack": "coverage slack"}),
            _table("Against the number of agents", curves, heads),
            _table("Agents", agents, people_heads),
            *([_table("Entering", entering, {"name": "agent", "worst": "worst equilibrium", "change": "change"})]
              * bool(len(entering))),
        ],
        "notes": [str(note) for note in (found["warning"], *(left_out if isinstance(left_out, list) else ())) if note],
        "failed": found["summary"]["failed"],
    }  # fmt: skip


def _covered(found: dict[str, Any], path: Path) -> Table:
    """Shares of the targets that simplex weights of all agents, or of those left, fit within the tolerance."""

    def share(name: str) -> str:
        value = found.get(name)
        if isinstance(value, bool):  # of a single target
            return "yes" if value else "no"
        return _share(manifests.number(path, found, f"coverage.{name}"))

    caption = f"Who is still covered: error at most {_text(found.get('tolerance'))}"
    caption += f"{' x that of no agent' if found.get('relative') else ''} on all items, simplex weights"
    caption += f" of {found.get('agents', '?')} agents, offset {found.get('offset', '?')}"
    rows = [["with all agents", share("covered"), _text(found.get("targets"))]]
    if found.get("covered_without_any_one") is not None:
        rows.append(["after removing any one (exact)", share("covered_without_any_one"), rows[0][2]])
    if found.get("five_targets"):
        low, high = (share(f"covered_without_any_five_{end}") for end in ("lower", "upper"))
        exact = found.get("covered_without_any_five_exact")
        what = f"after removing any five ({'exact' if exact else 'at least, at most'})"
        rows.append([what, low if exact else f"{low} to {high}", _text(found["five_targets"])])
        if found["five_targets"] != found.get("targets"):
            rows.append(["with all agents, of these targets", share("five_covered"), _text(found["five_targets"])])
    return Table(caption, ["", "share covered", "targets"], rows)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


class Kind(NamedTuple):
    """table: the file that is there once the run has ended; captions by the stem of the figure's name."""

    table: str
    read: Callable[[Path, dict[str, Any]], dict[str, Any]]
    captions: dict[str, str]


VALUE = "User value: 0 with no information, 1 with full information."
PHASE = "Coloured by the value in the worst equilibrium (by what was found, where that is not known); the lines bound "
PHASE += "where a guarantee says no more than no information gives."
MARKET = "Value in the worst equilibrium and error of the hull against the number of random agents; the agents alone, "
MARKET += "and the market without each. 0: nobody is asked, 1: all that the agents know. Bands: resampled prompts."
STUDY = "What each kind of user gets from whom, the further from the textbook the further to the right. Bars: 95 % "
STUDY += "intervals of competition less the best single agent; grey: where competition stops helping, 95 %."
KINDS = {
    "sweep": Kind("games.parquet", _sweep, {"user_value": VALUE, "phase": PHASE}),
    "study": Kind("games.parquet", _study, {"study": STUDY}),
    "align": Kind("curves.csv", _align, {"hull": "Error against the number of agents, and with agents removed."}),
    "search": Kind("games.parquet", _search, {"user_value": VALUE}),
    "market": Kind("markets.parquet", _market, {"market": MARKET}),
}


def _figures(directory: Path, files: list[str], captions: dict[str, str]) -> list[Figure]:
    figures = []
    there = sorted(directory / name for name in files if name.endswith(".png") and (directory / name).exists())
    for path in sorted(there, key=lambda path: [*captions, path.stem].index(path.stem)):  # main ones first
        pdf = path.with_suffix(".pdf")
        data = _bytes(pdf) if pdf.name in files and pdf.exists() else None
        figures.append(Figure(path.stem, captions.get(path.stem, ""), _bytes(path), data))
    return figures


def _bytes(path: Path) -> bytes:
    """All of a file; on the page it takes a few times its size."""
    check_input(path, "a file")
    memory.require(8 * path.stat().st_size, f"{path}: a file of {memory.size(path.stat().st_size)}")
    return path.read_bytes()


def _facts(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    device, machine = manifest.get("device", {}), manifest.get("machine", {})
    versions = ", ".join(f"{name} {number}" for name, number in manifest.get("versions", {}).items())
    facts = [
        ("made", manifest.get("created")),
        ("seconds of work", manifest.get("seconds")),
        ("seed", manifest.get("seed")),
        ("device", " ".join(str(device[name]) for name in ("count", "platform", "kind") if name in device)),
        ("machine", f"{machine.get('system', '')}, {machine.get('processors', '?')} processors" if machine else None),
        ("versions", versions),
    ]
    return [(name, _text(value)) for name, value in facts if value not in (None, "")]


def _command(manifest: dict[str, Any]) -> str:
    command = manifest["command"]
    return shlex.join(map(str, command)) if isinstance(command, list) else str(command)


def _unsolved(rows: pd.DataFrame, tolerance: str, axes: dict[str, str] | None = None) -> list[Table]:
    """tolerance: of the payoff range, in words; axes: further columns that tell rows apart."""
    bad = rows.loc[~rows["ok"].to_numpy(bool)]
    if not len(bad):
        return []
    own = {name: head for name, head in (axes or {}).items() if name not in ("games.family", "games.agents")}
    heads = {"family": "family", "agents": "K"} | own | {"game": "game", "start": "start"}
    heads |= {"relative_gain": "largest gain", "message": "why"}
    return [_table(f"Not within {tolerance} of the payoff range", bad, heads)]


def _verdicts(rows: pd.DataFrame) -> list[str]:
    """What a reader must know of the certificates before the numbers are quoted."""
    ok = rows.loc[rows["ok"].to_numpy(bool)]
    proved = int(np.sum(ok["certified"].to_numpy(bool))) if "certified" in ok else 0
    notes = [
        f"{len(rows)} profiles, {len(ok)} of them equilibria within the tolerance; in {proved} of those a larger gain "
        "is excluded by proof."
    ]
    if proved < len(ok):
        notes.append(f"In {len(ok) - proved} no larger gain was found, but none is excluded either.")
    if {"certified", "normalised_worst_equilibrium"} <= set(rows):
        short = search_table.below_worst(rows)
        if short.any():
            notes.append(search_table.below_worst_words(int(np.sum(short > 0)), float(short.max())))
    return notes


def _table(caption: str, frame: pd.DataFrame, heads: dict[str, str]) -> Table:
    heads = {name: head for name, head in heads.items() if name in frame}
    shares = {"within_tolerance", "certified", "ok"}
    rows = [
        [_share(value) if name in shares else _text(value) for name, value in line.items()]
        for line in frame.loc[:, list(heads)].head(MOST_ROWS).to_dict("records")
    ]
    note = f"... and {len(frame) - MOST_ROWS} more" if len(frame) > MOST_ROWS else ""
    return Table(caption, list(heads.values()), rows, note)


MOST_ROWS = 200


def _text(value: Any) -> str:
    """Three decimals, or as many digits as say something; "-" for what is not there."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool | int | str) or not isinstance(value, float):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.3f}"
    return f"{value:.1e}" if math.isfinite(value) else str(value)
