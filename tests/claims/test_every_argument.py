"""Every public callable, every argument, every kind of wrong value: a ValueError or TypeError that names the argument.

The calls run in a process of their own, as users make them, because here the tests' checks of annotations would raise
before the package does.
"""

import functools
import inspect
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import emalign_jax as em

pytestmark = pytest.mark.host_only

WRONG = {
    "text": "5",
    "bytes": b"5",
    "complex": 1 + 1j,
    "complex array": np.array([1j, 1]),
    "nothing": None,
    "object": object(),
    "objects": np.array([None, "a"], dtype=object),
    "masked": np.ma.masked_array([1.0, 2.0], [True, False]),
    "masked list": [np.ma.masked_array([1.0, 2.0], [True, False])],
    "masked number": np.ma.masked,
    "ragged": [[1.0], [1.0, 2.0]],
    "mapping": {},
    "class": int,
    "function": lambda: 1.0,
    "nan": np.nan,
    "infinite": -np.inf,
    "negative": -1.5,
    "large": 10**5000,
    "dates": np.array(["2020-01-01"], dtype="datetime64[D]"),
    "words": np.array(["agents", "lowest"]),
    "frame": pd.DataFrame({"a": ["x", "y"]}),
    "missing": pd.DataFrame({"a": pd.array([1, None], dtype="Int64")}),
    "two": np.array([0.25, 0.75]),
    "protocol": em.Pooled(),
    "user": em.RationalUser(),
    "result": em.Payoffs(np.zeros(1), np.zeros((1, 2))),
}
RESULTS = {
    "AgentCounts", "Alignment", "BestResponse", "BestTransfers", "Certificate", "Coverage", "Derivative",
    "EquilibriumBounds", "FoundBy", "Market", "MarketValues", "Move", "ObservedCertificate", "ObservedSchemes",
    "Options", "Payoffs", "Premises",
    "ReducedGame", "Result", "SampledGradient", "SampledPayoffs", "Solution", "Stability", "Trajectory", "Tuned",
    "UtilityTable",
}  # fmt: skip
# for authors of protocols, checks and families: in JAX alone, with functions or classes for arguments
WRITERS = {"options_of", "reduce_game", "register_check", "knob", "parameter", "Deviation", "game_from_functions"}
WRITERS |= {"values_against_size"}
# right after all, of these arguments
RIGHT = {
    "nothing": {"mechanism"},
    "text": {"path"},
    "negative": {"accept", "bias", "price", "return_", "share", "spread", "target"},
    "two": {
        "agents_precision",
        "budget",
        "gains",
        "learning_rate",
        "neglect",
        "precision",
        "prior",
        "temperature",
        "topic",
        "weight",
    },
    "words": {"topic"},
    "mapping": {"names"},
    "masked list": {"states"},
    "ragged": {"states"},
    "result": {"states"},
    "function": {"progress"},
    "protocol": {"protocol"},
    "user": {"acting", "user"},
}  # fmt: skip
MESSAGE = 400  # characters, at most


def calls():
    """Of every public callable a call that is right, as its arguments by name."""
    game = em.catalog.judge()
    games = em.random_games(0, 2, agents=2, states=2, actions=2)
    schemes = em.no_information(2, 2, 2)
    protocol = em.SampledConversation(2, samples=4)
    rules = np.full((2, protocol.rows(games, 2), 2), 0.5)
    both = {"games": games, "schemes": schemes, "protocol": em.Pooled(), "user": em.QuantalUser(5.0)}
    picked = both | {"protocol": em.Selection(), "user": em.RationalUser()}
    sampled = both | {"schemes": rules, "protocol": protocol, "user": em.FixedReplies("truthful", em.QuantalUser(5.0))}
    one = {"game": games[0], "schemes": schemes, "protocol": em.Selection(), "user": em.RationalUser()}
    players = {"games": games, "protocol": em.Pooled(), "user": em.QuantalUser(5.0)}
    tuned = {"mechanism": em.mechanisms.UserPrecision()}
    sizes, counts = {"agents": 2, "features": 2, "messages": 2}, np.ones((2, 2, 2))
    given = {
        "Game": {"prior": game.prior, "user_utility": game.user_utility, "agent_utilities": game.agent_utilities},
        "QuantalUser": {"precision": 5.0},
        "Conservative": {"user": em.RationalUser(), "weight": 0.5},
        "BaseRateNeglect": {"user": em.RationalUser(), "neglect": 0.5},
        "SubjectivePrior": {"user": em.RationalUser(), "prior": game.prior},
        "MarketSolver": {"game": game},
        "market": {"game": game},
        "game_from_table": {"user_utility": np.eye(2), "scores": np.ones((2, 1, 2)) * np.eye(2)[:, None]},
        "utility_table": {"user_utility": np.eye(2), "scores": np.ones((2, 1, 2)) * np.eye(2)[:, None]},
        "FixedReplies": {"rule": "truthful", "acting": em.RationalUser()},
        "Comparison": {"compared": 2},
        "Conversation": {"rounds": 2},
        "SampledConversation": {"rounds": 2},
        "align": {"user_utility": game.user_utility, "agent_utilities": game.agent_utilities},
        "best_response": {**one, "agent": 0},
        "best_transfers": {"games": games, "budget": 1.0},
        "certify": picked,
        "certify_counts": {name: picked[name] for name in ("games", "protocol", "user")}
        | {"counts": counts, "draws": 2},
        "counts_from_agent": {"agent": abs, "states": 2, "n": 1},
        "coverage": {"games": games},
        "equilibrium_bounds": {"games": games},
        "evaluate": players | tuned | {"params": {"precision": 0.0}, "solver": em.SmoothPlay(), "key": 0},
        "full_revelation": sizes,
        "least_budget": {"games": games},
        "load_games": {"path": "none.npz"},
        "load_schemes": {"path": "none.npz"},
        "no_information": sizes,
        "payoffs": both,
        "premises": both,
        "pseudo_gradient": both,
        "random_games": {"key": 0, "count": 1},
        "random_schemes": {"key": 0, "games": 1} | sizes,
        "sampled_gradient": sampled,
        "sampled_payoffs": sampled,
        "save_games": {"path": "none.npz", "games": games},
        "save_schemes": {"path": "none.npz", "schemes": schemes},
        "schemes_from_counts": {"counts": counts},
        "several_users": {"games": games, "anonymous": True},
        "solve": players | {"start": schemes, "solver": em.GradientPlay(steps=1, chunk=1), "verify": False},
        "stability": {"games": games},
        "transcript_tree": one | {"schemes": rules, "protocol": em.Conversation(2)},
        "tune": players | tuned | {"key": 0, "steps": 1},
        "verify_proof": {"path": "none.json"},
        "worst_case": {"games": games},
        "write_proof": {"path": "none.json", **one},
        "mechanisms.Several": {"mechanisms": (em.mechanisms.Reporting(),)},
    }
    given |= {f"plot.{name}": call for name, call in figures(game, schemes).items()}
    return {name: given.get(name, {}) for name in PUBLIC}


