"""What the page shows of one game besides its row: schemes, prior, the user's utility, the stability profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emalign_jax.exact import stability
from emalign_jax.experiments.grid.run import GAMES, SCHEMES
from emalign_jax.games.files import GAME_FIELDS, LABEL_FIELDS, labels_in
from emalign_jax.games.game import Game
from emalign_jax.games.labels import PLAIN as WORDS
from emalign_jax.games.labels import Labels
from emalign_jax.internal.npz import read_arrays
from emalign_jax.internal.validation import as_float_array
from emalign_jax.report.page.rows import MOST_ROWS, packed, rounded
from emalign_jax.result import Result

NUMBERS = 4_000_000  # of all schemes and games on a page
COLUMNS = 50_000  # of all LPs that stability profiles are computed by: a few seconds
PLAIN = WORDS | {"outcomes": "y = {}", "user_features": "x_A = {}"}  # where there are no labels
LISTS = ("agent_payoffs", "gain_lower", "gain_upper", "payoff_range")


def of_games(directory: Path, manifest: dict[str, Any], rows: pd.DataFrame) -> tuple[list[str], dict[str, Any]]:
    """Notes on what is left out, and entries for the script.

    rows: of games.parquet; the starts of a game follow each other, as games.npz and schemes.npz have them
    Raises `ValueError` that names a file which is damaged or does not agree with the rows.
    """
    few = rows.head(MOST_ROWS)
    found: dict[str, Any] = {name: rounded(_padded(few[name])) for name in LISTS}
    kept = [name for name in (GAMES, SCHEMES) if name in manifest["files"] and (directory / name).exists()]
    if len(kept) < 2:
        return ["This run keeps no games and schemes; the lines in a game's detail compute them again."], found
    games, counts, labels = _games(directory / GAMES)
    schemes, starts = _schemes(directory / SCHEMES, len(games.prior))
    if len(rows) != len(schemes):
        raise ValueError(f"{directory / SCHEMES}: schemes: expected one profile a row of the table, {len(rows)} rows")
    held, notes = len(few), []
    each = sum(array[0].size for array in (schemes, games.prior, games.user_utility))
    if each * held > NUMBERS:
        held = max(1, NUMBERS // each)
        notes.append(f"Schemes are shown of the first {held:,} rows; emalign certify reads those of all.")
    some = -(-held // starts)
    found |= {
        "starts": starts,
        "schemes": rounded(schemes[:held]),
        "prior": rounded(games.prior[:some]),
        "utility": rounded(games.user_utility[:some]),
        "labels": labels,
    }
    known = np.isfinite(rows["worst_equilibrium"].to_numpy(float))[::starts][:some]
    profiles, left = _profiles(games, counts, np.flatnonzero(known))
    if left:
        notes.append(
            f"Stability profiles are computed for the first {int(known.sum()) - left:,} games that have one; "
            f"emalign stability {directory / GAMES} shows all."
        )
    return notes, found | profiles


def _padded(lists: Any) -> np.ndarray:
    """Lists of a number an agent, [N, K]; NaN beyond their ends."""
    rows = [np.asarray([] if values is None else values, float).reshape(-1) for values in lists]
    width = max(map(len, rows), default=0)
    found = np.full((len(rows), width), np.nan)
    for n, row in enumerate(rows):
        found[n, : len(row)] = row
    return found


def _games(path: Path) -> tuple[Game, np.ndarray, dict[str, list[str]]]:
    """The games [N] of a file, padded along K, the number of agents of each, and words for all that they number."""

    def check(declared: dict[str, np.ndarray]) -> None:
        if Game(*(declared[name] for name in GAME_FIELDS), check="shapes").prior.ndim != 4:
            raise ValueError(f"prior: expected shape [N, XA, XB, Y], got {list(declared['prior'].shape)}")
        numbers = declared.get("agents", np.zeros(len(declared["prior"])))
        if numbers.shape != (len(declared["prior"]),):
            raise ValueError("agents: expected one integer a game")
        for name in LABEL_FIELDS.keys() & declared.keys():
            if declared[name].dtype.kind != "U" or declared[name].ndim != 1:
                raise ValueError(f"{name}: expected a list of text")

    arrays = read_arrays(path, GAME_FIELDS, optional=("agents", *LABEL_FIELDS), check=check)
    games = Game(*(np.asarray(arrays[name], float) for name in GAME_FIELDS), check="shapes")
    counts = np.asarray(arrays.get("agents", np.full(len(games.prior), games.agents)))
    if counts.dtype.kind not in "iu" or not ((counts >= 1) & (counts <= games.agents)).all():
        raise ValueError(f"{path}: agents: expected integers from 1 to {games.agents}")
    try:
        given = (labels_in(arrays, games.agents) or Labels()).given()
        sizes = {
            "agents": games.agents, "actions": games.actions, "outcomes": games.outcomes,
            "user_features": games.user_features, "agent_features": games.agent_features,
        }  # fmt: skip
        Labels(**given).check(sizes | ({"agents": len(given["agents"])} if "agents" in given else {}))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return (
        games,
        counts,
        {
            name: list(given.get(name, (PLAIN.get(name, "{}").format(n) for n in range(size))))
            for name, size in sizes.items()
        },
    )


def _schemes(path: Path, count: int) -> tuple[np.ndarray, int]:
    """Schemes [N S, K, rows, M], the starts of a game after each other, and how many starts there are."""

    def check(declared: dict[str, np.ndarray]) -> None:
        shape = as_float_array("schemes", declared["schemes"]).shape
        if len(shape) not in (4, 5) or shape[-4] != count or not declared["schemes"].size:
            raise ValueError(f"schemes: expected shape [{count}, K, rows, M] or [starts, {count}, K, rows, M], "
                             f"got {list(shape)}")  # fmt: skip

    schemes = np.asarray(read_arrays(path, ("schemes",), check=check)["schemes"], float)
    starts = len(schemes) if schemes.ndim == 5 else 1
    return np.swapaxes(schemes.reshape(starts, *schemes.shape[-4:]), 0, 1).reshape(-1, *schemes.shape[-3:]), starts


def _profiles(games: Game, counts: np.ndarray, wanted: np.ndarray) -> tuple[dict[str, Any], int]:
    """Stability profiles of the first of these games that cost little, and of how many there are none for that."""
    each = games.agent_features * games.actions ** min(games.user_features, 20)
    some = wanted[: COLUMNS // each]
    found, width = {}, 0
    for K in np.unique(counts[some]) if len(some) else ():
        own = some[counts[some] == K]
        part = Game(games.prior[own], games.user_utility[own], games.agent_utilities[own, :K], check="shapes")
        exact = stability(part)
        for k, game in enumerate(own.tolist()):
            if Result(int(exact.result[k])).ok:
                found[game] = np.stack(exact.profile((k,)))
                width = max(width, found[game].shape[-1])
    if not found:
        return {}, len(wanted)
    stacked = np.full((3, len(found), width), np.nan)
    for n, profile in enumerate(found.values()):
        stacked[:, n, : profile.shape[-1]] = profile
    names = ("value", "gap", "zero")
    packed_profiles = {name: packed(array) for name, array in zip(names, stacked, strict=True)}
    return {"profiles": packed_profiles | {"games": packed(np.array([*found]), "<u4")}}, len(wanted) - len(some)
