"""How all long jobs are computed: block by block, in this process or by workers, some of which may be lost.

    with engine.local(8) as executors:
        engine.run(compute, tasks, keep, executors=executors)

A task is small: text, numbers, and where the data are not drawn at random (games of a file, a table) their bytes. It
goes to the worker together with what all workers must agree on: versions, the float type and plugins.
Functions travel by name: workers have the package. Pickles pass between processes alone; none is ever a file.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import pickle
import platform
import secrets
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from importlib.metadata import version
from typing import Any, NamedTuple

from emalign_jax.experiments.executors import Executors, chosen, cluster, given, local
from emalign_jax.internal import compiled_cache, plugins
from emalign_jax.internal.processors import as_done, like_here
from emalign_jax.internal.version import VERSION

__all__ = ["RETRIES", "Task", "check_versions", "chosen", "cluster", "given", "local", "run", "versions"]

RETRIES = 3  # times that a task is run again after its worker died
POLL = 1.0  # seconds after which the number of workers is looked at, if no task ends before
UNKNOWN = 32  # workers for which an executor that does not tell their number gets tasks
_process = secrets.token_hex(8)  # what is loaded and set in this very process need not be compared or set again


class Task(NamedTuple):
    """One block of work. name: for messages. arguments: of the function that computes it, quick to send."""

    name: str
    arguments: tuple


class _Terms(NamedTuple):
    process: str
    versions: dict[str, str]
    x64: bool
    cache: bool
    plugins: plugins.Sources


class _Failed(NamedTuple):
    """What `compute` raised, returned so that all that an executor raises is about the executor; and its traceback."""

    error: Exception
    text: str


class _Call(NamedTuple):
    """What to compute. Reading its pickle computes it: so schedulers, and workers without this package, can handle it,
    and the latter say what they lack, where Dask would end them over a function that they cannot import."""

    compute: bytes
    terms: _Terms
    arguments: tuple

    def __reduce__(self):
        return _call, tuple(self)


class _AtWorker(Exception):
    """The cause of an error that comes from a worker: the traceback there, as `concurrent.futures` shows it."""


class _Flight(NamedTuple):
    losses: int
    number: int
    executor: Executor


def run(
    compute: Callable[..., Any],
    tasks: Sequence[Task],
    keep: Callable[[Task, Any], object],
    *,
    executors: Executors | None = None,
    progress: Callable[[int, int, int | None], object] | None = None,
    threads: int = 1,
    stop: Callable[[], object] = lambda: None,
) -> None:
    """compute(*task.arguments) for each task, and keep(task, result) as results arrive, in any order, once a task.

    compute:   a function of a module, so that workers find it by its name. With jax's float type of the caller.
    keep:      called in the calling thread; when it returns, the result is forgotten here.
    executors: None: in this process; otherwise `local`, `cluster` or `given`.
    threads:   in this process, how many tasks at a time; stop: called when this ends early, so that they end too.
    progress:  called with the numbers of tasks done, of all tasks and of workers (None: unknown), when one has changed.

    A task whose worker dies is run again, `RETRIES` times at most. Whatever ends this early, the rest is cancelled.

    Raises what `compute`, `keep` or `progress` raise, unchanged; `OSError` that names the task if it loses all workers
    that it is given; `ValueError` if a worker has other versions.

    >>> found = {}
    >>> run(pow, [Task("a", (2, 3)), Task("b", (2, 4))], lambda task, result: found.update({task.name: result}))
    >>> found
    {'a': 8, 'b': 16}
    """
    tell = progress or (lambda done, total, workers: None)
    if executors is not None:
        _spread(compute, tasks, keep, executors, tell)
        return
    tell(0, len(tasks), None)

    def call(task: Task) -> Any:
        return compute(*task.arguments)

    work = like_here(call) if threads > 1 else call
    for done, (task, found) in enumerate(as_done(work, tasks, threads, stop), 1):
        keep(task, found)
        tell(done, len(tasks), None)


def _spread(compute, tasks, keep, executors: Executors, tell) -> None:
    import jax

    now: Any = jax.config
    cache = now.jax_enable_compilation_cache
    function = pickle.dumps(compute)
    terms = _Terms(_process, versions(), now.jax_enable_x64, cache, plugins.sources())
    waiting = [(0, number) for number in range(len(tasks))]  # a heap: those that were lost least come first
    flying: dict[Future, _Flight] = {}
    done, told = 0, None
    try:
        while waiting or flying:
            workers = executors.workers()
            if told != (done, workers):
                told = done, workers
                tell(done, len(tasks), workers)
            lost: list[tuple[_Flight, BaseException]] = []
            while waiting and not lost and len(flying) < _most(workers, waiting[0][0]):
                executor = executors.executor()
                flight = _Flight(*heapq.heappop(waiting), executor)
                try:
                    call = pickle.dumps(_Call(function, terms, tasks[flight.number].arguments))
                    flying[executor.submit(pickle.loads, call)] = flight
                except executors.lost as error:
                    lost.append((flight, error))
            if not flying and not lost:  # there are no workers yet, or no longer
                time.sleep(POLL)
            for future in wait(flying, timeout=POLL, return_when=FIRST_COMPLETED).done:
                flight = flying.pop(future)
                try:
                    result = future.result()
                except executors.lost as error:
                    lost.append((flight, error))
                    continue
                except (ImportError, AttributeError) as error:
                    raise ValueError(f"--cluster: a worker has another emalign-jax, or none: {error}") from None
                if isinstance(result, _Failed):
                    raise result.error from _AtWorker(result.text)
                keep(tasks[flight.number], result)
                del result, future
                done, told = done + 1, (done + 1, workers)
                tell(done, len(tasks), workers)
            for flight, error in lost:
                if flight.losses >= RETRIES:
                    raise OSError(
                        f"{tasks[flight.number].name}: its worker was lost {RETRIES + 1} times "
                        f"({type(error).__name__}), as happens if memory runs out; what is done is kept: give workers "
                        "more memory, or make blocks smaller, and the same command goes on"
                    )
                heapq.heappush(waiting, (flight.losses + 1, flight.number))
                executors.drop(flight.executor)
    except BaseException:
        for future in flying:
            future.cancel()
        executors.stop()
        raise


def _most(workers: int | None, losses: int) -> int:
    """How many tasks may be under way when one is added that was lost so often: two a worker, so that none waits.

    Which task was to blame is not known: with a process of loky all others end, and Dask blames all tasks that wait for
    a worker. So the tasks that were lost are run again in ever smaller groups, after all others, and the last time each
    by itself, so that an innocent one comes through.
    """
    if workers == 0:
        return 0
    most = 2 * (workers or UNKNOWN) + 1
    return 1 if losses >= RETRIES else max(1, most >> 2 * losses)


def versions() -> dict[str, str]:
    """What must be the same at client and workers for the same results: {package: version}."""
    return {"emalign-jax": VERSION} | {name: version(name) for name in ("jax", "jaxlib", "numpy")}


def check_versions(expected: dict[str, str]) -> None:
    """Raise `ValueError` that names the first package of which this process has not the version that is expected."""
    for (name, ours), theirs in zip(versions().items(), map(expected.get, versions()), strict=True):
        if ours != theirs:
            raise ValueError(
                f"--cluster: the worker on {platform.node()} has {name} {ours}, this command has {theirs}; install the "
                "same versions for both"
            )


def _call(compute: bytes, terms: _Terms, arguments: tuple) -> Any:
    """compute(*arguments) at a worker, on the client's terms."""
    try:
        if terms.process != _process:
            check_versions(terms.versions)
            if terms.cache:
                compiled_cache.keep_here()
            plugins.load_sources(terms.plugins)
        import jax

        with jax.enable_x64(terms.x64):
            return pickle.loads(compute)(*arguments)
    except Exception as error:
        sent: Exception = RuntimeError(f"{type(error).__name__}: {error}")
        with contextlib.suppress(Exception):  # of types that cannot be sent
            sent = pickle.loads(pickle.dumps(error))
        # The command line wants to know, and tracebacks are not sent. The folder was a temporary one.
        setattr(sent, "plugin_line", os.path.basename(plugins.line_of(error)))  # noqa: B010
        return _Failed(sent, "\n" + "".join(traceback.format_exception(error)))
