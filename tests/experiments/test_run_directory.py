"""Directories of runs below the commands: which run gets which name, what is on disk when, and what a kill leaves."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from support.commands import ENVIRONMENT
from support.foreign_files import NAMES, OURS, make, random_names, seen, untouched

from emalign_jax.experiments import run_directory
from emalign_jax.experiments.run_directory import LOCK, MANIFEST, Kind, Taken, begun, manifest
from emalign_jax.internal import temporary
from emalign_jax.internal.files import atomic

pytestmark = [pytest.mark.usefixtures("empty_directory"), pytest.mark.host_only]

ONCE = Kind("search", ("table", "figure"))
RESUMED = Kind("sweep", ("table", "figure"), parts=True, resumed=True)
PART = "0123456789abcdef-000000-0123456789abcdef.parquet"


def work(out, kind=ONCE, force=False, text="new", fail=None):
    with begun(out, kind, manifest(kind, {"a": 1}, 0), force) as run:
        (run.directory / "table").write_text(text)
        if kind.parts:
            (run.directory / "parts").mkdir(exist_ok=True)
            (run.directory / "parts" / PART).write_text(text)
        if fail:
            raise fail
        return run.finish(manifest(kind, {"a": 1}, 0), 1.0)


@pytest.mark.parametrize("before", ["nothing", "a search", "a sweep", "a search at work", "a sweep at work"])
@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_there_nothing_that_is_not_the_run_s_own_is_touched(seed, before):
    """By runs of both kinds, with and without force, that end well or not, among other files, and where a run is."""
    random, place = np.random.default_rng(seed), Path("run")
    if before in ("a search", "a sweep"):
        work(place, ONCE if "search" in before else RESUMED)
    elif before != "nothing":  # and killed since
        place.mkdir()
        kind = ONCE if "search" in before else RESUMED
        run_directory.write_manifest(place, manifest(kind, {"a": 1}, 0), "running", kind.files)
    own = seen(place) if place.exists() else {}
    names = {*random.choice([*NAMES, *OURS], 6, replace=False).tolist(), *random_names(seed, 4)}
    if not before.endswith("at work"):  # where a run may have written a figure
        names |= {"figure"} if random.integers(2) else set()
    make(place, seed, sorted(name for name in names if not os.path.lexists(place / name)))
    foreign = {name: facts for name, facts in seen(place).items() if name not in own}
    for kind in (ONCE, RESUMED):
        for force in (False, True):
            for fail in (None, RuntimeError("no")):
                try:
                    work(place, kind, force, fail=fail)
                    assert kind.name in before
                except RuntimeError:
                    assert kind.name in before
                except Taken:
                    assert before == "nothing" or kind.name not in before or {"figure", "parts"} & names or kind is ONCE
                assert untouched(foreign, place)
    assert not [path for path in Path().iterdir() if temporary.NAMES.fullmatch(path.name)]


@pytest.mark.parametrize("out", [None, Path("mine")])
def test_of_runs_begun_together_each_has_a_name_of_its_own(out):
    began, got, refused = threading.Barrier(12), [], []
    done = threading.Barrier(12)

    def one():
        began.wait()
        try:
            with begun(out, ONCE, manifest(ONCE, {}, 0), False) as run:
                got.append(run.path)
                done.wait(60)
                (run.directory / "table").write_text("done")
                run.finish(manifest(ONCE, {}, 0), 0.0)
        except Taken as error:
            refused.append(str(error))
            done.wait(60)

    threads = [threading.Thread(target=one) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if out is None:
        assert sorted(map(str, got)) == sorted(f"search-{n}" for n in range(1, 13))
        assert not refused
    else:
        assert got == [out]
        assert all("another emalign search is at work" in words for words in refused)
    assert sorted(path.name for path in got[0].iterdir()) == [MANIFEST, "table"]


@pytest.mark.slow
def test_a_name_is_free_again_when_its_run_fails_or_is_killed():
    with pytest.raises(RuntimeError):
        work(None, fail=RuntimeError())
    assert list(Path().iterdir()) == []
    killed = """
import os
from pathlib import Path
from emalign_jax.experiments.run_directory import *
kind = Kind("search", ("table", "figure"))
with begun(None, kind, manifest(kind, {}, 0), False) as run:
    (run.directory / "table").write_text("half")
    os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", killed], env=ENVIRONMENT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert json.loads(Path("search-1", MANIFEST).read_text())["status"] == "running"
    Path("search-1/thesis.tex").write_text("years of work")
    assert work(None) == Path("search-1")
    assert {path.name for path in Path("search-1").iterdir()} == {MANIFEST, "table", "thesis.tex"}


@pytest.mark.slow
@pytest.mark.parametrize("between", ["before", "between", "after"])
def test_killed_while_it_replaces_another_run_one_of_them_is_there(between):
    work(Path("mine"), text="old")
    killed = f"""
import os
from pathlib import Path
from emalign_jax.experiments.run_directory import *
replace, moved = os.replace, 0
def dying(a, b):
    global moved
    moved += os.path.isdir(a)
    if moved == {["before", "between", "after"].index(between) + 1} and ({between == "after"} is False):
        os.kill(os.getpid(), 9)
    replace(a, b)
    if {between == "after"} and moved == 2:
        os.kill(os.getpid(), 9)
os.replace = dying
kind = Kind('search', ('table', 'figure'))
with begun(Path("mine"), kind, manifest(kind, {{}}, 0), True) as run:
    (run.directory / "table").write_text("new")
    run.finish(manifest(kind, {{}}, 0), 0.0)
"""
    done = subprocess.run([sys.executable, "-c", killed], env=ENVIRONMENT, check=False)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(Taken, match="is there already"):
        run_directory.check(Path("mine"), ONCE, False)
    assert Path("mine/table").read_text() == ("new" if between == "after" else "old")
    assert json.loads(Path("mine", MANIFEST).read_text())["status"] == "done"
    assert [path.name for path in Path().iterdir()] == ["mine"]


