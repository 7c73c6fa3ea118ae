"""What the tests of commands have in common; the fixture `run` is in conftest.py."""

import os
import subprocess
import sys
from pathlib import Path

import emalign_jax as em

# with which a process finds the package where this one found it
ENVIRONMENT = os.environ | {"PYTHONPATH": os.path.dirname(os.path.dirname(em.__file__))}
ONE_THREAD = ENVIRONMENT | {"OMP_NUM_THREADS": "1"}


def refused(answer, *words):
    """Exit 2, nothing on stdout, one line on stderr that holds the words."""
    code, out, err = answer
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for word in words:
        assert word in err
    return True


def child(code_or_file, *arguments, cwd=None):
    """What Python prints that runs the code or file in a process of its own, with this package."""
    command = [sys.executable, *([str(code_or_file)] if isinstance(code_or_file, Path) else ["-c", code_or_file])]
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, env=ENVIRONMENT, cwd=cwd, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
