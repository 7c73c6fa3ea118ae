"""A run on disk takes its place whole or not at all; and its manifest."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import jax

from emalign_jax.internal import memory, temporary
from emalign_jax.internal.files import umask

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
    if os.path.lexists(path) and not path.is_dir():
        raise ValueError(f"{path}: --out: expected a directory, there is a file of that name")
    if path.exists() and not force:
        raise ValueError(f"{path}: --out: is there already; choose another name or pass --force to replace it")
    if path.exists() and any(path.iterdir()) and not (path / "manifest.json").exists():
        raise ValueError(
            f"{path}: --out: is no run directory (it has no manifest.json), so --force does not replace it"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.clear(path.parent)
        with temporary.beside(path, directory=True):
            pass
    except OSError as error:
        raise ValueError(f"{path}: --out: cannot be written: {error.strerror}") from None
    return path


def require_room(path: Path, needed: int, what: str) -> None:
    """Raise `ValueError` if `needed` bytes do not fit where the run goes."""
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise ValueError(
            f"{what} would take about {memory.size(needed)} on disk, {memory.size(free)} are free in {path.parent}"
        )


def place(made: Path, path: Path, force: bool) -> Path:
    """Put the directory `made` where it goes: to `path`, or to a name next to it if, without `force`, another run has
    come there in the meantime."""
    made.chmod(0o777 & ~umask())
    if force and path.exists():
        with contextlib.suppress(OSError), temporary.beside(path, directory=True) as old:  # not where it is a volume
            os.replace(path, old / path.name)
            os.replace(made, path)
            return path
    goes, number = path, 2
    while os.path.lexists(goes):
        goes, number = path.with_name(f"{path.name}-{number}"), number + 1
    os.replace(made, goes)
    return goes


def manifest(command: list[str], config: dict, seed: int | list[int], seconds: float) -> dict:
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
        "versions": {"emalign-jax": version("emalign-jax"), "python": sys.version.split()[0]}
        | {name: version(name) for name in PACKAGES},
    }


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
