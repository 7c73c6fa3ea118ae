"""What a newcomer touches first: the import and the README."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from support.commands import child

import emalign_jax as em

pytestmark = pytest.mark.host_only

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_import_is_light_and_sets_no_flag():
    report = json.loads(
        child(
            "import json, sys, time, jax, equinox\n"
            "before = {k: v for k, v in jax.config.values.items()}\n"
            "began = time.process_time()\n"
            "import emalign_jax\n"
            "emalign_jax.Game\n"
            "seconds = time.process_time() - began\n"
            "modules = 'matplotlib', 'pandas', 'pyarrow', 'typer', 'scipy.optimize', 'scipy.sparse'\n"
            "heavy = [m for m in modules if m in sys.modules]\n"
            "same = before == {k: v for k, v in jax.config.values.items()}\n"
            "print(json.dumps([seconds, heavy, same]))"
        )
    )
    seconds, heavy, same = report
    assert heavy == []
    assert same
    assert seconds < 2  # of this process alone, .3 s


@pytest.mark.slow
def test_names_are_there_at_first_use_whatever_was_imported_before():
    told = child(
        "import importlib, pkgutil, sys\n"
        "import emalign_jax as em, emalign_jax.cli\n"
        "print('jax' in sys.modules, 'numpy' in sys.modules)\n"
        "for module in pkgutil.walk_packages(em.__path__, 'emalign_jax.'):\n"
        "    if not module.name.endswith(('__main__', '_public')): importlib.import_module(module.name)\n"
        "names = em.__all__\n"
        "print(all(getattr(em, name) is getattr(em._public, name) for name in names), set(names) <= set(dir(em)))\n"
        "print(hasattr(em, 'nothing'))\n"
    )
    assert told.split() == ["False", "False", "True", "True", "False"]


def test_public_names_exist_and_are_documented():
    for name in em.__all__:
        value = getattr(em, name)
        assert value.__doc__ or isinstance(value, dict), f"{name} has no docstring"


def test_code_in_the_readme_runs(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    lines = child("\nprint('---')\n".join(blocks), cwd=tmp_path).split("---\n")
    assert len(lines) == 6
    search, named, own, conversation, exact = (
        [float(x) for x in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", part)] for part in lines[:5]
    )
    assert "games.agents" in lines[5]
    # The values without information: a quadratic loss at N midpoints.
    assert {-0.078125, -0.082031, -0.083008} <= set(own)
    assert 0 < search[0] <= 1
    assert search[1] <= 1e-3
    np.testing.assert_allclose(named, [0.6, 0.7], atol=1e-6)
    np.testing.assert_allclose(conversation[:2], [0.75, 1], atol=1e-3)
    np.testing.assert_allclose(exact[:5], [1, 1, 0.7, 0.7, 0.5], atol=1e-6)
    np.testing.assert_allclose(exact[5:], 0.49708735, atol=1e-4)
