"""What is published: wheel and sdist are whole, and the wheel works where nothing else is installed.

In EMALIGN_DIST if that is given (`make check-package`), otherwise they are built here.
"""

import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import emalign_jax as em

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.host_only]

ROOT = Path(__file__).parents[2]
# of the installed command nothing may come from the environment of the tests
CLEAN = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def told(*command, cwd=ROOT):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=CLEAN, cwd=cwd, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The wheel and the sdist."""
    folder = Path(os.environ.get("EMALIGN_DIST") or tmp_path_factory.mktemp("dist"))
    if "EMALIGN_DIST" not in os.environ:
        told(sys.executable, "-m", "build", "--outdir", folder)
    found = sorted(folder.iterdir())
    stem = f"emalign_jax-{em.__version__}"
    assert [path.name for path in found] == [f"{stem}-py3-none-any.whl", f"{stem}.tar.gz"]
    return found


@pytest.fixture(scope="module")
def installed(published, tmp_path_factory):
    """The folder of commands of an environment that holds the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder, with_pip=True)
    told(folder / "bin" / "python", "-m", "pip", "install", "-q", published[0])
    return folder / "bin"


def files(folder):
    """What of a folder is the project's."""
    return set(told("git", "ls-files", "--cached", "--others", "--exclude-standard", folder).splitlines())


def test_pypi_takes_them(published):
    assert told(sys.executable, "-m", "twine", "check", "--strict", *published).count("PASSED") == 2


def test_the_wheel_is_the_package(published):
    with zipfile.ZipFile(published[0]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == files("emalign_jax")
    assert "emalign_jax/py.typed" in names
    assert {".toml", ".jinja"} <= {Path(name).suffix for name in names}


def test_pypi_shows_the_pictures(published):
    """The README is shown elsewhere: it links to nothing by a path of the repository."""
    with zipfile.ZipFile(published[0]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        text = wheel.read(name).decode()
    assert f"Version: {em.__version__}\n" in text
    assert re.findall(r"\]\((?!https://|#)[^)]*\)", text) == []


def test_the_sdist_is_whole(published):
    with tarfile.open(published[1]) as sdist:
        names = {name.split("/", 1)[1] for name in sdist.getnames()}
    for folder in ("emalign_jax", "tests", "benchmarks", "notebooks", "docs", "conda-recipe", ".github", ".ci"):
        assert files(folder) - names == set()
    assert {"Makefile", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff", "LICENSE"} <= names


def test_it_works_where_nothing_else_is_installed(installed, tmp_path):
    version = told(installed / "python", "-c", "import emalign_jax as em; print(em.__version__)", cwd=tmp_path)
    assert version.strip() == em.__version__
    assert "search" in told(installed / "emalign", "--help", cwd=tmp_path)
    assert "certified" in told(installed / "emalign", "search", "--count", "2", cwd=tmp_path).lower()
    told(installed / "python", "-m", "pip", "check", cwd=tmp_path)
