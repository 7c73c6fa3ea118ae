"""The table of the README of this folder on whatever device jax has: `python benchmarks/accelerator.py` (`--quick`: a
smoke test). Made for a GPU that is lent for minutes; on a CPU it says so.

Every row runs in a process of its own, the most important first, until --seconds are spent: median seconds after a
first run with compilation, the certified gap, the largest memory of the device and what passes between it and the
host. Then processes without an accelerator solve a sample of each row's games from the same starts, and certify the
device's own schemes one game at a time by NumPy and HiGHS. The JSON file is written after every row.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from beliefs import profiles

import emalign_jax as em
from emalign_jax.internal.transfers import counted

# Both sides' brackets of the same gain may miss each other, and values of the same schemes differ, by this share of
# the payoff range: ten times the LPs' own tolerance.
AGREE = 1e-8
# Schemes closer than this count as the same end of a search.
SAME = 1e-6
# The share of the time that the device's rows may take; the rest is for the checks on the host.
FOR_ROWS = 0.8
# The share of the time that one row may take at most.
FOR_ONE = 0.3
# Seconds after which a row is not run again, be it fewer than five times.
ENOUGH = 15
# A smaller payoff range, in units of utility, counts as this: the LPs' error would be a large share of it.
LEAST_RANGE = 1e-5
# No row or check is begun with fewer seconds.
LEAST = 12
LATE = "no time left"
FIELDS = ("prior", "user_utility", "agent_utilities")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: `count` games (of `sizes`), `quick` in a smoke test, of which `sample` are checked."""

    kind: str  # "solve", "play" (unverified), "certify" (profiles of benchmarks/beliefs.py) or "search" (the command)
    count: int
    quick: int = 0  # 0: not in the smoke test
    sample: int = 32
    protocol: Any = None
    user: Any = None
    tolerance: float = 1e-3
    sizes: dict = dataclasses.field(default_factory=dict)

    def work(self, count: int):
        """Games, and the profiles to certify."""
        if self.kind == "certify":
            return profiles(self.sizes["agents"], self.sizes["features"], count)
        sizes = {name: size for name, size in self.sizes.items() if name != "messages"}
        return em.random_games(0, count, information_worth=0.0, **sizes), None

    def found(self, games, schemes, count: int):
        """Schemes and certificate of the first of `count` games."""
        if self.kind == "certify":
            return schemes, em.certify(games, schemes, self.protocol, self.user, tolerance=self.tolerance)
        found = em.solve(games, self.protocol, self.user, em.GradientPlay(tolerance=self.tolerance), key=1, of=count,
                         start="random", messages=self.sizes.get("messages"), verify=self.kind == "solve")  # fmt: skip
        return found.schemes, found.certificate


def selection(family: str, count: int, quick: int = 0) -> Row:
    return Row("solve", count, quick, 64, em.Selection(), em.RationalUser(), 1e-5, {"family": family, "agents": 5})


def pooled(kind: str, family: str, count: int, quick: int = 0) -> Row:
    sizes = {"family": family, "agents": 2, "agent_features": 3, "actions": 4, "messages": 4}
    return Row(kind, count, quick, 16, em.Pooled(), em.QuantalUser(20.0), 1e-3, sizes)


def brackets(agents: int, features: int, quick: int, sample: int) -> Row:
    sizes = {"agents": agents, "features": features}
    return Row("certify", 64, quick, sample, em.Pooled(), em.QuantalUser(50.0), 1e-3, sizes)


# The most important first.
ROWS = {
    "em.solve, Selection rational, K = 5, A = Y = 4, hull": selection("hull", 1024, 16),
    "em.solve, Pooled quantal L = 20, K = 2, XB = 3, M = A = 4, hull": pooled("solve", "hull", 512),
    "em.solve, Selection rational, K = 5, A = Y = 4, shared_bias": selection("shared_bias", 1024),
    "em.solve, Pooled quantal L = 20, K = 2, XB = 3, M = A = 4, noise": pooled("solve", "noise", 256),
    "growth: Selection rational, shared_bias, 10,000 games": selection("shared_bias", 10_000),
    "em.certify, Pooled quantal L = 50, K = 3, XB = M = 3": brackets(3, 3, 5, 16),
    "play alone: Pooled quantal L = 20, hull": pooled("play", "hull", 131_072, 64),
    "emalign search, no option": Row("search", 100, 2),
    "em.certify, Pooled quantal L = 50, K = 2, XB = M = 4": brackets(2, 4, 0, 8),
    "growth: Selection rational, shared_bias, 1,000 games": selection("shared_bias", 1000),
    "growth: Selection rational, shared_bias, 100,000 games": selection("shared_bias", 100_000),
}


