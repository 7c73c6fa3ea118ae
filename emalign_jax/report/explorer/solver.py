"""HiGHS for the browser: the npm package `highs`, WebAssembly and a loader, fetched once and kept in the user's cache.

It is not part of this package. What is fetched, kept or given must be the file whose digest stands here.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import os
import re
import tarfile
from pathlib import Path
from typing import NamedTuple

from emalign_jax.internal import compiled_cache
from emalign_jax.internal.files import atomic, check_input

VERSION = "1.15.3"
# The digest that the npm registry publishes, of the whole archive.
INTEGRITY = "sha512-5rzjBlAkqRxr7FOv+iZjxF8nNfKsEt8uOaP3S6gls6yRf4+Jv4BqBIE3iPFsgfOHutQBMNxRE9jWhxRAM7Oycw=="
NAME = f"highs-{VERSION}.tgz"
REGISTRY = "https://registry.npmjs.org/"
PATIENCE = 30  # seconds without an answer
MOST_BYTES = 16_000_000


class Solver(NamedTuple):
    """loader: a JavaScript module whose default export loads the solver; wasm: the compiled solver; licence: its
    text."""

    loader: str
    wasm: bytes
    licence: str


def load(file: Path | None = None) -> Solver:
    """The solver, from `file`, the user's cache or the npm registry, which is asked once.

    file: the archive as npm gives it, highs-1.15.3.tgz, for machines without a network.
    Raises `ValueError` that says what to do if it cannot be had or is another file.
    """
    if file is not None:
        check_input(file, "an npm archive", MOST_BYTES)
        archive = file.read_bytes()
        if not _is_it(archive):
            raise ValueError(f"{file}: --highs: expected {NAME} of the npm registry, its sha512 is another")
        return _unpack(archive)
    kept = _kept()
    archive = b""
    if kept is not None:
        with contextlib.suppress(OSError):
            archive = kept.read_bytes()
    if not _is_it(archive):
        archive = _fetch()
        if kept is not None:
            with contextlib.suppress(OSError, ValueError):  # a cache that cannot be written is no reason to stop
                kept.parent.mkdir(parents=True, exist_ok=True)
                with atomic(kept) as temporary:
                    temporary.write_bytes(archive)
    return _unpack(archive)


def _kept() -> Path | None:
    """Where the archive is kept; None for a user without a home directory."""
    with contextlib.suppress(RuntimeError):
        return compiled_cache.home() / NAME
    return None


def _is_it(archive: bytes) -> bool:
    return f"sha512-{base64.b64encode(hashlib.sha512(archive).digest()).decode()}" == INTEGRITY


def _fetch() -> bytes:
    import urllib.request

    address = f"{registry().rstrip('/')}/highs/-/{NAME}"
    if not address.startswith(("https://", "http://")):
        raise ValueError(f"{address}: expected the address of an npm registry, https://...")
    without = f"save it from the npm registry elsewhere (npm pack highs@{VERSION}) and pass --highs {NAME}"
    try:
        with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
            archive = answer.read(MOST_BYTES)
    except (OSError, ValueError) as error:  # an address that is none is a ValueError
        raise ValueError(f"HiGHS for the browser could not be fetched from {address} ({error}): {without}") from None
    if not _is_it(archive):
        raise ValueError(f"{address}: is not {NAME}, its sha512 is another: {without}")
    return archive


def registry() -> str:
    """The npm registry that this machine uses: `NPM_CONFIG_REGISTRY`, that of ~/.npmrc, or the public one."""
    for name in ("NPM_CONFIG_REGISTRY", "npm_config_registry"):
        if os.environ.get(name):
            return os.environ[name]
    with contextlib.suppress(OSError, RuntimeError, UnicodeDecodeError):
        lines = (Path.home() / ".npmrc").read_text("utf-8")
        if found := re.search(r"^\s*registry\s*=\s*(\S+)", lines, re.M):
            return found[1].strip("\"'")
    return REGISTRY


def _unpack(archive: bytes) -> Solver:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as files:

        def read(name: str) -> bytes:
            file = files.extractfile(f"package/{name}")
            assert file is not None  # the digest says what is in the archive
            return file.read()

        loader, licence = (read(name).decode("utf-8") for name in ("build/highs.mjs", "LICENSE"))
        return Solver(loader, read("build/highs.wasm"), licence)
