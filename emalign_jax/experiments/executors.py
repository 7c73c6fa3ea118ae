"""Where `engine.run` gets workers: processes of this machine (loky), a Dask cluster, or an executor that is given."""

from __future__ import annotations

import abc
import contextlib
import json
import logging
import os
import signal
import threading
import time
import warnings
import weakref
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from pathlib import Path
from typing import Any

from emalign_jax.internal import ending
from emalign_jax.internal.arguments import integer, shortened
from emalign_jax.internal.processors import cores

TIMEOUT = 10.0  # seconds in which a scheduler must answer
PAUSES = (5.0, 15.0, 60.0)  # seconds before each try to find again a scheduler that was lost
IDLE = 300.0  # seconds after which a process without work ends
WORKERS_A_CORE = 4  # at most, on this machine
LOGGERS = ("distributed", "distributed.client", "tornado.application")  # are silent: what goes wrong is raised
LOOK = 1.0  # seconds between questions to the scheduler


class Executors(abc.ABC):
    """A source of executors, as a context manager, after which no worker is left that it has started."""

    lost: tuple[type[BaseException], ...] = (BrokenExecutor,)
    """What an executor raises, at `submit` or for a task, if the worker is gone and the task may be run again."""

    @abc.abstractmethod
    def executor(self) -> Executor:
        """The present executor; a new one if there is none."""

    @abc.abstractmethod
    def workers(self) -> int | None:
        """How many tasks are computed at once; None if that is unknown."""

    def drop(self, executor: Executor) -> None:  # noqa: B027 - there may be nothing to do
        """Called once for each task that this executor has lost."""

    def stop(self) -> None:  # noqa: B027
        """End what is under way, where that is possible."""

    def close(self) -> None:
        self.stop()

    def __enter__(self) -> Executors:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def chosen(workers: int, cluster: str | None) -> contextlib.AbstractContextManager[Executors | None]:
    """What the options --workers and --cluster ask for: None (this process) without them and with one worker.

    Raises `ValueError` for both at once, less than one worker, or as `cluster` does.
    """
    most = WORKERS_A_CORE * cores()
    if not 1 <= workers <= most:
        raise ValueError(f"--workers: expected at least 1 and at most {most}, {WORKERS_A_CORE} a core, got {workers}")
    if cluster and workers != 1:
        raise ValueError("--workers, --cluster: a cluster has its own workers; give one of the two")
    return Cluster(cluster) if cluster else contextlib.nullcontext(None) if workers == 1 else Local(workers)


class Given(Executors):
    """An executor of one's own, which is neither replaced if it breaks nor shut down in the end.

    workers: how many tasks it computes at once; None: what it says itself, if it does.

    >>> with ThreadPoolExecutor(2) as pool:
    ...     engine.run(compute, tasks, keep, executors=given(pool))  # doctest: +SKIP
    """

    lost = (BrokenExecutor, CancelledError)

    def __init__(self, executor: Executor, workers: int | None = None):
        self._executor = executor
        self._workers = getattr(executor, "_max_workers", None) if workers is None else workers

    def executor(self) -> Executor:
        return self._executor

    def workers(self) -> int | None:
        return self._workers

    def drop(self, executor: Executor) -> None:
        raise OSError(
            f"executors: the {type(executor).__name__} is broken or was shut down; what is done is kept: call this "
            "again with a new executor for the rest"
        )


class Local(Executors):
    """So many processes on this machine, which share its cores: each uses cores / workers threads, at least one.

    Raises `ValueError` for less than one.

    >>> with local(4) as executors:
    ...     engine.run(compute, tasks, keep, executors=executors)  # doctest: +SKIP
    """

    def __init__(self, workers: int):
        self._workers, self._pool = integer("workers", workers, 1), None
        self._cleanup = ending.cleanup(self.close)  # also if a signal ends this process

    def __enter__(self) -> Executors:
        self._cleanup.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._cleanup.__exit__(*error)

    def executor(self) -> Executor:
        if self._pool is None:
            from loky.process_executor import ProcessPoolExecutor

            # A process that ends when it was idle or large is replaced, and a warning says so, in a thread of loky's.
            warnings.filterwarnings("ignore", "A worker stopped while some jobs")
            more: dict[str, Any] = {"initializer": _begin, "initargs": (os.getpid(),)}
            self._pool = ProcessPoolExecutor(self._workers, timeout=IDLE, env=_environment(self._workers), **more)
        return self._pool

    def workers(self) -> int:
        return self._workers

    def drop(self, executor: Executor) -> None:
        if executor is self._pool:  # Otherwise it has been replaced already.
            self.stop()

    def stop(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, kill_workers=True)

    def close(self) -> None:
        """In a thread, because the handler of a signal must not wait for locks that the interrupted code may hold."""
        stopping = threading.Thread(target=self.stop, daemon=True)
        stopping.start()
        stopping.join(ending.PATIENCE)


