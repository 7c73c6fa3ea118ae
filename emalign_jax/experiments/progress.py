"""Progress on stderr, on terminals only, and what took the time."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jax.monitoring
from tqdm import tqdm

SLOWEST = 3  # stages that the summary names
COMPILATION = "/jax/core/compile/"  # begins the names of jax's events: tracing, lowering, compiling or loading


class ProgressBar:
    """A bar with the time left; one bar, renamed and refilled stage by stage: bar(stage, done, total)."""

    def __init__(self, unit: str = "game", quiet: bool = False) -> None:
        self._unit, self._hidden = unit, quiet or not sys.stderr.isatty()
        self._bar: tqdm | None = None
        self._what = ""

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._bar is not None and what != self._what:
            self._bar.reset(total)
        self._what = what
        self._show(what, done, total)

    def counter(self, what: str, total: int) -> Callable[[int], None]:
        """What is called with how much has been done since it was called last."""
        done = 0

        def tell(more: int) -> None:
            nonlocal done
            done += more
            self(what, done, total)

        return tell

    def _show(self, words: str, done: int, total: int, more: str = "") -> None:
        if self._hidden:
            return
        if self._bar is None:  # What was there took no time, and says nothing about the time left.
            look: dict[str, Any] = {"unit": self._unit, "leave": False, "dynamic_ncols": True}
            self._bar = tqdm(total=total, initial=done, file=sys.stderr, **look)
        self._bar.set_description(words, refresh=False)
        self._bar.set_postfix_str(more, refresh=False)
        self._bar.update(done - self._bar.n)


class GridProgress(ProgressBar):
    """The line of a search or sweep: games done, how many of them are certified, the time left, the processes.

    Called with an `experiments.grid.run.Progress`.
    """

    def __init__(self, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self._since = time.perf_counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def __enter__(self):
        jax.monitoring.register_event_duration_secs_listener(self._compiled)
        return self

    def __exit__(self, *_) -> None:
        jax.monitoring.unregister_event_duration_listener(self._compiled)
        self._enter("")
        super().__exit__()

    def __call__(self, progress: Any) -> None:
        self._enter(progress.stage)
        workers = "" if progress.workers in (None, 1) else f"{progress.workers} workers"
        certified = f"{progress.certified} certified" if progress.certified else ""
        self._show(f"{progress.cell} {progress.stage}".strip() or workers, progress.done, progress.total, certified)

    def slowest(self) -> str:
        """ "compilation 4.1 s, check 2.0 s": where most of the time of this process went, "" where that is unknown."""
        spent = sorted(self._seconds.items(), key=lambda one: -one[1])
        most = [(name, seconds) for name, seconds in spent if name and seconds >= 0.05]
        return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in most[:SLOWEST])

    def _enter(self, stage: str) -> None:
        now = time.perf_counter()
        self._seconds[self._what] += now - self._since
        self._what, self._since = stage, now

    def _compiled(self, event: str, duration_secs: float, **_) -> None:
        if event.startswith(COMPILATION):
            self._seconds["compilation"] += duration_secs
            self._seconds[self._what] -= duration_secs


def tell_fallbacks(count: int, of: int) -> None:
    """The line on answers of the batched solver that were not proved, if there are any."""
    if count:
        print(f"{count} of {of} done again one by one: an answer of the batched solver failed its check.")