def clock(call):
    began = time.perf_counter()
    answer = call()
    return time.perf_counter() - began, answer


def peaks() -> dict[str, float]:
    """Largest memory so far in megabytes, of the device where it is known, and of the process."""
    import resource  # not on Windows

    stats = jax.devices()[0].memory_stats() or {}
    of_device = {"device_peak_mb": stats["peak_bytes_in_use"] / 1e6} if "peak_bytes_in_use" in stats else {}
    return of_device | {"process_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}


def gaps(certificate) -> dict[str, float]:
    """The shares certified and closed, and the largest proved gain and the widest bracket of those, as shares of the
    payoff range."""
    unit = np.maximum(certificate.payoff_range, LEAST_RANGE)
    upper, wide = certificate.gain_upper / unit, (certificate.gain_upper - certificate.gain_lower) / unit
    good, closed = certificate.result == em.Result.CERTIFIED, certificate.closed
    return {
        "certified": float(good.mean()), "certified_gap": float(upper[good].max(initial=0.0)),
        "closed": float(closed.mean()), "bracket": float(wide[closed].max(initial=0.0)),
    }  # fmt: skip


def measure(name: str, quick: bool, until: float, kept: Path) -> Iterator[dict]:
    """A row on this process's device, after the first run and after all; a sample of what was found is kept for the
    check."""
    row, compiling = ROWS[name], []

    def listen(event: str, duration: float, **_: Any) -> None:
        if event.endswith("backend_compile_duration"):
            compiling.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    games, given = row.work(row.quick if quick else row.count)

    def run():
        return row.found(games, given, games.batch_shape[0])

    with counted() as traffic:
        first, (schemes, certificate) = clock(run)
    compiled, count, device = sum(compiling), len(schemes), jax.devices()[0]
    sample, columns = min(row.sample, count), ("user", "gain_lower", "gain_upper", "payoff_range", "result")
    np.savez(kept, schemes=schemes[:sample], **{x: np.asarray(getattr(games, x))[:sample] for x in FIELDS},
             **{x: getattr(certificate, x)[:sample] for x in columns if certificate is not None})  # fmt: skip
    dtypes = {"solve": "float32 play, float64 checks", "play": "float32", "certify": "float64"}
    chunks, runs = traffic.programs["advance"], []
    found = {
        "row": name, "device": device.device_kind, "platform": device.platform, "games": count,
        "dtype": dtypes[row.kind], "first_s": first, "compile_s": compiled,
        "programs": sum(traffic.programs.values()), "chunks": chunks, "round_trips": traffic.trips,
        "round_trips_a_chunk": traffic.trips / chunks if row.kind == "play" else None,
        "sent_mb": traffic.sent_bytes / 1e6, "fetched_mb": traffic.fetched_bytes / 1e6,
    } | ({} if certificate is None else gaps(certificate))  # fmt: skip
    while True:
        median = statistics.median(runs or [first])
        yield found | {"runs": len(runs), "seconds": median, "per_second": count / median} | peaks()
        enough = len(runs) == (1 if quick else 5) or sum(runs) > ENOUGH
        if enough or (runs and time.time() + 1.5 * max(runs) > until):
            return
        runs.append(clock(run)[0])


def check(name: str, quick: bool, kept: Path) -> dict:
    """The sample of a row on the host: solved anew from the same starts, and the device's schemes certified."""
    row = ROWS[name]
    given = dict(np.load(kept))
    games, sample = em.Game(*(given[x] for x in FIELDS)), len(given["schemes"])
    words = (games, given["schemes"], row.quick if quick else row.count)
    row.found(*words)
    seconds, (schemes, _) = clock(lambda: row.found(*words))
    apart = np.abs(schemes - given["schemes"]).max((-3, -2, -1))
    words = {"tolerance": 1.01 * row.tolerance, "lp": "highs"}
    took, own = clock(lambda: em.certify(games, given["schemes"], row.protocol, row.user, **words))
    found = {
        "sample": sample, "host_per_second": sample / seconds, "same_schemes": float((apart <= SAME).mean()),
        "scheme_difference": float(apart.max()), "certify_s": took, "host": gaps(own),
    }  # fmt: skip
    if "user" not in given:  # play alone has nothing to compare
        return found
    unit = np.maximum(own.payoff_range, LEAST_RANGE)
    values = np.abs(own.user - given["user"]) / unit.max(-1)
    missed = np.maximum(own.gain_lower - given["gain_upper"], given["gain_lower"] - own.gain_upper) / unit
    upper = np.abs(own.gain_upper - given["gain_upper"]) / unit
    found |= {"value_difference": float(values.max()), "upper_difference": float(upper.max()),
              "brackets_missed_by": float(max(0.0, missed.max()))}  # fmt: skip
    return found | {"within": bool(max(found["value_difference"], found["brackets_missed_by"]) <= AGREE)}


def search(quick: bool, until: float, folder: Path) -> dict:
    """`emalign search` as a process, with an empty cache of compiled programs and then with a full one."""
    import pandas as pd

    command = [sys.executable, "-m", "emalign_jax", "search", "--out", str(folder / "run"), "--force"]
    command += ["--count", "2", "--agents", "2", "--family", "hull"] if quick else []
    own = {} if quick else {"JAX_COMPILATION_CACHE_DIR": str(folder / "cold")}
    seconds = []
    for _ in range(1 if quick else 2):
        began = time.perf_counter()
        done = subprocess.run(command, env=os.environ | own, check=False, capture_output=True, text=True,
                              timeout=until - time.time())  # fmt: skip
        if done.returncode:
            return {"failed": (done.stderr.strip().splitlines() or ["no answer"])[-1]}
        seconds.append(time.perf_counter() - began)
    table = pd.read_parquet(folder / "run" / "games.parquet")
    good = table[table["certified"]]
    gains = zip(good["gain_upper"], good["payoff_range"], strict=True)
    upper = [np.max(gain / np.maximum(unit, LEAST_RANGE)) for gain, unit in gains]
    device = json.loads((folder / "run" / "manifest.json").read_text())["device"]
    return {
        "device": device["kind"], "platform": device["platform"], "games": len(table), "first_s": seconds[0],
        "dtype": "float32 play, float64 checks", "seconds": seconds[-1], "per_second": len(table) / seconds[-1],
        "certified": float(np.mean(table["certified"])),
        "certified_gap": float(np.max(upper)),
    }  # fmt: skip


def asked(what: str, names: list[str], quick: bool, until: float, folder: Path, environment: dict) -> dict[str, dict]:
    """The answers of a process that measures or checks these rows."""
    command = [sys.executable, __file__, what, *names, "--until", str(until), "--folder", str(folder)]
    command += ["--quick"] * quick
    try:
        done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False,
                              timeout=until - time.time())  # fmt: skip
        out, failed = done.stdout, (done.stderr.strip().splitlines() or [f"exit {done.returncode}, no message"])[-1]
    except subprocess.TimeoutExpired as late:  # which has bytes even of text
        out, failed = (late.stdout or b"").decode(), LATE
    answers = dict(json.loads(line) for line in out.splitlines() if line.startswith("["))
    return {name: answers.get(name, {"failed": failed}) for name in names}


