"""Standard streams that no output can fail on for want of a reader's alphabet, or of the stream itself."""

from __future__ import annotations

import contextlib
import io
import os
import sys


def prepare() -> None:
    """Open what a shell has closed (2>&-) on the null device, or the next file opened would get its number, and what
    libraries print there; and have names that are no text in this locale printed with escapes."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which takes the least number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if number == 0 else "w", encoding="utf-8"))  # noqa: SIM115
        with contextlib.suppress(OSError):
            if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
