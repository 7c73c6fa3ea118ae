"""Checks of a search before any work: whether the sizes, the settings and the memory allow it to be completed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from emalign_jax.equilibrium.solver import check_sizes
from emalign_jax.exact.checks.base import make_check
from emalign_jax.experiments.grid.block import modules
from emalign_jax.experiments.plan import Cell, Plan
from emalign_jax.experiments.specification import Specification, placed
from emalign_jax.games import families
from emalign_jax.games.game import Game
from emalign_jax.internal import memory
from emalign_jax.protocols.base import reduce_for

# Games of a block by default, the same on every machine, so that any can go on with what another has begun.
CHECKED, PLAYED = 512, 8192
COPIES = 4  # of the games and schemes of a block, that solving holds
ROW, HELD = 700, 2000  # bytes of a row of the table, on disk and in memory
BLOCK = 2000  # bytes of what is known of a block, in memory
# Cells that differ in nothing else need one check of their sizes.
NO_SIZES = ("seed", "games.count", "games.family", "games.user_information", "games.agent_information",
            "games.information_worth", "games.digest")  # fmt: skip


def block_size(plan: Plan) -> int:
    """Games of a block."""
    return plan.block or (CHECKED if any(plan.grid["measure.verify"]) else PLAYED)


def check(
    plan: Plan, cells: list[Cell], block: int, given: Mapping[int, Game] | None = None, whole: bool = False
) -> int:
    """Raise `ValueError` that names the file, the key and the point of the grid for the first cell that cannot be done.

    given: the games of a file by number of agents
    whole: whether the table will be held in memory whole, as a sweep has it
    Returns about how many bytes the run takes on disk while it is written.
    """
    rows = number = 0
    for cell in cells:  # of all, before any is checked for longer
        made = cell.specification
        with placed(*plan.place(cell.values)):
            if given is None:
                own = made.games.drawing()
                families.check_arguments(**own)
                families.require_room(**(own | {"count": min(own["count"], block)}))
            rows += made.games.count * made.solver.starts
            if whole:
                memory.require(HELD * rows, f"count: a table of {rows} rows")
            number += -(-made.games.count // block)
            memory.require(BLOCK * number, f"block: {number} blocks of {block} games")
    written, sizes = 0, {}
    further = {f"games.{name}" for name in families.all_knobs()}
    for cell in cells:
        made = cell.specification
        same = tuple(x for name, x in cell.values.items() if name not in (*NO_SIZES, *further))
        if same not in sizes:
            with placed(*plan.place(cell.values)):
                sizes[same] = _check(made, block, None if given is None else given[made.games.agents])
        # As parts, and merged.
        written += 2 * made.games.count * (8 * sizes[same] + ROW * made.solver.starts)
    return written


def _check(made: Specification, block: int, given: Game | None) -> int:
    """Check the sizes of a cell; returns the numbers of a game and its schemes."""
    protocol, user, solver = modules(made)
    if solver.verifies and not made.measure.verify:
        raise ValueError(f"measure.verify: {made.solver.method} consists of exact checks; leave it true")
    games = families.any_game(**made.games.drawing()) if given is None else given
    messages = made.protocol.messages or protocol.messages(games)
    exactly = made.measure.verify or made.solver.start == "monopolist"
    check_sizes(games, protocol, user, messages, alone=exactly, exactly=exactly)
    K, XA, XB, Y, A = games.agents, games.user_features, games.agent_features, games.outcomes, games.actions
    own, schemes = XA * XB * Y + (K + 1) * A * Y, K * protocol.rows(games, messages) * messages
    count, starts = min(block, made.games.count), made.solver.starts
    needed = 8 * COPIES * count * starts * (schemes + own + (K + 1) * XA * XB * A)
    memory.require(needed, f"block, solver.starts: {count} games at a time with {starts} starts each")
    if given is None and made.measure.verify:
        make_check(reduce_for(games, protocol, user, np), 0, protocol, user, messages)
    return own + starts * schemes
