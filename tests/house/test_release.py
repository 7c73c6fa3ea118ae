"""One version, one list of dependencies, and workflows that consist of what anybody can run here."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import emalign_jax as em

pytestmark = pytest.mark.host_only

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RECIPE = yaml.safe_load((ROOT / "conda-recipe" / "recipe.yaml").read_text())
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").glob("*.yml")}
TARGETS = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.M))
ON_CONDA = {"matplotlib": "matplotlib-base"}  # without a graphical toolkit


def jobs():
    for workflow in WORKFLOWS.values():
        yield from workflow["jobs"].values()


def test_there_is_one_version():
    assert PROJECT["dynamic"] == ["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == em.__version__
    assert RECIPE["context"]["version"] == em.__version__
    headings = re.findall(r"^## (.*)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(em.__version__)}\] - \d{{4}}-\d\d-\d\d", headings[1])


def test_the_conda_recipe_asks_for_the_same_packages():
    asked = [re.fullmatch(r"([\w-]+)(>=[\d.]+)", need).groups() for need in PROJECT["dependencies"]]
    same = [f"{ON_CONDA.get(name, name)} {bound}" for name, bound in asked]
    assert RECIPE["requirements"]["run"] == [f"python {PROJECT['requires-python']}", *same]
    assert RECIPE["about"]["homepage"] == PROJECT["urls"]["Homepage"]
    assert RECIPE["about"]["documentation"] == PROJECT["urls"]["Documentation"]
    assert RECIPE["about"]["license"] == PROJECT["license"]
    entries = [f"{name} = {place}" for name, place in PROJECT["scripts"].items()]
    assert RECIPE["build"]["python"]["entry_points"] == entries


def test_workflows_run_targets_of_make():
    assert set(WORKFLOWS) == {"test", "docs", "release"}
    commands = [step["run"] for job in jobs() for step in job["steps"] if "run" in step]
    assert len(commands) >= 4
    matrix = WORKFLOWS["test"]["jobs"]["test"]["strategy"]["matrix"]
    by_matrix = {*matrix["target"], *(row["target"] for row in matrix["include"])}
    for command in commands:
        target = command.removeprefix("make ")
        assert (by_matrix if target == "${{ matrix.target }}" else {target}) <= TARGETS, command


def test_workflows_test_what_is_promised():
    matrix = WORKFLOWS["test"]["jobs"]["test"]["strategy"]["matrix"]
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert matrix["python"] == promised
    assert PROJECT["requires-python"] == f">={promised[0]}"


def test_workflows_may_do_little():
    """Actions are pinned, and whoever may write runs no code of this repository."""
    for workflow in WORKFLOWS.values():
        assert workflow["permissions"] == {"contents": "read"}
    for job in jobs():
        for step in job["steps"]:
            assert "run" in step or re.fullmatch(r"[\w-]+/[\w-]+@(release/)?v\d+", step["uses"])
        if "permissions" in job:
            assert not any("run" in step or "checkout" in step["uses"] for step in job["steps"])
            assert job["needs"] == "build"
