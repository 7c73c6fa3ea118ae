"""Configs in TOML: files, and those that come with the package."""

from __future__ import annotations

import difflib
import math
import os
import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from emalign_jax.experiments.specification import Flat, nearest
from emalign_jax.internal.arguments import shortened, shown
from emalign_jax.internal.files import check_input

LONGEST = 2**20  # bytes of a config
TOO_DEEP = re.compile(r"""(?<![\w"'-])(?:[\w"'-]++\s*+\.\s*+){10}""")  # a dotted key, which costs its length squared


def shipped(folder: str = "") -> list[str]:
    """Names of the configs that come with the package, in a folder of `configs`."""
    return sorted(f.name.removesuffix(".toml") for f in _shipped(folder).iterdir() if f.name.endswith(".toml"))


def _shipped(folder: str):
    return resources.files("emalign_jax.experiments") / "configs" / folder


def text_of(config: str, folder: str = "") -> str:
    """The text of the file, or of the shipped config of that name where there is no such file.

    Raises `ValueError`, or `FileNotFoundError`, in one line that names the file and what would be right.
    """
    path, known = Path(config), shipped(folder)
    if config in known and not path.is_file():  # a run may go to a directory of its config's name
        return (_shipped(folder) / f"{config}.toml").read_text("utf-8")
    if not os.path.lexists(path):
        close = difflib.get_close_matches(config, known, 1)
        hint = f"did you mean {close[0]}?" if close else f"shipped configs: {', '.join(known)}"
        raise FileNotFoundError(f"{config}: no such file, and no shipped config of that name; {hint}")
    check_input(path, "a TOML file")
    if path.stat().st_size > LONGEST:
        raise ValueError(f"{config}: expected a TOML file of at most {LONGEST} bytes, got {path.stat().st_size}")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{config}: expected a TOML file in UTF-8, byte {error.start + 1} is not") from None


def document(text: str, path: str) -> dict[str, Any]:
    """The TOML text; `path` is what messages call it."""
    try:
        if TOO_DEEP.search(text):
            raise RecursionError
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"{path}: not a config: nested too deeply") from None
    except ValueError as error:
        reason = str(error).replace("at end of document", f"at line {len(text.splitlines())}, where the file ends")
        raise ValueError(f"{path}: not TOML: {shortened(reason, 300)}") from None


def flatten(document: dict, path: str, keys: tuple[str, ...]) -> Flat:
    """{"games.family": ...} of a document with sections."""
    sections = tuple(dict.fromkeys(name.split(".")[0] for name in keys if "." in name))
    found: Flat = {}
    for name, value in document.items():
        if name in sections:
            if not isinstance(value, dict):
                raise ValueError(f"{path}: {name}: expected a section [{name}] with keys, got {shown(value)}")
            found |= {f"{name}.{key}": inner for key, inner in value.items()}
        elif isinstance(value, dict):
            raise ValueError(f"{path}: [{shortened(name)}]: no such section; {nearest(name, sections, '[{}]')}")
        else:
            found[name] = value
    return found


def plain_value(value: Any) -> Any:
    """A value as JSON takes it, which has no infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