def _environment(workers: int) -> dict[str, str]:
    """Variables of each of so many processes on this machine."""
    import jax

    config: Any = jax.config
    threads = str(max(1, cores() // workers))
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "PJRT_NPROC")
    return dict.fromkeys(names, threads) | {
        # Threads that a task starts do not inherit the context in which it has the client's float type.
        "JAX_ENABLE_X64": str(config.jax_enable_x64),
        # By default loky ends processes that have grown by 300 MB, which compiled programs alone may take.
        "LOKY_MAX_MEMORY_LEAK_SIZE": "1e15",
    }


def _begin(client: int) -> None:
    """In each process, first: Ctrl-C is for the client alone, and if the client is killed the process ends too."""

    def end_with_client() -> None:
        while os.getppid() == client:
            time.sleep(0.5)
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_client, daemon=True).start()


class Cluster(Executors, Executor):
    """The workers of a Dask scheduler, found at an address such as tcp://HOST:8786, tls://HOST:8786, or through the
    file that `dask scheduler --scheduler-file` writes.

    If workers declare a resource GPU, each task takes one. What tls:// needs is configured as Dask says.

    Raises `ValueError` if Dask is not installed, and when it is entered if no scheduler answers in `TIMEOUT` seconds.
    """

    def __init__(self, address: str):
        try:
            from distributed import KilledWorker
            from distributed.client import ClosedClientError
        except ImportError:
            raise ValueError("--cluster: needs Dask: pip install 'emalign-jax[cluster]'") from None
        self.lost = (KilledWorker, CancelledError, ClosedClientError, OSError)
        self._address = address
        self._looked, self._workers, self._wants = -LOOK, 0, {}
        self._futures: weakref.WeakSet = weakref.WeakSet()  # of Dask, that are not through

    def __enter__(self) -> Executors:
        self._levels = {logger: logger.level for logger in map(logging.getLogger, LOGGERS)}
        for logger in self._levels:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            self._client = self._connect()
        except Exception as error:  # Dask raises many types for addresses that are none.
            self.close()
            why = f"no scheduler answers there within {TIMEOUT:g} s; start one with `dask scheduler`"
            if not isinstance(error, OSError):
                words = shortened(error, 200)
                why = f"expected an address such as tcp://HOST:8786 of a Dask scheduler, or its file ({words})"
            raise ValueError(f"--cluster: {self._address}: {why}") from None
        return self

    def executor(self) -> Executor:
        while self._client.status == "connecting":  # Dask itself tries again, for as long as the timeout.
            time.sleep(0.1)
        if self._client.status == "running":
            return self
        for pause in PAUSES:
            time.sleep(pause)
            with contextlib.suppress(OSError):
                self._client = self._connect()
                return self
        raise OSError(
            f"--cluster: the scheduler at {self._address} is lost; what is done is kept: start a scheduler and "
            "workers, and the same command goes on"
        )

    def submit(self, fn, /, *args, **kwargs) -> Future:
        """Dask's own executor leaves a task pending for ever if the connection is lost while the result is on its
        way."""
        told: Future = Future()

        def pass_on(done: Any) -> None:
            if told.set_running_or_notify_cancel():
                try:
                    told.set_result(done.result())
                except BaseException as error:
                    told.set_exception(error)

        asked = self._client.submit(fn, *args, **kwargs, pure=False, **self._wants)
        self._futures.add(asked)
        asked.add_done_callback(pass_on)
        return told

    def workers(self) -> int:
        if time.monotonic() - self._looked >= LOOK and self._client.status == "running":
            with contextlib.suppress(OSError):
                known = list(self._client.scheduler_info(n_workers=-1)["workers"].values())
                gpus = sum(int(worker.get("resources", {}).get("GPU", 0)) for worker in known)
                self._workers = gpus or sum(worker["nthreads"] for worker in known)
                self._wants = {"resources": {"GPU": 1}} if gpus else {}
            self._looked = time.monotonic()
        return self._workers

    def stop(self) -> None:
        with contextlib.suppress(Exception):  # of a connection that is lost; the scheduler then forgets them itself
            self._client.cancel(list(self._futures))

    def close(self) -> None:
        self.stop()
        with contextlib.suppress(Exception):  # of a connection that is lost, or was never made
            self._client.close(timeout=TIMEOUT)
        for logger, level in self._levels.items():
            logger.setLevel(level)

    def _connect(self) -> Any:
        from distributed import Client

        class ClosedIfNotStarted(Client):
            """Dask closes a client that did not find its scheduler as the process ends, with tracebacks on stderr."""

            def start(self, **words):
                try:
                    super().start(**words)
                except BaseException:
                    with contextlib.suppress(Exception):
                        self.close(timeout=1)
                    raise

        file = Path(self._address)
        address = json.loads(file.read_text())["address"] if file.is_file() else self._address
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of versions; those that matter are compared for each task
            return ClosedIfNotStarted(address, timeout=TIMEOUT, set_as_default=False)


local, cluster, given = Local, Cluster, Given