def test_what_comes_there_during_the_work_keeps_its_place():
    work(Path("mine"), text="old")
    with begun(Path("mine"), ONCE, manifest(ONCE, {}, 0), True) as run:
        (run.directory / "table").write_text("new")
        Path("mine/thesis.tex").write_text("years of work")
        assert run.finish(manifest(ONCE, {}, 0), 0.0) == Path("mine-2")
    assert (Path("mine/table").read_text(), Path("mine-2/table").read_text()) == ("old", "new")
    assert Path("mine/thesis.tex").read_text() == "years of work"
    Path("free").mkdir()
    with begun(Path("free"), ONCE, manifest(ONCE, {}, 0), False) as run:
        Path("free/notes").write_text("mine")
        run.finish(manifest(ONCE, {}, 0), 0.0)
    assert {path.name for path in Path("free").iterdir()} == {MANIFEST, "notes"}


def test_a_link_to_a_run_stays_one():
    work(Path("runs/one"), text="old")
    Path("latest").symlink_to("runs/one")
    assert work(Path("latest"), force=True) == Path("latest")
    assert Path("latest").is_symlink()
    assert Path("runs/one/table").read_text() == "new"


@pytest.mark.parametrize("kind", [ONCE, RESUMED])
def test_the_lock_follows_no_link(kind):
    Path("precious").write_text("years of work")
    work(Path("run"), kind)
    Path("run", LOCK).unlink(missing_ok=True)
    Path("run", LOCK).symlink_to("../precious")
    for force in (False, True):
        with pytest.raises(ValueError, match="--out"):
            work(Path("run"), kind, force)
    assert Path("precious").read_text() == "years of work"


def test_all_that_a_manifest_names_is_on_disk_before_it(monkeypatch):
    synced, fsync, replace = [], os.fsync, os.replace

    def recording(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def moving(source, to):
        synced.append(f"{source} is {to}")
        replace(source, to)

    monkeypatch.setattr(os, "fsync", recording)
    monkeypatch.setattr(os, "replace", moving)
    work(Path("run"))
    here = str(Path("run").absolute())
    last = max(n for n, what in enumerate(synced) if what.endswith(f" is run/{MANIFEST}"))
    assert f"{here}/table" in synced[:last]
    assert {here, str(Path().absolute())} <= set(synced[last:])
    assert synced[last].startswith(synced[last - 1]), "itself, too"


@pytest.mark.parametrize(
    ("mask", "file", "folder"), [(0o027, 0o640, 0o750), (0o077, 0o600, 0o700), (0o002, 0o664, 0o775)]
)
def test_permissions_are_those_that_the_umask_leaves(mask, file, folder):
    before = os.umask(mask)
    try:
        for force in (False, True):
            work(Path("run"), force=force)
            with atomic("file") as made:
                assert stat.S_IMODE(made.stat().st_mode) == file, "not even for a moment more"
                made.write_text("")
            assert stat.S_IMODE(Path("run").stat().st_mode) == folder
            for path in (Path("file"), Path("run/table"), Path("run", MANIFEST)):
                assert stat.S_IMODE(path.stat().st_mode) == file
    finally:
        os.umask(before)


def test_a_file_that_is_not_to_be_replaced_is_not_though_it_comes_at_the_last_moment(monkeypatch):
    def write():
        with atomic("file", replace=False) as made:
            made.write_text("new")
            Path("file").write_text("theirs")

    with pytest.raises(FileExistsError, match="file"):
        write()
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links here")))
    Path("file").unlink()
    with pytest.raises(FileExistsError, match="file"):
        write()
    Path("file").unlink()
    with atomic("file", replace=False) as made:
        made.write_text("new")
    assert Path("file").read_text() == "new"
    assert [path.name for path in Path().iterdir()] == ["file"]


@pytest.mark.parametrize("field", ["schema", "kind", "status", "command", "config", "versions", "files"])
def test_manifests_of_others_are_refused_field_by_field(field):
    work(Path("run"))
    whole = json.loads(Path("run", MANIFEST).read_text())
    for wrong in (None, 7, "", {"a": 1}, [["x"]], ["../precious"], ["/etc/passwd"], [".."], ["a\0b"], [MANIFEST]):
        Path("run", MANIFEST).write_text(json.dumps(whole | {field: wrong}))
        if (field, type(wrong)) in {("kind", str), ("command", list), ("config", dict), ("versions", dict)}:
            continue
        with pytest.raises(ValueError, match=f"^run/manifest.json: {field}: "):
            run_directory.read(Path("run"))
        with pytest.raises(Taken, match=r"its manifest\.json is not that of a run of emalign search"):
            work(Path("run"), force=True)
    shutil.rmtree("run")
