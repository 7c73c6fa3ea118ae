"""A run on disk takes its place whole or not at all; and its manifest."""

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

import emalign_jax

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


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
