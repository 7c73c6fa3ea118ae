"""Several processes at one search, on one or more hosts.

They meet through `jax.distributed`, which finds out who is who, and part from it at once: games need no collectives,
which listen on a port until the process ends, and its service ends every process with an abort when one dies. It
listens at the address given alone, and asks for no password, so the network must be trusted. From then on they share a
directory, which all must see: a host that is free takes the next block there, so a slow host does fewer, and each shows
every second that it lives.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from emalign_jax.internal import ending, temporary
from emalign_jax.internal.ending import CLEAN

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
    from jax._src.distributed import global_state  # there is no public way to its store of keys and values

    if coordinator is not None and host == 0:
        _check_address(coordinator)
    mine = {
        "terms": hashlib.sha256(terms.encode()).hexdigest(), "token": secrets.randbits(32), "block": block,
        "machine": temporary.HOST,
    }  # fmt: skip
    jax.config.update("jax_enable_preemption_service", False)  # it would swallow SIGTERM
    with _at_most(MEETING):
        try:
            jax.distributed.initialize(coordinator, hosts, host, coordinator_bind_address=coordinator)
            me, count = global_state.process_id, global_state.num_processes
            store: Any = global_state.client
            store.key_value_set(f"emalign/{me}", json.dumps(mine))
            wait = int(1000 * MEETING)
            said = [json.loads(store.blocking_key_value_get(f"emalign/{n}", wait)) for n in range(count)]
            jax.distributed.shutdown()  # which waits for all
        except (RuntimeError, ValueError, TypeError) as error:
            raise ValueError(f"--distributed, --hosts, --host, --coordinator: hosts did not meet: {error}") from None
    different = [n for n in range(count) if said[n]["terms"] != said[0]["terms"]]
    if different:
        raise ValueError(
            f"--hosts: every host needs the same options and versions; host {different[0]} has others than host 0"
        )
    machine = temporary.HOST if len({one["machine"] for one in said}) == 1 else "hosts"
    return Meeting(me, count, said[0]["token"], min(one["block"] for one in said), machine)


def _check_address(coordinator: str) -> None:
    """Raise `ValueError` where no socket can listen: jax would end the process."""
    address, _, port = coordinator.rpartition(":")
    try:
        family, kind, _, _, place = socket.getaddrinfo(address.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        raise ValueError(f"--coordinator: host 0 cannot listen at {coordinator}: {error.strerror}") from None


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


class Hosts:
    """The processes at one search, `host` among them, in the shared directory `path`. A context manager.

    A search by one process has one host, which shows no signs of life.
    """

    def __init__(self, path: Path, host: int = 0, hosts: int = 1):
        self.path, self.host, self.hosts = path, host, hosts
        self._seen: dict[int, tuple[str, float]] = {}
        self._beating = threading.Thread(target=self._beat, daemon=True)
        self._left = False  # no event, whose lock a signal's handler might wait for in vain
        self._why: str | None = "interrupted"  # if this host ends early
        self._looked = 0.0
        self._lock: int | None = None

    @contextlib.contextmanager
    def at_work(self) -> Iterator[Hosts]:
        """Others learn how the block ends, and the last to leave clears up."""
        with ending.cleanup(self._leave):
            self._gather()
            if self.hosts > 1:
                self._beating.start()
            try:
                yield self
                self._why = None
            except HostLost:
                self._why = None
                raise
            except Exception as error:
                self._why = " ".join((str(error) or type(error).__name__).split())
                raise

    def _leave(self) -> None:
        self._left = True
        if self._beating.is_alive():
            self._beating.join(BEAT)
        if self._why is not None:
            self._mark(f"failed-{self.host}", self._why)
        self._mark(f"left-{self.host}")
        if all(self._read(f"left-{n}") is not None or self._silent(n) for n in range(self.hosts)):
            shutil.rmtree(self.path, ignore_errors=True)
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

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
        count, due = 0, 0.0
        while not self._left:
            if time.monotonic() >= due:
                count, due = count + 1, time.monotonic() + BEAT
                self._mark(f"alive-{self.host}", str(count))
            time.sleep(BEAT / 50)
