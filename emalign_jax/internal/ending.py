"""Clean-up when a process ends: at the end of a block, or by the handler of a signal, which then ends the process.

Signals raise no exception, because libraries may swallow it, blocks may wait for threads before they pass it on, and a
second signal may arrive during the clean-up for the first.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
# Seconds that the main thread has to handle a signal. It cannot while it is inside a compilation, for example.
PATIENCE = 2.0
CLEAN = "nothing half-written is left"

_calls: list[Callable[[], object]] = []
_messages: list[Callable[[], str]] = [lambda: CLEAN]
_ending = threading.RLock()


@contextlib.contextmanager
def cleanup(call: Callable[[], object]) -> Iterator[None]:
    """Call `call()` when the block ends, in any way. A signal may call it again while it runs."""
    _calls.append(call)
    try:
        yield
    finally:
        call()
        _calls.remove(call)


@contextlib.contextmanager
def interrupt_message(words: Callable[[], str]) -> Iterator[None]:
    """Print `words()` if a signal ends the process within the block."""
    _messages.append(words)
    try:
        yield
    finally:
        _messages.remove(words)


def install_handlers() -> None:
    """Let SIGINT, SIGTERM and SIGHUP end the process after the clean-up, with the code 128 + the signal's number.

    Signals that are ignored, as under nohup, stay ignored.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: _end(number))
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), daemon=True).start()


def _watch(reading: int) -> None:
    """End the process from this thread if the main thread does not."""
    while (number := os.read(reading, 1)[0]) not in SIGNALS:  # Python writes the numbers of other signals too
        pass
    time.sleep(PATIENCE)
    _end(number)


def _end(number: int) -> None:
    with _ending:  # never released; a second signal in the same thread may enter it again
        for call in reversed(_calls.copy()):
            with contextlib.suppress(Exception):
                call()
        with contextlib.suppress(OSError):  # not through sys.stderr, which may be locked by the interrupted code
            words = " ".join(f"emalign: interrupted; {_messages[-1]()}".split())
            start = "\n" if os.isatty(2) else ""  # below a progress bar
            os.write(2, f"{start}{words}\n".encode(errors="backslashreplace"))
        os._exit(128 + number)
