"""Files of counts of agents' messages, and the rows of what they prove (`emalign certify --counts`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from emalign_jax.equilibrium.observed_agents import ObservedCertificate
from emalign_jax.experiments.hull import text
from emalign_jax.games.game import Game
from emalign_jax.internal.npz import read_arrays
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.protocols.observed_schemes import MOST_MESSAGES
from emalign_jax.protocols.schemes import check_shape
from emalign_jax.result import columns

COLUMNS = ("agent", "state", "message", "count")


def read_counts(path: Path, games: Game, protocol: AbstractProtocol) -> np.ndarray:
    """Counts [..., K, XB, M] of messages from an .npz with `counts`, or from a table (.csv, .tsv, .parquet) with the
    columns agent (from 0), state (the number of x_B), message and count. Messages are numbers from 0 if all are;
    otherwise words, which are numbered as they first appear. Rows of the same three are added up.

    Raises `ValueError` that names the file, the field and the rule.
    """
    if path.suffix == ".npz":
        shapes = lambda arrays: check_shape(games, arrays["counts"].shape, protocol, "counts")  # noqa: E731
        return read_arrays(path, ("counts",), check=shapes)["counts"]
    source = text.source(path, "utf-8")
    text.need(source, {name: name for name in COLUMNS})
    frame = text.read(source, ["message"], ["agent", "state", "count"])
    most, words = MOST_MESSAGES - 1, frame["message"].str.strip()
    if (words == "").any():
        raise ValueError(f"{path}: message: row {source.row((words == '').idxmax())}: expected a number or a word")
    if words.str.fullmatch(r"[0-9]+").all():
        message = _whole(source, frame.assign(message=words.astype(float)), "message", most)
    else:
        message, found = pd.factorize(words)
        if len(found) > most + 1:
            raise ValueError(f"{path}: message: expected at most {most + 1} different messages, got {len(found)}")
    messages = int(message.max()) + 1
    sizes = {"agent": games.agents, "state": protocol.rows(games, messages)}
    agent, state = (_whole(source, frame, name, size - 1) for name, size in sizes.items())
    counts = np.zeros((*sizes.values(), messages))
    np.add.at(counts, (agent, state, message), _whole(source, frame, "count", None))
    return counts


def _whole(source: text.Source, frame: pd.DataFrame, name: str, most: int | None) -> np.ndarray:
    """A column of whole numbers from 0 to `most`."""
    values = frame[name]
    wrong = ~((values >= 0) & (values == np.floor(values)) & (values <= (np.inf if most is None else most)))
    if wrong.any():
        at, limit = wrong.idxmax(), ">= 0" if most is None else f"from 0 to {most}"
        raise ValueError(
            f"{source.path}: {name}: row {source.row(at)}: expected a whole number {limit}, got {values[at]:g}"
        )
    return values.to_numpy(int)


def rows(found: ObservedCertificate) -> pd.DataFrame:
    """The columns OBSERVED, a row a game."""
    batch = found.mean.user.shape
    values = found.to_pandas().assign(game=[",".join(map(str, at)) or "-" for at in np.ndindex(batch)])
    return columns.table(columns.OBSERVED, dict(values))
