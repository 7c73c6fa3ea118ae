"""The table of a market as it is read: utilities of the user, of the agents and of those who might enter.

Missing values are never filled in: a prompt (or item) with a missing value of the user or of an agent is left out,
with all its answers, and the notes say how many. Agents that might enter are those that miss none of what is left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emalign_jax.experiments.hull import tables, text
from emalign_jax.experiments.market.config import Table
from emalign_jax.experiments.specification import nearest
from emalign_jax.games.from_table import OWN_MEAN, UtilityTable, utility_table
from emalign_jax.internal import memory
from emalign_jax.internal.arguments import shortened, shown

FEWEST = 4  # prompts: two to fit weights to, two to test them
COPIES = 16  # of the utilities, in the sparse LPs of a market


@dataclasses.dataclass(frozen=True)
class MarketTable:
    """user: [n, A] of answers or [n] of ratings; scores: [n, P, A] or [n, P], the agents first, then those who might
    enter; names: of these; agents: how many are agents; topic: [n] labels or None; items: what rows are called."""

    target: str
    user: np.ndarray
    scores: np.ndarray
    names: tuple[str, ...]
    agents: int
    topic: np.ndarray | None
    items: str
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.user)

    @property
    def actions(self) -> int:
        return self.user.shape[1] if self.user.ndim > 1 else 2

    def market(self, section: Table, seed: int, counts: np.ndarray | None = None) -> UtilityTable:
        """The market in which prompt k is there counts[k] times; by default each once."""
        made = utility_table(
            self.user, self.scores, accept=section.accept, topic=self.topic, order=section.order, seed=seed,
            prior=None if counts is None else counts / counts.sum(), names=self.names,
        )  # fmt: skip
        if counts is None:
            return made
        there = counts > 0
        return UtilityTable(made.user[there], made.agents[there], made.topic[there], made.prior[there], made.names)


def read(section: Table) -> MarketTable:
    """The table of a specification. Raises `ValueError` that names the file, the row or column, and the rule."""
    path = Path(section.file or "")
    found = _npz(path, section) if path.suffix == ".npz" else _columns(path, section)
    if found.agents < 2:
        raise ValueError(
            f"{path}: table.agents: expected at least 2, for one agent has nobody to compete with, got {found.agents}"
        )
    if len(found) < FEWEST:
        raise ValueError(
            f"{path}: {len(found)} {found.items} are left, expected at least {FEWEST}, two to fit weights to and two "
            f"to test them" + "".join(f"; {note}" for note in found.notes)
        )
    _check_values(path, found, section)
    memory.require(
        COPIES * found.scores.nbytes * (1 if section.answers else 2),
        f"{path}: a market of {len(found.names)} agents, {len(found)} {found.items} and {found.actions} actions",
    )
    return found


def _npz(path: Path, section: Table) -> MarketTable:
    """user_utility [A, Y] and agent_utilities [K, A, Y], as `align` reads them; A = 1: ratings."""
    for name in ("target", "agents", "id", "topic"):
        if getattr(section, name) is not None:
            raise ValueError(f"{path}: table.{name}: names a column, and a .npz has none; leave it out")
    held = tables.read(path, tables.Options())
    if len(held.targets) != 1:
        raise ValueError(f"{path}: user_utility: expected one target, shape [A, Y], got {len(held.targets)}")
    A = held.utilities.shape[1]
    if (A == 1) == section.answers:
        wanted = "at least 2 answers to each prompt, or table.accept" if A == 1 else "one row, or table.answers"
        raise ValueError(f"{path}: user_utility: has A = {A}; expected {wanted}")
    some = np.flatnonzero(held.agents[0])
    user, scores = held.utilities[held.targets[0]].T, held.utilities[some].transpose(2, 0, 1)
    if A == 1:
        user, scores = user[:, 0], scores[:, :, 0]
    names = tuple(held.names[k] for k in some)
    return MarketTable("the target", user, scores, names, len(some), None, held.items, held.notes)


def _columns(path: Path, section: Table) -> MarketTable:
    source = text.source(path, section.encoding)
    kind = "prompts" if section.answers else "items"
    id_ = section.id or ("prompt" if section.answers else None)
    words = {"table.id": id_, "table.answer": section.answer if section.answers else None, "table.topic": section.topic}
    words = {key: name for key, name in words.items() if name is not None}
    if section.target is None:
        raise ValueError(f"{path}: table.target: expected the column of the user, one of {text.listed(source.columns)}")
    known = [name for name in source.columns if name not in words.values()]
    for key, name in words.items():
        _need(path, key, name, source.columns)
        if list(words.values()).count(name) > 1 or name == section.target:
            raise ValueError(f"{path}: {key}: {shown(name)} is named twice; expected different columns")
    named = section.agents is not None
    agents = [name for name in known if name != section.target] if section.agents is None else list(section.agents)
    for key, name in (("table.target", section.target), *(("table.agents", name) for name in agents)):
        _need(path, key, name, known)
    if section.target in agents:
        raise ValueError(f"{path}: table.agents: {shown(section.target)} is the target; expected others")
    if "" in agents:
        raise ValueError(
            f"{path}: row 1: column {source.columns.index('') + 1} has no name (an index that was saved?); expected a "
            "name, or table.agents that leave it out"
        )
    hint = "; a column that is no scorer can be named by table.id, table.answer or table.topic, or take table.agents"
    frame = text.read(source, list(words.values()), [section.target, *agents], "" if named else hint)
    others = [name for name in known if name not in (section.target, "", *agents)]
    notes: list[str] = []
    if section.answers:
        frame, rows = _by_prompt(source, frame, section, str(id_), [section.target, *agents], notes)
    else:
        if id_ is not None:
            tables.no_duplicates(source, frame, [id_])
        whole = np.all(frame[[section.target, *agents]].notna().to_numpy(bool), axis=1)
        _left_out(path, whole, frame, [section.target, *agents], "items", notes)
        frame = frame.loc[whole]
        rows = frame.index.to_numpy()[:, None]
    scores, entering = _entering(source, rows, others) if named else (np.zeros((*rows.shape, 0)), [])
    scores = np.concatenate([frame[agents].to_numpy(float).reshape(*rows.shape, -1), scores], 2).transpose(0, 2, 1)
    user = frame[section.target].to_numpy(float).reshape(rows.shape)
    topic = None if section.topic is None else _topic(source, frame, section.topic, rows)
    if not section.answers:
        user, scores = user[:, 0], scores[:, :, 0]
    return MarketTable(section.target, user, scores, (*agents, *entering), len(agents), topic, kind, tuple(notes))


def _by_prompt(source: text.Source, frame: pd.DataFrame, section: Table, prompt: str, numbers: list[str], notes):
    """The rows sorted so that the answers to a prompt follow each other, and their indices [n, A]."""
    path, answer = source.path, section.answer
    for name in (prompt, answer):
        if (frame[name] == "").any():
            raise ValueError(f"{path}: {shortened(name)}: row {source.row((frame[name] == '').idxmax())}: is empty")
    tables.no_duplicates(source, frame, [prompt, answer])
    code = pd.factorize(frame[prompt])[0]
    count = np.bincount(code)
    A = int(np.bincount(count).argmax())
    for bad, rule in ((count == 1, "at least 2"), (count != A, f"{A} as most prompts have, for each")):
        if bad.any():
            k = int(bad.argmax())
            more = f" ({int(bad.sum())} such prompts)" if bad.sum() > 1 else ""
            name = shown(frame[prompt].iloc[int((code == k).argmax())])
            raise ValueError(f"{path}: prompt {name}: expected {rule} answers, got {count[k]}{more}")
    frame = frame.iloc[np.argsort(code, kind="stable")]
    rows = frame.index.to_numpy().reshape(-1, A)
    whole = np.all(frame[numbers].notna().to_numpy(bool).reshape(len(rows), -1), axis=1)
    _left_out(path, whole, frame, numbers, "prompts, with all their answers,", notes)
    return frame.loc[np.repeat(whole, A)], rows[whole]


def _left_out(path: Path, whole: np.ndarray, frame: pd.DataFrame, numbers: list[str], what: str, notes) -> None:
    if whole.all():
        return
    missing = frame[numbers].isna().sum().sort_values(ascending=False)
    most = ", ".join(f"{shortened(name, 40)} ({count})" for name, count in missing.items() if count)
    note = f"{int((~whole).sum())} of {len(whole)} {what} left out: without a value of {shortened(most, 200)}"
    if not whole.any():
        raise ValueError(f"{path}: {note}; expected some without missing values: name fewer table.agents")
    notes.append(note)


def _entering(source: text.Source, rows: np.ndarray, others: list[str]) -> tuple[np.ndarray, list[str]]:
    """[n, A, E] and names: of the other columns those that hold numbers, and miss none of these rows."""
    if not others:
        return np.zeros((*rows.shape, 0)), []
    frame: Any = text.read(source, others, []).reindex(rows.ravel()).apply(pd.to_numeric, errors="coerce")
    held = {name: np.asarray(frame[name], float) for name in others}
    good = [name for name, values in held.items() if np.isfinite(values).all() and np.ptp(values) > 0]
    return np.stack([held[name].reshape(rows.shape) for name in good], 2) if good else np.zeros((*rows.shape, 0)), good


def _topic(source: text.Source, frame: pd.DataFrame, name: str, rows: np.ndarray) -> np.ndarray:
    label = frame[name].to_numpy(str).reshape(rows.shape)
    bad = (label != label[:, :1]).any(1) | (label == "").any(1)
    if bad.any():
        at = source.row(rows[bad.argmax()][0])
        raise ValueError(f"{source.path}: {shortened(name)}: row {at}: expected one topic for all answers to a prompt")
    return label[:, 0]


def _need(path: Path, key: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ValueError(f"{path}: {key}: there is no column {shown(name)}; {nearest(name, known)}")


def _check_values(path: Path, found: MarketTable, section: Table) -> None:
    """Refuse scorers who cannot want anything, and thresholds that all ratings are on one side of."""
    people = (found.target, *found.names)
    everyone = np.concatenate([found.user[:, None], found.scores], 1).reshape(len(found), len(people), -1)
    spreads = [(np.ptp(everyone, axis=(0, 2)), "is constant")]
    if section.answers:
        spreads.append((np.ptp(everyone, axis=2).max(0), "is indifferent between all answers to each prompt"))
    for spread, why in spreads:
        if (spread == 0).any():
            k = int((spread == 0).argmax())
            raise ValueError(f"{path}: {shortened(people[k])}: {why}; expected a scorer that varies, leave it out")
    if section.accept is not None and section.accept != OWN_MEAN:
        least, most = everyone.min(), everyone.max()
        if not least < float(section.accept) < most:
            raise ValueError(
                f"{path}: table.accept: expected a threshold between the ratings, which are {least:g} to {most:g}, got "
                f"{section.accept:g}"
            )


def pack(table: MarketTable) -> dict[str, Any]:
    """Its fields as arrays, for other processes; `MarketTable(**unpack(...))` is the table."""
    return {name: np.asarray(x) for name, x in vars(table).items() if x is not None}


def unpack(arrays: dict[str, np.ndarray]) -> MarketTable:
    texts = {name: tuple(arrays[name].tolist()) for name in ("names", "notes")}
    own = {name: arrays[name].item() for name in ("target", "agents", "items")}
    return MarketTable(user=arrays["user"], scores=arrays["scores"], topic=arrays.get("topic"), **texts, **own)
