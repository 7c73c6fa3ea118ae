"""Free memory, and refusals of work that would not fit into it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
LIMITS = (("memory.max", "memory.current", "inactive_file"),
          ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"))  # fmt: skip


def require(needed: int, what: str) -> None:
    """Raise `ValueError` if `needed` bytes are more than the free memory.

    what: the field and what takes the memory, such as "count: 10 games of this size".
    """
    free = free_bytes()
    if needed > free:
        raise ValueError(f"{what} would take about {size(needed)} of memory, {size(free)} are free")


def free_bytes() -> int:
    """Memory that this process can still take: the least of that of the machine and of the limits of the process."""
    known = [name for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES") if name in getattr(os, "sysconf_names", {})]
    free = [os.sysconf(known[0]) * os.sysconf("SC_PAGE_SIZE")] if known else [2**30]
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):  # includes memory that caches would give back
            free = [int(line.split()[1]) * 1024]
    return min([*free, *_left_in_groups(), *_left_of_addresses()])


def size(count: int) -> str:
    """A number of bytes in words, such as "3.2 GB"."""
    power = min((len(str(count)) - 1) // 3, 6)
    return f"{count / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB', 'PB', 'EB')[power]}"


def _left_in_groups() -> Iterator[int]:
    """Free memory in each control group of the process and in the groups that contain it."""
    for line in _lines(OWN_GROUPS):
        _, controllers, path = line.split(":", 2)
        root = GROUPS / "memory" if controllers else GROUPS  # version 1 has one tree for each controller
        if controllers and "memory" not in controllers.split(","):
            continue
        own = root / path.strip("/")
        for group in (own, *own.parents):
            for most, taken, cached in LIMITS:
                numbers = [line for name in (most, taken) for line in _lines(group / name)]
                if len(numbers) == 2 and all(number.isdigit() for number in numbers):
                    cache = [int(x.split()[1]) for x in _lines(group / "memory.stat") if x.split()[0] == cached]
                    yield max(int(numbers[0]) - int(numbers[1]) + sum(cache), 0)
            if group == root:
                break


def _left_of_addresses() -> Iterator[int]:
    """Free address space under `ulimit -v`."""
    try:
        import resource
    except ImportError:  # Windows
        return
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    for line in _lines(Path("/proc/self/statm")):
        if most != resource.RLIM_INFINITY:
            yield max(most - int(line.split()[0]) * resource.getpagesize(), 0)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
