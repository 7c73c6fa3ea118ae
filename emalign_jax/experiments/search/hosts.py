"""Several processes at one search, on one or more hosts.

They meet through `jax.distributed`, which finds out who is who, and part from it at once: games need no collectives,
and its service ends every process with an abort when one dies. From then on they share a directory, which all must
see: whoever is free takes the next block there, so a slow host does fewer, and each shows every second that it lives.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from emalign_jax.internal import temporary

CLEAN = "nothing half-written is left"
MEETING = 240.0  # seconds to wait for the others; jax aborts after 300, with a stack trace
BEAT = 1.0  # seconds between signs of life
LEAST = 32  # games of a block that several hosts share
SILENCE = 60.0  # seconds without one after which a host is taken for dead


class Meeting(NamedTuple):
    """host: this process's number, from 0; hosts: how many there are; block: games; and what is the same at all of
    them, token: a random number, and machine: a digest of the one they run on, or "hosts" if there are several."""

    host: int
    hosts: int
    token: int
    block: int
    machine: str = temporary.HOST

    def directory(self, path: Path) -> Path:
        """Where they meet, beside the run to be. If all are killed, only those of one machine can be proved dead."""
        return temporary.name(path.absolute(), f"{self.token:08x}", self.machine)


class HostLost(OSError):
    """Another process failed, was stopped or is silent."""


def meet(coordinator: str | None, hosts: int | None, host: int | None, terms: str, block: int) -> Meeting:
    """Meet the other processes. None: found out by jax from the cluster's environment (Slurm, MPI, TPU, ...).

    terms: what must be the same at all; block: games of a block that would suit this host, of which the least is taken.
    Raises `ValueError` if they do not find each other or their terms differ.
    """
    from jax.experimental.multihost_utils import process_allgather

    digest = int.from_bytes(hashlib.sha256(terms.encode()).digest()[:4], "big")
    token = int.from_bytes(os.urandom(4), "big")
    jax.config.update("jax_enable_preemption_service", False)  # it would swallow SIGTERM
    with _quiet(), _at_most(MEETING):
        try:
            jax.distributed.initialize(coordinator, hosts, host)
            me, count = jax.process_index(), jax.process_count()
        except (RuntimeError, ValueError, TypeError) as error:
            raise ValueError(f"--distributed, --hosts, --host, --coordinator: hosts did not meet: {error}") from None
        mine = np.array([digest, token, block, int(temporary.HOST, 16)], np.uint32)
        said = np.asarray(process_allgather(mine)).reshape(count, len(mine))
        jax.distributed.shutdown()  # which waits for all
    different = np.flatnonzero(said[:, 0] != said[0, 0])
    if len(different):
        raise ValueError(
            f"--hosts: every host needs the same options and versions; host {different[0]} has others than host 0"
        )
    machine = temporary.HOST if len(set(said[:, 3].tolist())) == 1 else "hosts"
    return Meeting(me, count, int(said[0, 1]), int(said[:, 2].min()), machine)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Standard output belongs to the command; gloo, which carries messages between CPUs, writes there."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """End the process with one line if the block takes longer: nothing interrupts jax while it waits for others."""

    def give_up():
        print(f"emalign: --hosts: the others did not come within {seconds:g} s; nothing was begun", file=sys.stderr)
        sys.stderr.flush()
        os._exit(2)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Team:
    """The processes at one search, `host` among them, in the shared directory `path`. A context manager.

    A search by one process is a team of one, without signs of life.
    """

    def __init__(self, path: Path, host: int = 0, hosts: int = 1):
        self.path, self.host, self.hosts = path, host, hosts
        self._seen: dict[int, tuple[str, float]] = {}
        self._stop = threading.Event()
        self._looked = 0.0
        self._lock: int | None = None

    @contextlib.contextmanager
    def at_work(self) -> Iterator[Team]:
        """Others learn how the block ends, and the last to leave clears up."""
        self._gather()
        beating = threading.Thread(target=self._beat, daemon=True)
        if self.hosts > 1:
            beating.start()
        try:
            yield self
        except BaseException as error:
            if not isinstance(error, HostLost):
                words = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) or type(error).__name__
                self._mark(f"failed-{self.host}", " ".join(words.split()))
            raise
        finally:
            self._stop.set()
            if beating.is_alive():
                beating.join()
            self._mark(f"left-{self.host}")
            if all(self._read(f"left-{n}") is not None or self._silent(n) for n in range(self.hosts)):
                shutil.rmtree(self.path, ignore_errors=True)
            if self._lock is not None:
                os.close(self._lock)

    def _gather(self) -> None:
        until = time.monotonic() + SILENCE
        while self._lock is None:
            if self.host == 0:
                self.path.mkdir(exist_ok=True)
            self._lock = temporary.hold(self.path, shared=True)
            if self._lock is not None:
                return
            if time.monotonic() > until:
                raise HostLost(
                    f"{self.path}: host 0 has made this directory, host {self.host} does not see it; --out must lie in "
                    "a file system that all hosts share"
                )
            time.sleep(0.1)
            with contextlib.suppress(OSError):
                os.listdir(self.path.parent)  # so that network file systems look again

    def take(self, block: int) -> bool:
        """Whether the block is this process's to do; exactly one is told so."""
        self.look()
        try:
            os.close(os.open(self.path / f"taken-{block}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        return True

    def look(self) -> None:
        """Raise `HostLost` if another process is no longer at work. Reads files once a beat at most."""
        if self.hosts == 1 or time.monotonic() - self._looked < BEAT:
            return
        self._looked = time.monotonic()
        for n in range(self.hosts):
            failed = self._read(f"failed-{n}")
            if failed is not None and n != self.host:
                raise HostLost(f"host {n} ended early ({failed}), so host {self.host} does; {CLEAN}")
        for n in range(self.hosts):
            if n != self.host and self._silent(n) and self._read(f"left-{n}") is None:
                raise HostLost(f"host {n} gave no sign of life for {SILENCE:g} s, so host {self.host} ends; {CLEAN}")

    def say(self, what: str, text: str = "") -> None:
        """Tell the others that this process is through with something."""
        self._mark(f"{what}-{self.host}", text)

    def wait(self, what: str, hosts: Any = None) -> list[str]:
        """What the hosts (None: all) said when they were through with it."""
        hosts = range(self.hosts) if hosts is None else hosts
        while True:
            said = [self._read(f"{what}-{n}") for n in hosts]
            if None not in said:
                return [text for text in said if text is not None]
            self.look()
            time.sleep(0.05)

    def _mark(self, name: str, text: str = "") -> None:
        with contextlib.suppress(OSError):
            temporary = self.path / f".{name}.{self.host}"
            temporary.write_bytes(os.fsencode(text))
            os.replace(temporary, self.path / name)

    def _read(self, name: str) -> str | None:
        try:
            return os.fsdecode((self.path / name).read_bytes())
        except OSError:
            return None

    def _silent(self, n: int) -> bool:
        """Whether its sign of life has not changed for too long by this process's own clock."""
        if n == self.host:
            return False
        now, text = time.monotonic(), self._read(f"alive-{n}") or ""
        before, since = self._seen.setdefault(n, (text, now))
        if text != before:
            self._seen[n] = text, now
            return False
        return now - since > SILENCE

    def _beat(self) -> None:
        count = 0
        while not self._stop.wait(BEAT if count else 0):
            count += 1
            self._mark(f"alive-{self.host}", str(count))
