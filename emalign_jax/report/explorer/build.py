"""The explorer's page: one HTML file with markets, mathematics, figures and solver, which needs no network.

The modules of JavaScript in this folder and the solver's loader become one script. A content security policy with the
digests of script and style lets nothing else run, and nothing be sent.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from importlib import resources
from typing import Any

import jinja2
import numpy as np

from emalign_jax.games import catalog
from emalign_jax.games.game import Game, faults
from emalign_jax.internal import version
from emalign_jax.internal.arguments import power
from emalign_jax.report.explorer.solver import VERSION, Solver

MODULES = ("market.js", "beliefs.js", "draw.js", "page.js")  # each imports only from those before it
# Columns of the obedience LP that are still solved live, some hundred times for each move of a slider.
MOST_COLUMNS = 512

PRESETS: dict[str, tuple[str, str]] = {
    "prosecutor_against_defender": (
        "Prosecutor against defender",
        "One agent always wants conviction, the other acquittal. Neither wants what the judge wants, nor does any mean "
        "of them, and yet the judge learns everything in every equilibrium: whoever stops short of it is outbid.",
    ),
    "judge": (
        "A judge and one prosecutor",
        "Kamenica and Gentzkow's example: the prosecutor alone persuades the judge to convict as often as possible, "
        "twice as often as the accused are guilty, and the judge gains nothing by listening. Add agents.",
    ),
    "biased_advisers": (
        "Opposite biases (hull)",
        "Both advisers want justice; one also likes conviction, the other acquittal. The user's utility is, up to an "
        "offset, a mean of theirs: it lies in their hull, which is when the theory promises full information.",
    ),
    "two_prosecutors": (
        "Shared bias",
        "Two agents want the same thing, which is not what the user wants. That both say what one would say alone is "
        "an equilibrium, so competition need not help; full information is another equilibrium.",
    ),
    "informants": (
        "Two routes, two informants",
        "Wait, or go by one of two routes that are equally good to the user. Each agent loathes one route and likes "
        "the other. Three actions: where the user is indifferent, agents decide.",
    ),
    "pharma_market": (
        "Two firms test their drugs",
        "Each firm earns if its drug is taken, and each drug works or not: four states. Alone a firm tells just enough "
        "to sell; against a rival it tells all.",
    ),
}


def render(solver: Solver, game: Game | None = None, title: str = "") -> str:
    """The page, with `game` as its first market if one is given.

    solver: `explorer.solver.load()`
    game:   one game, not a batch; title: what the page calls it
    Raises `ValueError` for a game that is malformed, or too large to be solved while a slider moves.
    """
    markets = [_market(name, *told, getattr(catalog, name)()) for name, told in PRESETS.items()]
    if game is not None:
        check(game)
        sizes = {"XA": game.user_features, "XB": game.agent_features, "A": game.actions, "Y": game.outcomes}
        told = f"Sizes: {', '.join(f'{name} = {size}' for name, size in sizes.items())}."
        markets.insert(0, _market("file", title, told, game))
    script, style = _script(solver.loader), _text("explorer.css")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(_text("explorer.html.jinja")).render(
        markets=json.dumps(markets, allow_nan=False).replace("<", "\\u003c"),  # else a name could end the script
        script=script,
        script_hash=_digest(script),
        style=style,
        style_hash=_digest(style),
        wasm=base64.b64encode(gzip.compress(solver.wasm, mtime=0)).decode("ascii"),
        licence=solver.licence,
        version=VERSION,
        package_version=version.VERSION,
    )


def check(game: Game) -> None:
    """Raise `ValueError` for a batch, or for a game that is malformed or too large."""
    if game.batch_shape:
        raise ValueError(f"game: expected one game, got a batch {list(game.batch_shape)}")
    if fault := str(faults(game)[()]):
        raise ValueError(fault)
    columns = power(game.actions, game.user_features) * game.agent_features
    if columns > MOST_COLUMNS:
        raise ValueError(
            f"game: A^XA * XB = {columns}, the explorer's limit is {MOST_COLUMNS}; em.stability solves larger games"
        )


def _market(key: str, title: str, about: str, game: Game) -> dict[str, Any]:
    arrays = {"prior": game.prior, "user": game.user_utility, "agents": game.agent_utilities}
    listed = {name: np.asarray(array, np.float64).tolist() for name, array in arrays.items()}
    seen = (game.labels and game.labels.agent_features) or [f"x_B = {xb}" for xb in range(game.agent_features)]
    names = {"agents": game.names("agents"), "agent_features": seen}
    return {"key": key, "title": title, "about": about, **listed, "names": names}


def _script(loader: str) -> str:
    """One module: imports of its parts from each other are gone, and so are exports."""
    parts = ["const loadHighs = (() => {\n" + loader.replace("export default Module", "return Module") + "\n})();"]
    for name in MODULES:
        text = re.sub(r'^import \{[^}]*\} from "\./\w+\.js";\n', "", _text(name), flags=re.M)
        parts.append(re.sub(r"^export ", "", text, flags=re.M))
    return "\n".join(parts)


def _text(name: str) -> str:
    return (resources.files("emalign_jax.report.explorer") / name).read_text("utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
