"""Proof files on the command line: `--proof DIR` of other commands, and `emalign verify`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from emalign_jax.cli import options

ProofOption = Annotated[
    Path | None,
    typer.Option(
        "--proof",
        metavar="DIR",
        help="Write a proof file for each game into this new directory, which `emalign verify`, or one file of plain "
        "Python, checks (Selection or Comparison, rational user).",
    ),
]


def verify(
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE...", help="Proof files.")] = None,
    script: Annotated[
        bool, typer.Option("--script", help="Print the verifier, a file of standard-library Python, and stop.")
    ] = False,
    json_: options.JsonOption = False,
) -> None:
    """Check proof files in exact rational arithmetic: every claim is derived again from the game and its multipliers.

    Nothing of this package is needed for it: the verifier is one file that can be copied elsewhere.

    \b
    Examples:
      emalign search --count 5 --proof proofs
      emalign verify proofs/*.json
      emalign verify --script > verify.py && python3 -I verify.py proofs/*.json
    """
    from emalign_jax.exact.proofs import verify as verifier
    from emalign_jax.experiments.grid.table import document

    if script:
        print(Path(verifier.__file__).read_text("utf-8"), end="")
        return
    if not files:
        raise ValueError("FILE: expected proof files, or --script")
    if not json_:
        raise typer.Exit(verifier.main(list(map(str, files))))
    entries = []
    for path in files:
        try:
            said, error = verifier.verify(path.read_text("utf-8")), None
        except (verifier.Unproved, OSError, UnicodeDecodeError) as failure:
            said, error = [], str(failure)
        entries.append({"file": str(path), "proved": error is None, "claims": said, "error": error})
    failed = sum(not entry["proved"] for entry in entries)
    print(document(files=entries, summary={"files": len(entries), "failed": failed}))
    if failed:
        raise typer.Exit(1)


def check(directory: Path | None, protocol: Any = None, user: Any = None) -> None:
    """Raise `ValueError`, before any work, where no proofs can be written there, or of these."""
    from emalign_jax.exact.proofs.files import check_kind

    if directory is None:
        return
    if protocol is not None:
        check_kind(protocol, user)
    if os.path.lexists(directory) and not (directory.is_dir() and not any(directory.iterdir())):
        raise ValueError(f"{directory}: --proof: expected a directory that is new or empty")


def write(directory: Path, batches: Iterable[tuple[Any, Any]], progress: Any, **claims: Any) -> str:
    """Write the proofs of (games, schemes or None) and say how many there are. claims: of `em.write_proof`.

    A game that is malformed or was not solved has no proof.
    """
    from emalign_jax.exact.proofs.files import write_proof
    from emalign_jax.games.game import faults
    from emalign_jax.lp.highs import LPFailed

    directory.mkdir(parents=True, exist_ok=True)
    written = left = 0
    for games, schemes in batches:
        shape = games.batch_shape if schemes is None else np.broadcast_shapes(games.batch_shape, schemes.shape[:-3])
        tell = progress.counter("prove", int(np.prod(shape, dtype=int)))
        for index in np.ndindex(*shape):
            game = games[index[len(index) - len(games.batch_shape) :]] if games.batch_shape else games
            profile = None if schemes is None else np.broadcast_to(schemes, (*shape, *schemes.shape[-3:]))[index]
            name = "-".join(["game", *map(str, index), f"K{games.agents}"]) + ".json"
            try:
                if str(faults(game)) or (profile is not None and not np.isfinite(profile).all()):
                    raise LPFailed
                write_proof(directory / name, game, profile, **claims)
                written += 1
            except LPFailed:
                left += 1
            tell(1)
    more = f"; {left} games have none, as they are malformed or were not solved" if left else ""
    return f"{written} proof file{'s' * (written != 1)}: {directory} (emalign verify {directory}/*.json){more}"
