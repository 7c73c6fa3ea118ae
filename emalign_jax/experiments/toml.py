"""Configs in TOML: one value or a list for each of a table of options; shared by `sweep` and `tune`."""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import re
import reprlib
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from emalign_jax.internal.arguments import MOST, shortened
from emalign_jax.internal.files import check_input
from emalign_jax.internal.registry import Registry

MOST_SEED = 2**32 - 1
LONGEST = 2**20  # bytes of a config
TOO_DEEP = re.compile(r"""(?<![\w"'-])(?:[\w"'-]++\s*+\.\s*+){10}""")  # a dotted key, which costs its length squared


class Option(NamedTuple):
    """What a key takes. default None: left to the library, or to the protocol.

    kind: "word" (one of `words`, or any if there are none), "whole" (an integer, at least `least`), "number", "flag",
        or "any" of them
    own:  whether it is an argument of a named class, which a config without it does not mention
    """

    kind: str
    default: Any
    least: int = 0
    words: tuple[str, ...] = ()
    own: bool = False


def shipped(folder: str = "") -> list[str]:
    """Names of the configs that come with the package, in a folder of `configs`."""
    return sorted(f.name.removesuffix(".toml") for f in _shipped(folder).iterdir() if f.name.endswith(".toml"))


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
    except ValueError as error:  # TOML's own, and Python's on numbers of too many digits
        reason = str(error).replace("at end of document", f"at line {len(text.splitlines())}, where the file ends")
        raise ValueError(f"{path}: not TOML: {shortened(reason, 300)}") from None


def _shipped(folder: str):
    return resources.files("emalign_jax.experiments") / "configs" / folder


def changed(document: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The document with other values of some keys, by {"section.key": value}."""
    found = dict(document)
    for name, new in changes.items():
        section, _, key = name.rpartition(".")
        inside = found.get(section, {})
        if not section:
            found[key] = new
        elif isinstance(inside, dict):  # anything else is refused by `flatten`
            found[section] = inside | {key: new}
    return found


def section(values: dict[str, Any], name: str) -> dict[str, Any]:
    """{key: value} of one section of {"section.key": value}."""
    return {key.removeprefix(f"{name}."): value for key, value in values.items() if key.startswith(f"{name}.")}


def arguments(registry: Registry, options: dict[str, Option], section: str, without: tuple[str, ...] = ()) -> dict:
    """Options for the arguments of all named classes, but for those that there are already."""
    names = [key for name in registry if name not in without for key in registry.parameters(name)]
    own = {f"{section}.{key}": Option("any", None, own=True) for key in names}
    return {name: option for name, option in own.items() if name not in options}


def flatten(document: dict, path: str, options: dict[str, Option], top: tuple[str, ...] = ()) -> dict[str, Any]:
    """{"games.family": ...} of known keys; unknown ones are refused with the nearest known one."""
    known = [*top, *options]
    sections = tuple(dict.fromkeys(name.split(".")[0] for name in options if "." in name))
    flat = {}
    for name, value in document.items():
        if name in sections:
            if not isinstance(value, dict):
                raise ValueError(f"{path}: {name}: expected a section [{name}] with keys, got {reprlib.repr(value)}")
            for key, inner in value.items():
                flat[f"{name}.{key}"] = inner
        elif isinstance(value, dict):
            raise ValueError(f"{path}: [{shortened(name)}]: no such section; {_nearest(name, sections, '[{}]')}")
        else:
            flat[name] = value
    for name in flat:
        if name not in known:
            raise ValueError(f"{path}: {shortened(name)}: no such key; {_nearest(name, known)}")
    return flat


def _nearest(name: str, known, form: str = "{}") -> str:
    """What was probably meant: the same key elsewhere, or one that is spelt nearly so."""
    last = name.split(".")[-1]
    same = [full for full in known if full.split(".")[-1] == last]
    close = same or difflib.get_close_matches(name, known, 1, 0.7)
    if not close and "." in name:
        close = [full for near in difflib.get_close_matches(last, [k.split(".")[-1] for k in known], 1)
                 for full in known if full.split(".")[-1] == near]  # fmt: skip
    if close:
        return f"did you mean {form.format(close[0])}?"
    inside = [full for full in known if full.startswith(name.split(".")[0] + ".")] if "." in name else known
    return "expected " + ", ".join(form.format(full) for full in inside)


def value(path: str, name: str, option: Option, value: Any) -> Any:
    """`value` as the option's plain type."""
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if option.kind == "any":
        if isinstance(value, int | float | str):
            return value
        raise ValueError(f"{path}: {name}: expected a number, a word, true or false, got {reprlib.repr(value)}")
    if option.kind == "word":
        if value in option.words or (isinstance(value, str) and not option.words):
            return str(value)
        close = difflib.get_close_matches(str(value), option.words, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{path}: {name}: expected one of {', '.join(option.words)}, got {reprlib.repr(value)}{hint}")
    if option.kind == "flag":
        if isinstance(value, bool):
            return value
        raise ValueError(f"{path}: {name}: expected true or false, got {reprlib.repr(value)}")
    if option.kind == "whole":
        most = MOST_SEED if name == "seed" else MOST
        if number and isinstance(value, int) and option.least <= value <= most:
            return value
        too_large = number and isinstance(value, int) and value > most
        rule = f"<= {most}" if too_large else f">= {option.least}"
        raise ValueError(f"{path}: {name}: expected an integer {rule}, got {reprlib.repr(value)}")
    with contextlib.suppress(OverflowError):
        if number and not math.isnan(value):
            return float(value)
    raise ValueError(f"{path}: {name}: expected a number, got {reprlib.repr(value)}")


def plain_value(value):
    """A value as JSON takes it, which has no infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
