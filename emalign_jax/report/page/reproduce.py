"""Lines of Python that compute one game of a run again, which the page shows with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emalign_jax.experiments import specification as spec
from emalign_jax.experiments import toml
from emalign_jax.experiments.grid.block import FILE
from emalign_jax.experiments.grid.run import GAMES, SCHEMES
from emalign_jax.experiments.grid.study import STRENGTH, USERS
from emalign_jax.experiments.plan import Plan
from emalign_jax.report.page.rows import MOST_ROWS, packed

# What the page's script puts a number for, of the row that is shown.
GAME, INDEX, START, AGENTS = "⟨game⟩", "⟨index⟩", "⟨start⟩", "⟨agents⟩"
IMPORTS = """import emalign_jax as em
from emalign_jax.experiments import plan
from emalign_jax.experiments.grid import block
"""
MAKE = """
specification = plan.from_manifest(config, "").cells()[0].specification
protocol, user, solver = block.modules(specification)
"""
DRAWN = f"games = block.draw(specification, {GAME}, 1)\n"
SEARCH = f"""rows, schemes, _ = block.search(specification, games, {GAME})
print(rows.loc[{START}].to_string())
"""


def lines(
    directory: Path, manifest: dict[str, Any], rows: pd.DataFrame, axes: list[str], plans: dict[str, Plan], kept: bool
) -> dict[str, Any]:
    """Entries for the script: `lines`, a text for each cell, `cells`, which of them a row has, and `index`, the
    place of a row's game among those of its number of agents.

    axes: columns of the rows; plans: the grid of each kind of user, "" if there are no kinds; kept: whether games.npz
    and schemes.npz are there
    """
    few = rows.head(MOST_ROWS)
    starts = int(np.max(few["start"].to_numpy(float), initial=0)) + 1
    index = few.groupby("agents").cumcount().to_numpy() // starts
    codes, _ = pd.factorize(few["cell"])
    first = few.loc[~few["cell"].duplicated()].to_dict("records")
    found = [_lines(directory, manifest, line, axes, plans, kept, starts > 1) for line in first]
    return {"lines": found, "cells": packed(codes, "<u4"), "index": packed(index, "<u4")}


def _lines(directory, manifest, line: dict, axes, plans: dict[str, Plan], kept: bool, several: bool) -> str:
    own = plans.get(str(line.get(USERS, "")))
    if own is None:
        return ""
    values = {name: line[name] for name in axes if name not in (USERS, STRENGTH)}
    if "" not in plans:  # the one key of this kind of user that is an axis
        values |= {name: x for name in own.axes if name not in values for x in own.grid[name] if x == line[STRENGTH]}
    config = _config(own, values)
    text = IMPORTS
    if isinstance(plugins := manifest["config"].get("plugins"), dict):
        text += f"from emalign_jax.internal import plugins\n\nplugins.load({list(plugins)!r})\n"
    entries = "".join(f"    {name!r}: {value!r},\n" for name, value in config.items())
    text += f"\nconfig = {{\n{entries}}}{MAKE}"
    if line["family"] == FILE:
        source = str(directory / GAMES) if kept else str(manifest["config"].get("games.file"))
        place = INDEX if kept else GAME
        text += f"games = em.load_games({source!r}, agents={AGENTS})[{place}:{place} + 1]\n"
    else:
        text += DRAWN
    text += SEARCH
    if kept:
        at = f"{START}, {INDEX}" if several else INDEX
        text += f"saved = em.load_schemes({str(directory / SCHEMES)!r}, agents={AGENTS})[{at}]\n"
        text += "print(em.certify(games[0], saved, protocol, user, tolerance=solver.tolerance))\n"
    return text


def _config(own: Plan, values: dict[str, Any]) -> dict[str, Any]:
    """The keys of one cell that are not as they are by default."""
    known = spec.fields()
    found = {}
    for name, alternatives in own.grid.items():
        value = values.get(name, alternatives[0])
        value = next((x for x in alternatives if x == value), value)  # an integer is not 2.0
        default = known[name].get_default(call_default_factory=True) if name in known else None
        if value is not None and value != default and name not in spec.TOP:
            found[name] = toml.plain_value(value)
    return found
