"""Games and schemes on disk (.npz, never pickled). Files are written whole or not at all.

Batches of games of different numbers of agents share a file: short games are padded with NaN along K, and
an array `agents` says how many each has. `load_games(path, agents=K)` takes those with K agents, and the first K of the
agents' labels.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from emalign_jax.games.game import Game, faults
from emalign_jax.games.labels import FIELDS, Labels
from emalign_jax.internal.arguments import MOST, integer
from emalign_jax.internal.npz import read_arrays, save_arrays
from emalign_jax.internal.validation import as_float_array, checked, on_host

GAME_FIELDS = ("prior", "user_utility", "agent_utilities")
# Arrays of text, `labels_agents` and so on; each of them may be absent.
LABEL_FIELDS = {f"labels_{name}": name for name in FIELDS}


def load_games(path: str | os.PathLike, *, agents: int | None = None) -> Game:
    """Read games from an .npz file of `save_games` or of a run.

    The file holds `prior`, `user_utility`, `agent_utilities`, perhaps labels (`labels_agents`, ...) and, for games of
    several sizes, `agents`, the number of each. Malformed games of a batch are kept, and `solve` and `certify` give
    them a result code; a file in which every game is malformed is refused.

    Args:
        path: of the file.
        agents: K; read only the games of K agents. Needed for a file with several numbers of agents.

    Returns:
        A `Game`, with batch axes as in the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: names the file, the field and the rule.

    Example:
        >>> em.save_games("games.npz", em.catalog.judge())
        >>> em.load_games("games.npz").names("agents")
        ('prosecutor',)
    """
    checked(path=path)
    agents = None if agents is None else integer("agents", agents, 1)

    def shapes(arrays):
        for name in LABEL_FIELDS.keys() & arrays.keys():
            if arrays[name].dtype.kind != "U" or arrays[name].ndim != 1:
                raise ValueError(f"{name}: expected a list of text, got {arrays[name].dtype} {arrays[name].shape}")
        Game(*(arrays[name] for name in GAME_FIELDS), check="shapes")

    arrays = read_arrays(path, GAME_FIELDS, optional=("agents", *LABEL_FIELDS), check=shapes)
    fields = [arrays[name] for name in GAME_FIELDS]
    if "agents" in arrays:
        shape = fields[2].shape
        games = tuple(field.shape[0] if field.ndim else 0 for field in fields)
        counts = _counts(path, arrays["agents"], games, shape[1] if len(shape) > 1 else 0)
        rows, K = _rows(path, counts, agents)
        fields = [field[rows] for field in fields]
        fields[2] = fields[2][:, :K]
    try:
        games = Game(*fields, check="shapes", labels=labels_in(arrays, fields[2].shape[-3]))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if "agents" not in arrays and agents not in (None, games.agents):
        raise ValueError(f"{path}: agents: asked for games of {agents} agents, the file has {games.agents}")
    wrong = faults(games)
    if wrong.size == 0:
        raise ValueError(f"{path}: prior: expected at least one game, got an empty batch")
    if (wrong != "").all():
        raise ValueError(
            f"{path}: {wrong.ravel()[0]}" + (f" (all {wrong.size} games are malformed)" if wrong.ndim else "")
        )
    return games


def save_games(path: str | os.PathLike, games: Game) -> None:
    """Write games with their labels to an .npz file, whole or not at all.

    Args:
        path: of the file.
        games: a `Game`, with any batch axes.

    Raises:
        ValueError: if the file cannot be written.

    Example:
        >>> em.save_games("games.npz", em.catalog.judge())
        >>> sorted(np.load("games.npz").keys())[:3]
        ['agent_utilities', 'labels_actions', 'labels_agent_features']
    """
    path, games = on_host(path=path, games=games)
    save_arrays(path, game_arrays(games))


def game_arrays(games: Game) -> dict[str, np.ndarray]:
    """What a file of games holds."""
    fields = {name: np.asarray(getattr(games, name)) for name in GAME_FIELDS}
    return fields | {f"labels_{name}": np.array(words) for name, words in (games.labels or Labels()).given().items()}


def labels_in(arrays: Mapping[str, np.ndarray], agents: int) -> Labels | None:
    """The labels among the arrays of a file, those of the first so many agents; None if there are none."""
    found = {own: arrays[name].tolist() for name, own in LABEL_FIELDS.items() if name in arrays}
    if "agents" in found and "agents" in arrays:
        found["agents"] = found["agents"][:agents]
    return Labels(**found) if found else None


def agent_names(path: str | os.PathLike) -> list[str]:
    """The labels of the agents in a file of games, in which games of fewer agents have the first; [] if there are
    none."""
    arrays = read_arrays(path, (), optional=("labels_agents",))
    try:
        return list(Labels(agents=tuple(arrays["labels_agents"].tolist())).agents or ()) if arrays else []
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: labels_agents: {error}") from None


def load_schemes(path: str | os.PathLike, *, agents: int | None = None) -> np.ndarray:
    """Read schemes from an .npz file of `save_schemes` or of a run.

    Args:
        path: of the file.
        agents: K; read only the schemes of K agents. Needed for a file with several numbers of agents.

    Returns:
        [..., K, XB, M], in conversations [..., K, rows, M].

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: names the file, the field and the rule.

    Example:
        >>> em.save_schemes("schemes.npz", em.full_revelation(2, 3, 3))
        >>> em.load_schemes("schemes.npz").shape
        (2, 3, 3)
    """
    checked(path=path)
    agents = None if agents is None else integer("agents", agents, 1)

    def shapes(arrays):
        schemes = as_float_array("schemes", arrays["schemes"])
        if schemes.ndim < 3:
            raise ValueError(f"schemes: expected shape [..., K, XB, M], got {list(schemes.shape)}")

    arrays = read_arrays(path, ("schemes",), optional=("agents",), check=shapes)
    schemes = arrays["schemes"]
    if "agents" in arrays:
        games = schemes.shape[-4:-3] or (0,)
        rows, K = _rows(path, _counts(path, arrays["agents"], games, schemes.shape[-3]), agents)
        schemes = np.take(schemes, rows, axis=-4)[..., :K, :, :]
    return schemes


def save_schemes(path: str | os.PathLike, schemes) -> None:
    """Write schemes to an .npz file, whole or not at all.

    Args:
        path: of the file.
        schemes: [..., K, XB, M], or a `Solution`.

    Raises:
        ValueError: if the file cannot be written.

    Example:
        >>> em.save_schemes("schemes.npz", em.no_information(2, 3, 3))
        >>> em.load_schemes("schemes.npz")[0].tolist()
        [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    """
    path, schemes = on_host(path=path, schemes=schemes)
    if np.ndim(schemes) < 3:
        raise ValueError(f"schemes: expected shape [..., K, XB, M], got {list(np.shape(schemes))}")
    save_arrays(path, {"schemes": np.asarray(schemes)})


def sizes(path: str | os.PathLike) -> list[int | None]:
    """The different numbers of agents in a file; [None] if all its games have the same."""
    arrays = read_arrays(path, (), optional=("agents",))
    return [int(k) for k in np.unique(_counts(path, arrays["agents"], most=MOST))] if "agents" in arrays else [None]


def pad_agents(array: np.ndarray, agents: int, axis: int) -> np.ndarray:
    """`array` padded with NaN to `agents` agents along `axis`, as in files with several numbers of agents."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, agents - array.shape[axis])
    return np.pad(array.astype(float), widths, constant_values=np.nan)


def _counts(path, counts: np.ndarray, games: tuple[int, ...] = (), most: int | None = None) -> np.ndarray:
    """`counts`, checked: one number of agents, at most `most`, for each of the games."""
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or any(n != len(counts) for n in games):
        held = f"; the arrays hold {', '.join(map(str, games))} games" if games else ""
        raise ValueError(
            f"{path}: agents: expected one integer a game, got {counts.dtype} of shape {list(counts.shape)}{held}"
        )
    if not len(counts):
        raise ValueError(f"{path}: agents: expected at least one game, got none")
    if not (counts.min() >= 1 and (most is None or counts.max() <= most)):
        raise ValueError(f"{path}: agents: expected numbers >= 1 and <= K, got {counts.min()} to {counts.max()}")
    return counts


def _rows(path, counts: np.ndarray, agents: int | None) -> tuple[np.ndarray, int]:
    present = [int(k) for k in np.unique(counts)]
    if agents is None and len(present) > 1:
        raise ValueError(f"{path}: agents: holds games of {', '.join(map(str, present))} agents, say which")
    wanted = present[0] if agents is None else agents
    if wanted not in present:
        raise ValueError(
            f"{path}: agents: asked for games of {agents} agents, the file has {', '.join(map(str, present))}"
        )
    return np.flatnonzero(counts == wanted), wanted
