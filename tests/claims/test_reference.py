"""What the package computes of stored games and profiles is what it computed when they were stored.

`tests/support/reference/record.py` wrote the file and says which quantities hold on any machine, and how closely.
Written with

    PYTHONPATH=tests python -m support.reference.record record tests/data/reference.npz --anywhere --games 4 --only ...
"""

import re
from pathlib import Path

import numpy as np
import pytest
from support.reference import outputs, record

pytestmark = pytest.mark.host_only

GIVEN, OLD = record.read(Path(__file__).parents[1] / "data" / "reference.npz")
PARTS = sorted({name.partition("/")[0] for name in OLD})
NIGHTLY = (
    "smooth", "conversation", "selection_soft", "selection rational_uniform", "pooled rational", "mechanism transfers",
    "bounds small", "bounds catalog informants", "bounds catalog pharma_market",
)  # fmt: skip
TOLERANCES = {"selection rational": 1e-5, "comparison rational": 1e-5, "selection_then rational": 1e-5}
SHARED = [pytest.param(part, marks=pytest.mark.nightly if part.startswith(NIGHTLY) else ()) for part in PARTS]


def again(part, given):
    found = outputs.compute(dict(given), searched=False, only=(part,))
    return {name: array for name, array in found if record.tolerance_of(name) is not None}


def stored(part):
    return {name: array for name, array in OLD.items() if name.startswith(f"{part}/")}


def unlike(new, old):
    """The names of what is not in both, or differs by more than it may on another machine."""
    wrong = new.keys() ^ old.keys()
    for name in new.keys() & old.keys():
        now, then = new[name], old[name]
        if name.endswith(".result") and now.shape == then.shape:
            now, then = (x[far_from_the_edge(name, old)] for x in (now, then))
        if not record.difference(now, then) <= record.tolerance_of(name):
            wrong |= {name}
    return wrong


def far_from_the_edge(name, old):
    """Whether each verdict of a certificate stays the same if gains move a little."""
    lower, upper, scale = (old[name.replace("result", x)] for x in ("gain_lower", "gain_upper", "payoff_range"))
    tolerance = next((t for pair, t in TOLERANCES.items() if name.startswith(pair)), 1e-3)
    gains = np.stack([lower, upper]) / np.where(scale > 0, scale, 1)
    return (abs(gains - tolerance) > tolerance / 2).all((0, -1))


@pytest.mark.slow
@pytest.mark.x64
@pytest.mark.parametrize("part", SHARED)
def test_outputs_are_those_that_were_recorded(part):
    assert not unlike(again(part, GIVEN), stored(part))


def test_verdicts_are_compared():
    far = [far_from_the_edge(name, OLD) for name in OLD if name.endswith(".result")]
    assert np.concatenate(far).mean() > 0.7


@pytest.mark.slow
@pytest.mark.x64
def test_what_is_different_is_found(tmp_path, capsys):
    part, path = "bounds catalog judge", tmp_path / "one.npz"
    old = stored(part)
    for name, array in old.items():
        step = 3 * record.tolerance_of(name) * np.maximum(1, abs(array))
        assert unlike({**old, name: np.where(np.isfinite(array), array + step, 0)}, old) == {name}
    assert unlike({**old, "other": np.zeros(1)}, old) == {"other"}
    utility = GIVEN["catalog judge/user_utility"]
    moved = {**GIVEN, "catalog judge/user_utility": utility + np.diag([1e-5, 0])}
    assert unlike(again(part, moved), old)

    name = f"{part}/stability.best"
    for shift in (0, 1e-6):
        arrays = {f"in/{n}": x for n, x in GIVEN.items()} | {f"out/{n}": x for n, x in old.items()}
        arrays[f"out/{name}"] = old[name] + shift
        np.savez(path, **arrays)
        assert record.compare(path, 1e-9) == (shift > 0)
    assert re.search(rf"stability.best +1.0e-06  {name}", capsys.readouterr().out)


@pytest.mark.nightly
@pytest.mark.x64
def test_what_is_recorded_comes_again(tmp_path, capsys):
    path = tmp_path / "two.npz"
    record.record(path, 2, True, ("bounds tiny", "selection rational_agents"))
    assert record.compare(path, 1e-12) == 0
    assert "selection rational_agents/solve.schemes" in record.read(path)[1]
