"""Standard streams made safe to print to: closed ones are opened, and what their encoding lacks is escaped."""

from __future__ import annotations

import contextlib
import io
import os
import sys


def prepare() -> None:
    """Make the standard streams safe to print to.

    A stream that a shell has closed (2>&-) is opened on the null device: otherwise the next file opened would get its
    number, and with it what libraries print there. Characters that the locale's encoding lacks are printed as escapes.
    """
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
