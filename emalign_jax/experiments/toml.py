"""Configs in TOML: files, and those that come with the package."""

from __future__ import annotations

import difflib
import math
import os
import re
import tomllib
from collections.abc import Iterable
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from emalign_jax.experiments.specification import Flat, nearest
from emalign_jax.internal.arguments import shortened, shown
from emalign_jax.internal.files import check_input

LONGEST = 2**20  # bytes of a config
TOO_DEEP = re.compile(r"""(?<![\w"'-])(?:[\w"'-]++\s*+\.\s*+){10}""")  # a dotted key, which costs its length squared


def shipped(folder: str = "") -> dict[str, Traversable]:
    """The configs that come with the package, in a folder of `configs`, by name."""
    files = (resources.files("emalign_jax.experiments") / "configs" / folder).iterdir()
    named = {file.name.removesuffix(".toml"): file for file in files if file.name.endswith(".toml")}
    return dict(sorted(named.items()))


def text_of(config: str, folder: str = "") -> str:
    """The text of the file, or of the shipped config of that name where there is no such file.

    Raises `ValueError`, or `FileNotFoundError`, in one line that names the file and what would be right.
    """
    path, known = Path(config), shipped(folder)
    if config in known and not path.is_file():  # a run may go to a directory of its config's name
        return known[config].read_text("utf-8")
    if not os.path.lexists(path):
        close = difflib.get_close_matches(config, known, 1)
        hint = f"did you mean {close[0]}?" if close else f"shipped configs: {', '.join(known)}"
        raise FileNotFoundError(f"{config}: no such file, and no shipped config of that name; {hint}")
    check_input(path, "a TOML file", LONGEST)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{config}: expected a TOML file in UTF-8, byte {error.start + 1} is not") from None


def document(text: str, path: str, keys: Iterable[str]) -> Flat:
    """{"games.family": ...} of TOML text; `path` is what messages call it, keys: those that there are."""
    try:
        if TOO_DEEP.search(text):
            raise RecursionError
        document = tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"{path}: not a config: nested too deeply") from None
    except ValueError as error:
        reason = str(error).replace("at end of document", f"at line {len(text.splitlines())}, where the file ends")
        raise ValueError(f"{path}: not TOML: {shortened(reason, 300)}") from None
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
    """A value as JSON gives it back, which has no tuples and no infinity."""
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
