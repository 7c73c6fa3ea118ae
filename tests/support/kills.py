"""Commands that are killed again and again, and whether they have left the same as one that was not."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
from support.commands import ONE_THREAD


def emalign(command, cwd="."):
    return subprocess.Popen(
        [sys.executable, "-m", "emalign_jax", *command], cwd=cwd, env=ONE_THREAD, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def kill_and_rerun(command, kills, random, folder):
    """Run `emalign COMMAND`, which writes to `folder`, killed by SIGKILL so many times, and until it ends at last.

    Each time it is killed a moment after it has written so many files, both drawn. Where it ends before, it is to start
    anew, with --force, so that it is killed as often as was asked for. Returns the draws; raises `AssertionError` if it
    ever ends badly or says anything on stderr.
    """
    draws, force = [], ()
    while len(draws) < kills:
        files, pause = random.randint(0, 4), random.uniform(0, 0.3)
        before = written(folder)
        now, process = set(before), emalign((*command, *force))
        while process.poll() is None and len(now - before) < files:
            time.sleep(0.002)
            now |= written(folder)
        time.sleep(pause)
        if process.poll() is None:
            process.kill()
            draws.append((files, round(pause, 3)))
            force = ()
        else:
            force = ("--force",)
        _, err = process.communicate()
        # Of a command that was killed loky's tracker of resources may say on stderr that it has cleaned up.
        assert err == "" or (process.returncode == -9 and "resource_tracker" in err), err
        assert process.returncode in (0, 1, -9)
    process = emalign((*command, *force))
    _, err = process.communicate()
    assert err == ""
    assert process.returncode in (0, 1)
    return draws


def written(folder):
    """What tells a file from one that was written before: its name, which it is, and when it was changed."""
    found = set()
    for above, _, files in os.walk(folder):
        for path in (os.path.join(above, name) for name in files):
            try:
                facts = os.lstat(path)
            except FileNotFoundError:  # by now
                continue
            found.add((path, facts.st_ino, facts.st_mtime_ns))
    return found


def same(one: Path, two: Path) -> bool:
    """Whether two files, or the directories of two runs, hold the same but for times. Raises `AssertionError`."""
    if one.is_dir():
        names = sorted(path.name for path in one.iterdir())
        assert names == sorted(path.name for path in two.iterdir())
        return all(same(one / name, two / name) for name in names)
    if one.suffix == ".parquet" and "seconds" in pd.read_parquet(one):
        was, now = (pd.read_parquet(path).drop(columns="seconds") for path in (one, two))
        pd.testing.assert_frame_equal(was, now, check_exact=True)
    elif one.suffix == ".json":
        told = [json.loads(path.read_text()) for path in (one, two)]
        for entries in told:  # one of them may have said --force, or --out
            del entries["created"], entries["seconds"], entries["command"]
        assert told[0] == told[1]
    else:
        assert one.read_bytes() == two.read_bytes(), one
    return True
