"""Other people's files, of all kinds and names, and what they looked like: for tests that none of them is touched."""

import os
import stat
from pathlib import Path

import numpy as np

NAMES = (  # what other programs leave, what is hard to handle, and what is like names that runs give
    ".env.local", ".git", ".lock~", ".manifest.json.swp", "manifest.json.bak", "parts.old", "part-0000000.npz", "...",
    ".games.parquet.00000000-abcdefgh", ".search-1.emalign-00000000-abcdefgh", "emalign", ".emalign-", "thesis.tex",
    "state.npz.bak", "mine.png", "notes.html", "$HOME", "$x$", "a b", "-rf", "*", "\n", "\\", "'", "\u202e", "\udcff",
    "é", "e\u0301", ".DS_Store", "x" * 200,
)  # fmt: skip
OURS = (  # names that runs give
    "games.parquet", "games.npz", "schemes.npz", "user_value.png", "user_value.pdf", "phase.png", "curves.csv",
    "weights.csv", "hull.png", "tuned.npz", "tuning.png", "report.html", ".lock", "parts",
)  # fmt: skip
PART = "part-000000-0123456789abcdef.parquet"
ENDS = ("", ".npz", ".png", ".json", ".parquet", ".emalign-00000000-0000000")


def make(folder, seed, names=NAMES):
    """Fill a folder; what links in it lead to lies beside it."""
    random = np.random.default_rng(seed)
    outside = folder.with_name(f"{folder.name} outside")
    for place in (outside, folder):
        place.mkdir(exist_ok=True)
    (outside / "precious").write_text("years of work")
    for name in names:
        path, kind = folder / name, random.integers(6)
        if kind == 0:
            path.mkdir()
            (path / ".env").write_text("key")
            (path / PART).write_text("somebody's copy")
        elif kind in (1, 2, 3):
            path.symlink_to([outside / "precious", outside, "nowhere"][kind - 1])
        elif kind == 4:
            os.mkfifo(path)
        else:
            path.write_bytes(random.bytes(random.integers(20)))
    return folder


def random_names(seed, count=20):
    """Of any bytes that a name may hold, many of them like names that runs give."""
    random = np.random.default_rng(seed)
    names = set()
    while len(names) < count:
        middle = os.fsdecode(
            bytes(b for b in random.integers(1, 256, random.integers(1, 30)).tolist() if b != ord("/"))
        )
        names.add(random.choice(["", ".", ".manifest.json.", ".games.parquet"]) + middle + random.choice(ENDS))
    return sorted(names - {"", ".", "..", *NAMES})


def seen(folder):
    """What is in a folder and beside it: of each its kind, whose it is, when it was changed, and what it holds."""
    found = {}
    for place in (folder, folder.with_name(f"{folder.name} outside")):
        for above, folders, files in os.walk(place):
            for path in (Path(above, name) for name in (*folders, *files)):
                facts = path.lstat()
                held = path.read_bytes() if stat.S_ISREG(facts.st_mode) else None
                link = os.readlink(path) if path.is_symlink() else None
                changed = None if stat.S_ISDIR(facts.st_mode) else facts.st_mtime_ns
                found[str(path)] = (facts.st_mode, facts.st_ino, facts.st_uid, changed, held, link)
    return found


def untouched(before, folder):
    """Whether all that was there is as it was; more may be there."""
    after = seen(folder)
    touched = {name: (before[name], after.get(name)) for name in before if after.get(name) != before[name]}
    assert not touched
    return True