def figures(game, schemes):
    """The calls of `em.plot`."""

    def table(*names, **more):
        return pd.DataFrame({name: [0.5, 0.6] for name in names} | more)

    talk, player = em.Conversation(2), em.RationalUser()
    games = table("normalised_value", "games.bias", agents=[1, 2])
    errors = table(
        "held_out", "held_out_low", "held_out_high", "in_sample", "no_agent", offset="none", method="simplex"
    )
    removed = table("error", "no_agent", "without_one", "without_five_lower", "without_five_upper")
    arms = ("competition", "best", "average", "aligned", "over_best_low", "over_best_high", "strength")
    curves = ("worst", "best_monopolist", "guarantee")
    market = table(
        *(f"normalised_{name}" for name in curves), "hull_error", "no_agent_error", resample=0, kind="subset"
    )
    history = {name: np.ones((2, 1)) for name in ("objective", "value", "cost", "trusted", "skipped")}
    stability = em.stability(em.catalog.lobbying())
    code = np.zeros(1, int)
    steps = em.Trajectory(code + 1, code[None], np.ones((1, 1)), np.ones((1, 1, 2)), np.ones((1, 1, 2)), code[None])
    return {
        "agents_removed": {"left": removed},
        "before_and_after": {"rows": table("user_before", "user_after")},
        "beliefs": {"game": game},
        "hull_curves": {"curves": errors.assign(agents=[1, 2])},
        "market": {"found": em.market(game)},
        "market_against_agents": {"rows": market.assign(agents=[1, 2])},
        "panels": {"count": 1},
        "phase_diagram": {"rows": games, "x": "games.bias", "y": "agents"},
        "schemes": {"game": game, "schemes": schemes[:1]},
        "stability_profile": {"found": stability},
        "study": {"lines": table(*arms)},
        "trajectory": {"solution": em.Solution(*[None] * 6, {}, None, steps), "game": 0},
        "transcript_tree": {"game": game, "schemes": np.full((1, talk.rows(game, 2), 2), 0.5), "protocol": talk,
                            "user": player},
        "tuning": {"tuned": em.Tuned(None, {}, history, schemes, code, 0)},
        "value_against": {"rows": games, "x": "agents"},
        "value_against_agents": {"rows": games},
        "value_over_games": {"rows": games},
        "worst_equilibria": {"found": stability},
    }  # fmt: skip


def public():
    modules = {"": em, "mechanisms.": em.mechanisms, "catalog.": em.catalog, "plot.": em.plot}
    names = {f"{at}{name}": getattr(module, name) for at, module in modules.items() for name in _listed(module)}
    return {name: call for name, call in names.items() if callable(call) and name not in RESULTS | WRITERS}


def _listed(module):
    names = getattr(module, "__all__", None) or module.GAMES
    return [name for name in names if not name.startswith("Abstract")]


PUBLIC = public()


def outcomes():
    """{callable: {argument: {wrong value: what came of it}}}; None where it was taken."""
    found = {}
    for name, right in calls().items():
        found[name] = {}
        for argument, parameter in inspect.signature(PUBLIC[name]).parameters.items():
            found[name][argument] = {
                wrong: _outcome(functools.partial(PUBLIC[name], **right | {argument: value}))
                for wrong, value in WRONG.items()
                if argument not in RIGHT.get(wrong, ()) and not (value is None and parameter.default is None)
            }
    return found


def _outcome(call):
    try:
        call()
        if "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close("all")
    except Exception as error:
        return type(error).__mro__[0].__name__, isinstance(error, ValueError | TypeError), str(error)
    return None


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    environment = os.environ | {"PYTHONPATH": str(Path(em.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, __file__],
        capture_output=True,
        text=True,
        cwd=tmp_path_factory.mktemp("calls"),
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLIC)
def test_wrong_values_are_refused_by_name(found, name):
    faults = []
    for argument, by_value in found[name].items():
        for wrong, outcome in by_value.items():
            if outcome is None:
                faults.append(f"{argument} = {wrong}: taken")
                continue
            kind, plain, message = outcome
            named = re.search(rf"\b{argument}\b", message)
            if not (plain and named and "\n" not in message and len(message) < MESSAGE):
                faults.append(f"{argument} = {wrong}: {kind}: {message[:120]}")
    assert not faults, "\n".join(faults)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(outcomes()))
