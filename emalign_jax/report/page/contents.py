"""What a run directory holds: facts, tables, figures, and rows to explore."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emalign_jax.experiments import run_store
from emalign_jax.experiments.manifests import MANIFEST
from emalign_jax.internal import memory
from emalign_jax.internal.files import check_input, is_regular
from emalign_jax.report.page import grid, hull, market, tune
from emalign_jax.report.page.rows import Rows
from emalign_jax.report.page.tables import Table, text


class Figure(NamedTuple):
    """picture: what the PNG or SVG file holds, and its media type; pdf likewise. None: there is no such file."""

    name: str
    caption: str
    picture: bytes | None
    media: str
    pdf: bytes | None


class Contents(NamedTuple):
    """What the page shows; `failed` counts what was not within the tolerance, `files` are the run's own."""

    title: str
    kind: str
    facts: list[tuple[str, str]]
    tables: list[Table]
    rows: list[Rows]
    figures: list[Figure]
    notes: list[str]
    command: str
    manifest: str
    failed: int
    files: list[str]


def read(directory: Path) -> Contents:
    """The contents of a directory written by `search`, `sweep`, `study`, `align`, `market` or `tune`.

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
        found.pop("title"), name, _facts(manifest) + found.pop("facts", []), found.pop("tables"), found.pop("rows"),
        _figures(directory, files, kind.captions),
        found.pop("notes", []), _command(manifest), json.dumps(manifest, indent=2), found.pop("failed", 0), files,
    )  # fmt: skip


def check(directory: Path) -> None:
    """Raise `ValueError`, or `FileNotFoundError`, where there is no directory."""
    if not directory.exists():
        raise FileNotFoundError(f"{directory}: no such directory")
    if not directory.is_dir():
        raise ValueError(f"{directory}: expected the directory of a run or sweep, got a file")


class Kind(NamedTuple):
    """table: the file that is there once the run has ended; captions by the stem of the figure's name."""

    table: str
    read: Callable[[Path, dict[str, Any]], dict[str, Any]]
    captions: dict[str, str]


MEDIA = {".png": "image/png", ".svg": "image/svg+xml"}  # what browsers draw, in the order of preference
VALUE = "User value: 0 with no information, 1 with full information."
PHASE = "Coloured by the value in the worst equilibrium (by what was found, where that is not known); the lines bound "
PHASE += "where a guarantee says no more than no information gives."
MARKET = "Value in the worst equilibrium and error of the hull against the number of random agents; the agents alone, "
MARKET += "and the market without each. 0: nobody is asked, 1: all that the agents know. Bands: resampled prompts."
STUDY = "What each kind of user gets from whom, the further from the textbook the further to the right. Bars: 95 % "
STUDY += "intervals of competition less the best single agent; grey: where competition stops helping, 95 %."
TUNING = "The objective step by step, and the user's value before and after tuning, a point a game."
KINDS = {
    "sweep": Kind("games.parquet", grid.sweep, {"user_value": VALUE, "phase": PHASE}),
    "study": Kind("games.parquet", grid.of_study, {"study": STUDY}),
    "align": Kind("curves.csv", hull.read, {"hull": "Error against the number of agents, and with agents removed."}),
    "search": Kind("games.parquet", grid.search, {"user_value": VALUE}),
    "market": Kind("markets.parquet", market.read, {"market": MARKET}),
    "tune": Kind("games.parquet", tune.read, {"tuning": TUNING}),
}


def _figures(directory: Path, files: list[str], captions: dict[str, str]) -> list[Figure]:
    there = {name for name in files if (directory / name).exists()}
    names = sorted({Path(name).stem for name in there if name.endswith((*MEDIA, ".pdf"))})
    figures = []
    for name in sorted(names, key=lambda name: [*captions, name].index(name)):  # main ones first
        kind = next((kind for kind in MEDIA if name + kind in there), None)
        picture = _bytes(directory / (name + kind)) if kind else None
        pdf = _bytes(directory / f"{name}.pdf") if f"{name}.pdf" in there else None
        figures.append(Figure(name, captions.get(name, ""), picture, MEDIA.get(kind or "", ""), pdf))
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
    return [(name, text(value)) for name, value in facts if value not in (None, "")]


def _command(manifest: dict[str, Any]) -> str:
    command = manifest["command"]
    return shlex.join(map(str, command)) if isinstance(command, list) else str(command)
