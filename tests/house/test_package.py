"""What a newcomer touches first: the import and the README."""

import json
import re
from pathlib import Path

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


@pytest.mark.slow
def test_code_in_the_readme_runs(tmp_path):
    text = (ROOT / "README.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.S)
    assert block.count("\n") <= 10 + 1, "ten lines, and an empty one"
    value, gain, guarantee, at, worst, best = (
        float(x) for x in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", child(block, cwd=tmp_path))
    )
    assert 0 < value <= 1
    assert gain <= 1e-5
    assert guarantee <= worst + 1e-6
    assert worst - 1e-4 <= at <= best + 1e-4


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 800
