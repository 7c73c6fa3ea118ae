"""Proof files of batches of games, block by block, in this process or by workers; those that are there are kept."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emalign_jax.exact.certificates.certificate import flatten_games
from emalign_jax.exact.proofs import files, verify, verify_quantal
from emalign_jax.experiments import engine
from emalign_jax.games.game import Game, faults
from emalign_jax.internal import temporary
from emalign_jax.internal.files import atomic
from emalign_jax.lp.highs import LPFailed

BLOCK = 16  # games of a task
NAME = re.compile(r"game(-\d+)*-K\d+\.json")


class Written(NamedTuple):
    """Numbers of games whose proof was written, whose proof was there, and that have none."""

    new: int
    kept: int
    left: int


def check(directory: Path) -> None:
    """Raise `ValueError` for a directory that holds anything but proof files."""
    free = not os.path.lexists(directory)
    if directory.is_dir():
        temporary.clear(directory)  # of an earlier command that was killed
    if not free and not (directory.is_dir() and all(NAME.fullmatch(path.name) for path in directory.iterdir())):
        raise ValueError(f"{directory}: --proof: expected a directory that is new, empty, or holds such proofs alone")


def write(
    directory: Path, batches: Iterable[tuple[Any, Any]], progress: Any, executors: Any = None, **claims
) -> Written:
    """Write a proof for each of (games, schemes or None). A game that is malformed or was not solved has none.

    A file that is there is kept if it proves the same claims of the same game and profile, and replaced if it proves
    nothing. progress: a `ProgressBar`; executors: of `engine.run`; claims: arguments of `em.write_proof`.
    Raises `ValueError` for a file that proves something else.
    """
    directory.mkdir(parents=True, exist_ok=True)
    count = dict.fromkeys(Written._fields, 0)
    for games, schemes in batches:
        tasks = list(_tasks(directory, games, schemes, claims))
        tell = progress.counter("prove", sum(len(task.arguments[0]) for task in tasks))

        def keep(task: engine.Task, found: list[tuple[str, str | None]], tell=tell) -> None:
            for name, (what, words) in zip(task.arguments[0], found, strict=True):
                count[what] += 1
                if words is not None:
                    with atomic(directory / name) as made:
                        made.write_text(words, "utf-8")
                tell(1)

        engine.run(prove, tasks, keep, executors=executors)
    return Written(**count)


def _tasks(directory: Path, games: Game, schemes: Any, claims: dict[str, Any]) -> Iterable[engine.Task]:
    shape = games.batch_shape if schemes is None else np.broadcast_shapes(games.batch_shape, schemes.shape[:-3])
    indices = list(np.ndindex(*shape))
    flat = flatten_games(games, shape)
    arrays = [flat.prior, flat.user_utility, flat.agent_utilities]
    if schemes is not None:
        arrays.append(np.broadcast_to(schemes, (*shape, *schemes.shape[-3:])).reshape(-1, *schemes.shape[-3:]))
    for at in range(0, len(indices), BLOCK):
        some = indices[at : at + BLOCK]
        names = ["-".join(["game", *map(str, index), f"K{games.agents}"]) + ".json" for index in some]
        there = [directory / name for name in names]
        held = [path.read_text("utf-8", "replace") if path.exists() else None for path in there]
        items = [[x[k] for x in arrays] for k in range(at, at + len(some))]
        yield engine.Task(f"proofs of {names[0]} and those behind it", (names, items, held, claims))


def prove(
    names: list[str], items: list[list[Any]], held: list[str | None], claims: dict[str, Any]
) -> list[tuple[str, str | None]]:
    """For each game what `Written` counts it as, and the text of its proof if it is new.

    items: prior, user's and agents' utilities, and perhaps schemes; held: the text of each file that is there.
    """
    found: list[tuple[str, str | None]] = []
    for name, (prior, user, agents, *profile), old in zip(names, items, held, strict=True):
        game, schemes = Game(prior, user, agents, check="shapes"), profile[0] if profile else None
        if str(faults(game)) or (schemes is not None and not np.isfinite(schemes).all()):
            found.append(("left", None))
            continue
        draft = files.draft(game, schemes, **claims)
        try:
            kept = old is not None and proves(old, draft, name)
            found.append(("kept", None) if kept else ("new", files.proved(draft)[0]))
        except LPFailed:
            found.append(("left", None))
    return found


def proves(old: str, draft: dict[str, Any], name: str) -> bool:
    """Whether the text of a file proves the claims of a draft. Raises `ValueError` if it proves something else."""
    try:
        verify_quantal.verify(old)
    except verify.Unproved:
        return False
    there = json.loads(old)
    same = all(there[key] == draft[key] for key in ("game", "schemes")) and len(there["claims"]) == len(draft["claims"])
    if not (
        same and all(new.items() <= one.items() for new, one in zip(draft["claims"], there["claims"], strict=True))
    ):
        raise ValueError(
            f"{name}: --proof: is there, and proves other claims, or of another game; take another directory"
        )
    return True
