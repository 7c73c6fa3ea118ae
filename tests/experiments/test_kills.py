"""Runs that are killed at random moments, and begun again by the same command, end with the same files."""

import os
import random
from pathlib import Path

import pytest
from support.kills import emalign, kill_and_rerun, same

import emalign_jax as em

pytestmark = [pytest.mark.usefixtures("empty_directory"), pytest.mark.host_only]

NIGHTLY = os.environ.get("EMALIGN_NIGHTLY") == "1"
TUNED = """
title = "small"
[games]
agents = 2
states = 2
actions = 2
count = 4
held_out = 4
[tune]
steps = 24
[transfers]
start = "nothing"
"""
GRID = """
block = 1
[games]
family = ["hull", "shared_bias"]
agents = [1, 2]
states = 2
actions = 2
count = 4
[solver]
method = "best_responses"
"""
SEARCH = ("search", "--states", "2", "--actions", "2", "--family", "hull,noise", "--agents", "1,2", "--count", "4",
          "--set", "solver.method=best_responses", "--set", "block=1")  # fmt: skip
# each with how often it is killed, by night
COMMANDS = {
    "tune": (("tune", "tuned.toml"), 20),
    "search": (SEARCH, 50),
    "search of a file": (("search", "--games", "g.npz", *SEARCH[-4:]), 20),
    "search by processes": ((*SEARCH, "--workers", "2"), 20),
    "sweep": (("sweep", "grid.toml"), 30),
}
BY_NIGHT = ("search of a file", "search by processes")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.nightly if name in BY_NIGHT else ()) for name in COMMANDS]
)
def test_killed_again_and_again_it_ends_with_the_same_files(name):
    Path("tuned.toml").write_text(TUNED)
    Path("grid.toml").write_text(GRID)
    em.save_games("g.npz", em.random_games(0, 16, agents=2, states=2, actions=2))
    command, kills = COMMANDS[name]
    whole = emalign((*command, "--out", "whole"))
    assert (whole.communicate()[1], whole.returncode in (0, 1)) == ("", True)
    inputs = {path.name for path in Path().iterdir()}
    draws = kill_and_rerun((*command, "--out", "killed"), kills if NIGHTLY else 3, random.Random(), "killed")
    print(f"{name}: killed so long after so many files: {draws}")
    assert same(Path("whole"), Path("killed")), "so no lock, no part and no temporary file is left either"
    assert {path.name for path in Path().iterdir()} == inputs | {"killed"}