def line(row: dict) -> str:
    if "failed" in row:
        return f"{row['row']}: left out: {row['failed']}"
    text = f"{row['row']}, {row['games']:,} games, {row['dtype']}, {row['platform']} ({row['device']}): first "
    text += f"{row['first_s']:.1f} s, "
    text += f"then {row['seconds']:.2f} s, " if row.get("runs", 1) else "no other in time, "
    text += f"{row['per_second']:,.0f} games/s"
    if ROWS[row["row"]].kind == "certify":
        text += f"; gains bracketed {row['closed']:.1%} within {row['bracket']:.1e}"
    elif "certified" in row:
        text += f"; certified {row['certified']:.1%} within {row['certified_gap']:.1e}"
    if "programs" in row:
        text += f"\n    compiling {row['compile_s']:.1f} s, {row['programs']} programs, {row['chunks']} chunks, "
        text += f"{row['round_trips']} round trips, {row['sent_mb']:.1f} MB there and {row['fetched_mb']:.1f} back; "
        text += f"memory of the process {row['process_peak_mb']:.0f} MB, of the device "
        text += f"{row['device_peak_mb']:.0f} MB" if "device_peak_mb" in row else "not known"
    return text


def line_of_check(row: dict) -> str:
    found, text = row["check"], row["row"]
    if "failed" in found:
        return f"{text}: not checked: {found['failed']}"
    text += f", {found['sample']} games: {found['host_per_second']:.1f} games/s here, {found['same_schemes']:.0%} end "
    text += f"in the same schemes; HiGHS certifies {found['host']['certified']:.1%} of the device's, brackets "
    text += f"{found['host']['closed']:.1%}"
    if "within" in found:
        text += (
            f"; values {found['value_difference']:.0e} apart, bounds {found['upper_difference']:.0e}, brackets miss "
        )
        text += f"by {found['brackets_missed_by']:.0e}: {'within' if found['within'] else 'NOT WITHIN'} {AGREE:.0e}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="small sizes, few rows: a smoke test")
    parser.add_argument("--seconds", type=float, default=480, help="for everything (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose name holds this")
    parser.add_argument("--out", type=Path, default=Path("accelerator.json"), help="(default: %(default)s)")
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.what:
        for name in options.what[1:]:
            kept = options.folder / f"{list(ROWS).index(name)}.npz"
            words = (name, options.quick, options.until, kept)
            for found in measure(*words) if options.what[0] == "measure" else [check(name, options.quick, kept)]:
                print(json.dumps([name, found]), flush=True)
        return
    began, names = time.time(), [x for x, row in ROWS.items() if options.only in x and (row.quick or not options.quick)]
    rows: dict[str, dict] = {}

    def write():
        document = {"jax": jax.__version__, "seconds": time.time() - began, "rows": list(rows.values())}
        options.out.write_text(json.dumps(document, indent=2) + "\n")

    def groups(names):  # One process each, for the memory of each; in a smoke test one for all.
        return [names] if options.quick else [[name] for name in names]

    with tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "cache"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        until = began + FOR_ROWS * options.seconds
        commands = [name for name in names if ROWS[name].kind == "search"]
        others = groups([name for name in names if name not in commands])
        for group in sorted([*others, *groups(commands)], key=lambda group: names.index(group[0])):
            stop = min(until, time.time() + FOR_ONE * options.seconds)
            if until - time.time() < LEAST:
                found = {name: {"failed": LATE} for name in group}
            elif group == commands:
                try:
                    found = {group[0]: search(options.quick, stop, folder)}
                except subprocess.TimeoutExpired:
                    found = {group[0]: {"failed": LATE}}
            else:
                found = asked("measure", group, options.quick, stop, folder, {})
            for name, answer in found.items():
                rows[name] = {"row": name} | answer
                print(line(rows[name]), flush=True)
            write()
        until = began + options.seconds
        print("\nThe same on the host:", flush=True)
        for group in groups([x for x in names if x not in commands and "failed" not in rows[x]]):
            found = {name: {"failed": LATE} for name in group}
            if until - time.time() >= LEAST:
                found = asked("check", group, options.quick, until, folder, {"JAX_PLATFORMS": "cpu"})
            for name, answer in found.items():
                rows[name]["check"] = answer
                print(line_of_check(rows[name]), flush=True)
            write()
    checks = [row.get("check", {}) for row in rows.values()]
    broken = [one["failed"] for one in (*rows.values(), *checks) if one.get("failed", LATE) != LATE]
    print(f"\n{time.time() - began:.0f} s; written: {options.out}")
    if not all(one.get("within", True) for one in checks):
        sys.exit("the device and the host do not agree")
    if broken:
        sys.exit(f"failed: {'; '.join(broken)}")


if __name__ == "__main__":
    main()
