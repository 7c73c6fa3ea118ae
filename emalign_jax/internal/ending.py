"""What is owed when a process ends: it is done at the end of its block, or by a signal's handler, which then leaves.

No exception is raised by a signal, because libraries swallow exceptions, blocks wait for threads before they pass one
on, and a second signal would meet the first one's exception in the middle of clearing up.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
PATIENCE = 2.0  # seconds that the main thread has: Python handles no signal there during a compilation, say
CLEAN = "nothing half-written is left"

_owed: list[Callable[[], object]] = []
_says: list[Callable[[], str]] = [lambda: CLEAN]
_ending = threading.RLock()


@contextlib.contextmanager
def owed(call: Callable[[], object]) -> Iterator[None]:
    """`call()` is done when the block ends, however it ends. It may be begun again while it runs."""
    _owed.append(call)
    try:
        yield
    finally:
        call()
        _owed.remove(call)


def owe(call: Callable[[], object]) -> Callable[[], object]:
    """`call()` is done if a signal ends the process; a decorator."""
    _owed.append(call)
    return call


@contextlib.contextmanager
def saying(words: Callable[[], str]) -> Iterator[None]:
    """What the one line says if a signal ends the process within the block."""
    _says.append(words)
    try:
        yield
    finally:
        _says.remove(words)


def on_signals() -> None:
    """From now on SIGINT, SIGTERM and SIGHUP end the process in this way, with the code 128 + the signal's number.

    A signal that is ignored stays ignored, as under nohup.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: _end(number))
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), daemon=True).start()


def _watch(reading: int) -> None:
    """End the process from this thread where the main thread does not."""
    while (number := os.read(reading, 1)[0]) not in SIGNALS:  # others that Python handles
        pass
    time.sleep(PATIENCE)
    _end(number)


def _end(number: int) -> None:
    with _ending:  # which is never left; a second signal may begin again here, in the same thread
        for call in reversed(_owed.copy()):
            with contextlib.suppress(Exception):
                call()
        with contextlib.suppress(OSError):  # not through sys.stderr, which may be in the middle of something
            words = " ".join(f"emalign: interrupted; {_says[-1]()}".split())
            start = "\n" if os.isatty(2) else ""  # a bar may be there
            os.write(2, f"{start}{words}\n".encode(errors="backslashreplace"))
        os._exit(128 + number)
