"""A run on disk: manifest.json, games.parquet, games.npz, schemes.npz and the figure, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
import pandas as pd

import emalign_jax
from emalign_jax.files import GAME_FIELDS, pad_agents, save_arrays
from emalign_jax.search.job import Cell

SCHEMA = 1
PACKAGES = ("jax", "jaxlib", "equinox", "optax", "numpy", "highspy")


def choose(out: str | None, default: str, force: bool) -> Path:
    """Where the run goes; checked before any work. Without `out` the first free name default-1, -2, ...

    Raises `ValueError` where something is there already (without `force`) or nothing can be written.
    """
    if out is None:
        number = 1
        while Path(f"{default}-{number}").exists():
            number += 1
        out = f"{default}-{number}"
    path = Path(out)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: --out: expected a directory, there is a file of that name")
    if path.exists() and not force:
        raise ValueError(f"{path}: --out: is there already; choose another name or pass --force to replace it")
    if path.exists() and any(path.iterdir()) and not (path / "manifest.json").exists():
        raise ValueError(
            f"{path}: --out: is no run directory (it has no manifest.json), so --force does not replace it"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"{path}: --out: cannot be written: {error.strerror}") from None
    return path


@contextlib.contextmanager
def writing(path: Path, force: bool) -> Iterator[Path]:
    """A temporary directory beside `path` that takes its place when the block ends well."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.exists():
            if not force:
                raise ValueError(f"{path}: --out: appeared while the search ran; nothing was overwritten")
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            os.replace(path, old / path.name)
            try:
                os.replace(temporary, path)
            except BaseException:
                os.replace(old / path.name, path)
                raise
            finally:
                shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def manifest(command: list[str], config: dict, seed: int, seconds: float) -> dict:
    device = jax.devices()[0]
    return {
        "schema": SCHEMA,
        "command": command,
        "config": config,
        "seed": seed,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "machine": {"system": platform.platform(), "processors": os.cpu_count()},
        "versions": {"emalign-jax": emalign_jax.__version__, "python": sys.version.split()[0]}
        | {name: version(name) for name in PACKAGES},
    }


def write_arrays(directory: Path, cells: list[Cell]) -> None:
    """games.npz and schemes.npz, rows in the order of games.parquet but for starts.

    One cell size: `schemes` is [N, K, XB, M], or [S, N, K, XB, M] with several starts. Games of several
    numbers of agents: short ones padded with NaN along K, and `agents` says how many each row has.
    """
    several = len({cell.agents for cell in cells}) > 1
    fields = [[np.asarray(getattr(cell.games, name)) for cell in cells] for name in GAME_FIELDS]
    schemes = [cell.solution.schemes for cell in cells]  # [S, N, K, XB, M]
    if not several:
        games = {name: np.concatenate(field) for name, field in zip(GAME_FIELDS, fields, strict=True)}
        joined = np.concatenate(schemes, axis=1)
        extra = {}
    else:
        games = {
            "prior": np.concatenate(fields[0]),
            "user_utility": np.concatenate(fields[1]),
            "agent_utilities": pad_agents(fields[2], axis=1),
        }
        joined = np.moveaxis(pad_agents([np.moveaxis(s, 1, 0) for s in schemes], axis=2), 0, 1)
        extra = {"agents": np.concatenate([np.full(len(cell.games.prior), cell.agents) for cell in cells])}
    save_arrays(directory / "games.npz", games | extra)
    save_arrays(directory / "schemes.npz", {"schemes": joined[0] if len(joined) == 1 else joined} | extra)


def write_table(directory: Path, rows: pd.DataFrame) -> None:
    rows.to_parquet(directory / "games.parquet", index=False)


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
