"""Proof files on the command line: `--proof DIR` of other commands, and `emalign verify`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from emalign_jax.cli import options
from emalign_jax.experiments.progress import ProgressBar

ProofOption = Annotated[
    Path | None,
    typer.Option(
        "--proof",
        metavar="DIR",
        help="Write a proof file for each game into this directory, which `emalign verify`, or one file of plain "
        "Python, checks (Selection or Comparison with a rational user, Pooled with a quantal one). Proofs that are "
        "there already are kept.",
    ),
]


def verify(
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE...", help="Proof files.")] = None,
    script: Annotated[
        bool, typer.Option("--script", help="Print the verifier, a file of standard-library Python, and stop.")
    ] = False,
    quantal: Annotated[
        bool,
        typer.Option(
            "--quantal",
            help="With --script: print the verifier for quantal users instead, a file that needs the first one beside "
            "it, as verify.py, and python-flint.",
        ),
    ] = False,
    json_: options.JsonOption = False,
) -> None:
    """Check proof files in exact rational arithmetic: every claim is derived again from the game and its multipliers.

    Nothing of this package is needed for it: the verifier is one file that can be copied elsewhere. Files about quantal
    users are checked in interval arithmetic, which needs python-flint (pip install 'emalign-jax[proofs]').

    \b
    Examples:
      emalign search --count 5 --proof proofs
      emalign verify proofs/*.json
      emalign verify --script > verify.py && python3 -I verify.py proofs/*.json
      emalign verify --script --quantal > verify_quantal.py && python3 -I verify_quantal.py proofs/*.json
    """
    from emalign_jax.exact.proofs import verify as rational
    from emalign_jax.exact.proofs import verify_quantal
    from emalign_jax.experiments.grid.table import document

    if script:
        print(Path((verify_quantal if quantal else rational).__file__).read_text("utf-8"), end="")
        return
    if quantal:
        raise ValueError("--quantal: belongs to --script; files of all kinds are checked without it")
    if not files:
        raise ValueError("FILE: expected proof files, or --script")
    if not json_:
        raise typer.Exit(rational.main(list(map(str, files)), verify_quantal.verify))
    entries = []
    for path in files:
        try:
            said, error = verify_quantal.verify(path.read_text("utf-8")), None
        except (rational.Unproved, OSError, UnicodeDecodeError) as failure:
            said, error = [], str(failure)
        entries.append({"file": str(path), "proved": error is None, "claims": said, "error": error})
    failed = sum(not entry["proved"] for entry in entries)
    print(document(files=entries, summary={"files": len(entries), "failed": failed}))
    if failed:
        raise typer.Exit(1)


def check(directory: Path | None, protocol: Any = None, user: Any = None, game: Any = None) -> None:
    """Raise `ValueError`, before any work, where no proofs can be written there, or of these."""
    if directory is None:
        return
    from emalign_jax.exact.proofs.files import check_kind, check_size
    from emalign_jax.experiments import proof_files

    if protocol is not None:
        check_kind(protocol, user)
    if game is not None:
        check_size(game)
    proof_files.check(directory)


def write(
    directory: Path, batches: Iterable[tuple[Any, Any]], quiet: bool, executors: Any = None, **claims: Any
) -> str:
    """Write the proofs of (games, schemes or None) and say how many there are. claims: of `em.write_proof`."""
    from emalign_jax.experiments import proof_files

    with ProgressBar(quiet=quiet) as progress:
        found = proof_files.write(directory, batches, progress, executors, **claims)
    files = found.new + found.kept
    told = f"{files} proof file{'s' * (files != 1)}: {directory} (emalign verify {directory}/*.json)"
    told += f"; {found.kept} were there already" if found.kept else ""
    without = f"; {found.left} games have none, as they are malformed, were not solved or are too large"
    return told + without * (found.left > 0)
