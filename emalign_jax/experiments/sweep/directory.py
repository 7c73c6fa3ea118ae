"""A sweep on disk: manifest.json, parts/ (a file a block of games), games.parquet and figures.

A part is written atomically and never changed, so whatever is there when a process dies is whole. One process at a
time: the lock is the kernel's (flock), and goes with the process however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pandas as pd

from emalign_jax.experiments import manifests, run_directory
from emalign_jax.internal import parquet
from emalign_jax.internal.arguments import shortened
from emalign_jax.internal.files import atomic, check_input

MANIFEST, TABLE, PARTS, LOCK = "manifest.json", "games.parquet", "parts", ".lock"
FIGURES, KINDS = ("user_value", "phase"), (".png", ".pdf")
LISTED = 5  # differences between two manifests that are named
RESULTS = (TABLE, *(f"{name}{kind}" for name in FIGURES for kind in KINDS))


def check(path: Path, manifest: dict[str, Any], force: bool, results: tuple[str, ...] = ()) -> None:
    """Raise `ValueError`, before any work, for what `held` and `begin` would refuse; nothing is made or changed."""
    kind = manifest["kind"]
    if os.path.lexists(path) and not path.is_dir():
        raise ValueError(f"{path}: --out: expected a directory, there is a file of that name")
    if not path.exists():
        return
    try:
        if not _is_one(path, kind):
            raise ValueError(f"{path}: --out: holds something else than a {kind}; choose another name")
    except OSError as error:
        raise ValueError(f"{path}: --out: cannot be written: {error.strerror}") from None
    for name in (LOCK, *(results or RESULTS)):
        if os.path.lexists(path / name) and not (path / name).is_file():
            raise ValueError(f"{path / name}: --out: expected a file, there is something else of that name")
    if os.path.lexists(path / PARTS) and not (path / PARTS).is_dir():
        raise ValueError(f"{path / PARTS}: --out: expected a directory, there is a file of that name")
    if not force:
        _check_same(path, _read_manifest(path, kind), manifest)


@contextlib.contextmanager
def held(path: Path, kind: str = "sweep") -> Iterator[None]:
    """The directory, made if it is not there, for this process alone. `ValueError` names the process that has it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = open(path / LOCK, "a+")  # noqa: SIM115 - open as long as the lock is held
    except OSError as error:
        raise ValueError(f"{path}: --out: cannot be written: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(
                f"{path}: --out: another {kind} is at work here (process {file.read().strip() or 'unknown'}); "
                "wait for it or choose another name"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def begin(path: Path, manifest: dict[str, Any], force: bool, results: tuple[str, ...] = ()) -> None:
    """Check that what is there was begun with the same config and versions, or start anew.

    results: names of the files that are removed to start anew.
    Raises `ValueError` that names each key that differs.
    """
    check(path, manifest, force, results)
    found = None if force else _read_manifest(path, manifest["kind"])
    if found is None:
        if (path / PARTS).exists():
            shutil.rmtree(path / PARTS)
        for target in results or RESULTS:
            (path / target).unlink(missing_ok=True)
        write_manifest(path, manifest)
        (path / PARTS).mkdir()
    else:
        (path / PARTS).mkdir(exist_ok=True)
        for left in (*path.glob(".*.*"), *(path / PARTS).glob(".*")):  # temporaries of a process that was killed
            if left.is_file():
                left.unlink()


def _check_same(path: Path, found: dict[str, Any] | None, manifest: dict[str, Any]) -> None:
    was, now = _identity(found or manifest), _identity(manifest)
    differences = [
        f"{shortened(name)} is {_show(was.get(name))} there and {_show(now.get(name))} now"
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name)
    ]
    if differences:
        more = f"; and {len(differences) - LISTED} more" if len(differences) > LISTED else ""
        raise ValueError(
            f"{path}: --out: was begun otherwise: {'; '.join(differences[:LISTED])}{more}; "
            "choose another --out, or pass --force to start anew"
        )


def manifest(
    command: list[str], config: dict[str, Any], seconds: float, kind: str = "sweep", **more: Any
) -> dict[str, Any]:
    """run_directory's, and what this is."""
    entries = run_directory.manifest(command, config, config["seed"], seconds)
    return entries | {"kind": kind, "float": str(jnp.result_type(float))} | more


def write_manifest(path: Path, entries: dict[str, Any]) -> None:
    with atomic(path / MANIFEST) as temporary:
        run_directory.write_json(temporary, entries)


def write_part(path: Path, key: str, first: int, rows: pd.DataFrame) -> None:
    """The rows of a block, in a file whose name ends in a digest of what it holds and of whose it is."""
    data = rows.to_parquet(None, index=False, **parquet.WRITTEN)
    with atomic(path / PARTS / f"{key}-{first:06d}-{_digest(key, first, io.BytesIO(data))}.parquet") as temporary:
        temporary.write_bytes(data)


def read_part(path: Path, key: str, first: int) -> tuple[pd.DataFrame | None, list[Path]]:
    """The rows of a block, None if they are not there, and the files that should hold them but are damaged."""
    damaged = []
    for part in sorted((path / PARTS).glob(f"{key}-{first:06d}-*.parquet")):
        check_input(part, "a part")
        with open(part, "rb") as file:
            whole = part.stem.endswith("-" + _digest(key, first, file))
        if whole:
            return parquet.read(part), damaged
        damaged.append(part)
    return None, damaged


def _digest(key: str, first: int, file: io.BufferedIOBase) -> str:
    return hashlib.file_digest(file, lambda: hashlib.sha256(f"{key}-{first}-".encode())).hexdigest()[:16]


def write_table(path: Path, parts: list[pd.DataFrame]) -> pd.DataFrame:
    """games.parquet: the parts one after the other."""
    rows = pd.concat(parts, ignore_index=True)
    with atomic(path / TABLE) as temporary:
        parquet.write(temporary, rows)
    return rows


def _is_one(path: Path, kind: str) -> bool:
    """Whether one of this kind is there, or nothing but what one that was killed at once leaves."""
    if os.path.lexists(path / MANIFEST):
        found = _read_manifest(path, kind)
        return found is not None
    return all(name.name.startswith(".") or name.name == PARTS for name in path.iterdir())


def _read_manifest(path: Path, kind: str) -> dict[str, Any] | None:
    if not os.path.lexists(path / MANIFEST):
        return None
    return manifests.read(path / MANIFEST, (kind,))


def _identity(entries: dict[str, Any]) -> dict[str, Any]:
    """What must be the same for the table to be the same; a title may change."""
    config = {name: value for name, value in entries["config"].items() if name != "title"}
    versions = {f"version of {name}": value for name, value in entries["versions"].items()}
    return config | versions | {"float": entries.get("float")}


def _show(value: Any) -> str:
    return "not set" if value is None else shortened(json.dumps(value))
