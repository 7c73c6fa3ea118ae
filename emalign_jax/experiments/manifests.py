"""Reading manifests: the one place that says what they must hold, for reports and for runs that go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from emalign_jax.internal.arguments import shortened, shown
from emalign_jax.internal.files import check_input

LONGEST = 2**20  # bytes
SCHEMA = 3
REQUIRED = ("kind", "command", "config", "versions", "schema", "status", "files")
MANIFEST = "manifest.json"
WORDS = {int: "an integer", dict: "an object", list: "a list", str: "text"}
FIELDS = {"kind": str, "command": list, "config": dict, "versions": dict, "device": dict, "machine": dict, "title": str,
          "table": dict, "coverage": dict, "verdict": str, "schema": int, "status": str, "files": list}  # fmt: skip


def read(path: Path, kinds: tuple[str, ...] = ()) -> dict[str, Any]:
    """The manifest of a run, of one of these kinds if there are some, its fields of the types that they must be of.

    Raises `ValueError`, or `FileNotFoundError`, in one line that names the file and the field.
    """
    check_input(path, "a manifest", LONGEST)
    try:
        found = json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError(f"{path}: not a manifest: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {shortened(error, 200)}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: {', '.join(REQUIRED)}: not in the file; expected the manifest of a run")
    for name, kind in FIELDS.items():
        if name not in found:
            if name in REQUIRED:
                raise ValueError(f"{path}: {name}: not in the file; expected the manifest of a run")
        elif not isinstance(found[name], kind):
            raise ValueError(f"{path}: {name}: expected {WORDS[kind]}, got {shown(found[name])}")
    for name, words in (("schema", (SCHEMA,)), ("status", ("running", "done"))):
        if found[name] not in words:
            raise ValueError(f"{path}: {name}: expected {' or '.join(map(str, words))}, got {shown(found[name])}")
    for name in found["files"]:
        if not (isinstance(name, str) and Path(name).name == name not in ("", "..", MANIFEST) and "\0" not in name):
            raise ValueError(f"{path}: files: expected names of files in the directory, got {shown(name)}")
    if kinds and found["kind"] not in kinds:
        raise ValueError(f"{path}: kind: expected {' or '.join(kinds)}, got {shown(found['kind'])}")
    return found


def number(path: Path, entries: dict[str, Any], name: str, default: float | None = None) -> float | None:
    """What `entries` has under the name without its section ("config.x" is x there): a number, or nothing."""
    value = entries.get(name.partition(".")[2] or name, default)
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**1000):
        return None if value is None else float(value)
    raise ValueError(f"{path}: {name}: expected a finite number, got {shown(value)}")
