"""Tables of utilities, from files of five kinds: who may be a target, who may be an agent, and on which items.

What a file holds is told by its name, its columns and the options: see `read`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from emalign_jax.experiments.hull import text
from emalign_jax.experiments.hull.block import dense_block
from emalign_jax.games.game import LARGEST_UTILITY
from emalign_jax.internal import memory
from emalign_jax.internal.arguments import shortened, shown
from emalign_jax.internal.npz import read_arrays
from emalign_jax.internal.validation import as_float_array

MOST_CELLS = 60_000_000  # cells of a (user, item) table before the dense block is chosen
POLL_COPIES = 8  # of a table of shares, while it is read
SHARES = 0.02  # how far shares of a question may be from adding up to 1
LONG, MOVIELENS, POLL = (
    ("user", "item", "rating"),
    ("userId", "movieId", "rating"),
    ("question", "option", "group", "share"),
)


@dataclasses.dataclass(frozen=True)
class Options:
    """How to read a table; None: what the file is recognised by, for `overlap` a block without missing cells."""

    user: str | None = None
    item: str | None = None
    rating: str | None = None
    target: str | None = None
    id: str | None = None
    question: str | None = None
    option: str | None = None
    group: str | None = None
    share: str | None = None
    encoding: str = "utf-8"
    least_people: int = 3
    least_items: int = 10
    overlap: int | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """Utilities of people [P, A, Y].

    targets: the people who are targets; agents [T, P]: who may be an agent of each. item: of each column, the row
    of the table (item, question, prompt) that it belongs to: these are what is split into training and test.
    per_state: several answers an item, so that offsets c(y) make sense. people and items say what they are called.
    notes: what was left out, and why. overlap: None: no cell is missing. Otherwise missing cells are NaN, and a target
    is fitted on the items that it and its agents rated, so many at least.
    """

    kind: str
    utilities: Float[np.ndarray, "P A Y"]
    names: list[str]
    targets: Int[np.ndarray, "T"]
    agents: Bool[np.ndarray, "T P"]
    item: Int[np.ndarray, "Y"]
    people: str
    items: str
    notes: tuple[str, ...] = ()
    overlap: int | None = None

    @property
    def there(self) -> Bool[np.ndarray, "P I"]:
        """Which person rated which item; the cells of an item are all missing, or none is."""
        return ~np.isnan(self.utilities[:, 0, np.unique(self.item, return_index=True)[1]])

    @property
    def per_state(self) -> bool:
        return self.utilities.shape[1] > 1

    @property
    def item_count(self) -> int:
        return int(self.item.max()) + 1

    @property
    def available(self) -> int:
        """Agents that every target has."""
        return int(self.agents.sum(1).min())


def read(path: Path, options: Options = Options()) -> Table:
    """Read a table.

    .npz: `user_utility` [..., A, Y] and `agent_utilities` [..., K, A, Y] (answers A to prompts Y; games files too).
    .csv, .tsv, .parquet: with columns user, item, rating (or as named by the options) or userId, movieId, rating
    (MovieLens) a long table; with question, option, group, share answer distributions; with `target` or `id` a wide
    one, a column a person. Four columns of numbers without header in .data or .tsv: MovieLens' u.data.
    Raises `ValueError` that names the file, the row or column and what would be right.
    """
    if path.suffix == ".npz":
        return _npz(path, options)
    source = text.source(path, options.encoding)
    long = {"user": options.user, "item": options.item, "rating": options.rating}
    poll = {name: getattr(options, name) for name in POLL}
    if any(poll.values()) or (set(POLL) <= set(source.columns) and not any(long.values()) and options.id is None):
        if any(long.values()):
            raise ValueError("--question, --option, --group, --share: leave out --user, --item, --rating with these")
        return _poll(source, {name: poll[name] or name for name in POLL}, options)
    if options.id is None or any(long.values()):
        names = MOVIELENS if set(MOVIELENS) <= set(source.columns) else LONG
        named = {option: long[option] or name for option, name in zip(LONG, names, strict=True)}
        if any(long.values()) or set(named.values()) <= set(source.columns):
            return _long(source, named, options)
    if options.target is not None or options.id is not None:
        return _wide(source, options)
    raise ValueError(
        f"{path}: expected the columns user, item, rating (else name them: --user, --item, --rating), or question, "
        f"option, group, share; or say that a column is a person: --id COLUMN or --target COLUMN; the columns are "
        f"{text.listed(source.columns)}"
    )


def _long(source: text.Source, named: dict[str, str], options: Options) -> Table:
    text.need(source, {f"--{option}": column for option, column in named.items()})
    user, item, rating = (named[option] for option in LONG)
    if len({user, item, rating}) < 3:
        raise ValueError(
            f"{source.path}: --user, --item, --rating: expected three different columns, "
            f"got {text.listed([user, item, rating])}"
        )
    frame = text.read(source, [user, item], [rating])
    total = len(frame)
    kept = frame.loc[frame[rating].notna() & (frame[user] != "") & (frame[item] != "")]
    notes = [_without(total - len(kept), total, f"without {text.listed([user, item])} or {shortened(rating)}")]
    if kept.empty:
        raise ValueError(f"{source.path}: {shortened(rating)}: no row has a user, an item and a rating")
    no_duplicates(source, kept, [user, item])
    rows, users = pd.factorize(kept[user])
    columns, items = pd.factorize(kept[item])
    values = kept[rating].to_numpy(float)
    rows, columns, few = _frequent(rows, columns, values)
    values = values[few] if few is not None else values
    if few is not None:
        notes.append("the table is large: only users and items with many ratings were looked at")
        (rows, who), (columns, what) = ((np.unique(x, return_inverse=True)[::-1]) for x in (rows, columns))
        users, items = users[who], items[what]
    table = np.full((len(users), len(items)), np.nan)
    table[rows, columns] = values
    kind = "MovieLens ratings" if named["user"] == "userId" or not source.header else "ratings"
    return _dense(source.path, kind, table, list(users), list(items), ("users", "items"), notes, options, "rated")


def _wide(source: text.Source, options: Options) -> Table:
    given = {f"--{name}": getattr(options, name) for name in ("target", "id") if getattr(options, name) is not None}
    text.need(source, given)
    if options.id is not None and options.id == options.target:
        raise ValueError(f"{source.path}: --id: is also the --target, {shown(options.id)}; expected two columns")
    people = [name for name in source.columns if name != options.id]
    hint = "; if the column only labels the rows, pass --id with its name" if options.id is None else ""
    frame = text.read(source, [] if options.id is None else [options.id], people, hint)
    if options.id is not None:
        no_duplicates(source, frame, [options.id])
    labels = list(frame[options.id]) if options.id else [str(source.row(at)) for at in frame.index]
    table = frame[people].to_numpy(float).T
    empty = np.isnan(table).all(1)
    notes = []
    if empty.any():
        gone = [people[k] for k in np.flatnonzero(empty)]
        if options.target in gone:
            raise ValueError(
                f"{source.path}: {shortened(options.target)}: the target's column is empty; expected numbers"
            )
        notes = [f"columns without any number left out: {text.listed(gone)}"]
        table, people = table[~empty], [people[k] for k in np.flatnonzero(~empty)]
    return _dense(
        source.path, "wide table", table, people, labels, ("annotators", "instances"), notes, options, "judged"
    )


def _poll(source: text.Source, named: dict[str, str], options: Options) -> Table:
    text.need(source, {f"--{option}": column for option, column in named.items()})
    question, option, group, share = (named[name] for name in POLL)
    frame = text.read(source, [question, option, group], [share])
    no_duplicates(source, frame, [question, option, group])
    negative = frame[share] < 0
    if negative.any():
        at = negative.idxmax()
        raise ValueError(
            f"{source.path}: {shortened(share)}: row {source.row(at)}: expected a share >= 0, got {frame[share][at]:g}"
        )
    who, groups = pd.factorize(frame[group], sort=True)
    pairs = pd.MultiIndex.from_arrays([frame[question], frame[option]])
    at, columns = pairs.factorize(sort=True)  # the options of a question follow each other
    item, questions = pd.factorize(np.array([name for name, _ in columns], object))
    memory.require(
        POLL_COPIES * 8 * len(groups) * len(columns),
        f"{source.path}: a table of {len(groups)} groups and {len(columns)} options",
    )
    values = np.full((len(groups), len(columns)), np.nan)
    values[who, at] = frame[share]
    first = np.searchsorted(item, np.arange(len(questions)))
    known = ~np.isnan(values)
    present = np.logical_or.reduceat(known, first, axis=1)
    gaps = frame[share].isna().to_numpy()  # listed, but not said
    present[who[gaps], item[at[gaps]]] = False
    whole = 100.0 if np.nanmax(values, initial=0) > 1 + SHARES else 1.0
    totals = np.add.reduceat(np.where(known, values, 0), first, axis=1)
    off = np.argwhere((present & (abs(totals - whole) > SHARES * whole)).T)
    if len(off):
        q, g = off[0]
        raise ValueError(
            f"{source.path}: {shortened(share)}: the shares of {shortened(group)} {shown(groups[g])} in "
            f"{shortened(question)} {shown(questions[q])} add up to {totals[g, q]:g}; expected {whole:g}"
        )
    told = present[:, item]
    silent = int((told & ~known).sum())
    values = np.where(told, np.where(known, values, 0) / np.where(told, totals[:, item], 1), np.nan)
    notes = [f"options that a group was not listed with count as shares of 0 ({silent})"] if silent else []
    rows, kept, more = _block(
        source.path, present, list(groups), list(questions), ("groups", "questions"), notes, options, "answered"
    )
    columns = np.isin(item, kept)
    item = np.searchsorted(kept, item[columns])
    names, values = [str(groups[r]) for r in rows], values[np.ix_(rows, columns)][:, None]
    words = ("groups", "questions")
    return _in_turn(source.path, "answer distributions", values, names, item, words, more, options)


def _npz(path: Path, options: Options) -> Table:
    if options.overlap is not None:
        raise ValueError(f"{path}: --overlap: an .npz has no missing cells; leave it out")
    arrays = read_arrays(path, ("user_utility", "agent_utilities"), ("agents",), _check_utilities)
    user, agents = (as_float_array(name, arrays[name]) for name in ("user_utility", "agent_utilities"))
    with np.errstate(invalid="ignore"):  # of a NaN that signals
        user, agents = np.asarray(user, float), np.asarray(agents, float)
    K, A, Y = agents.shape[-3:]
    single = agents.ndim == 3  # all targets share the agents
    for name, array in (("user_utility", user), ("agent_utilities", agents)):
        if (np.abs(array[np.isfinite(array)]) >= LARGEST_UTILITY).any():
            raise ValueError(f"{path}: {name}: expected numbers below {LARGEST_UTILITY:g}")
    user, agents = user.reshape(-1, A, Y), agents.reshape(-1, K, A, Y)
    T, G = len(user), len(agents)
    counts = np.full(G, K)
    if "agents" in arrays:
        counts = arrays["agents"].reshape(-1)
        if len(counts) != G or counts.dtype.kind not in "iu" or counts.min() < 1 or counts.max() > K:
            raise ValueError(f"{path}: agents: expected an integer from 1 to {K} for each of {G} games")
    there = np.arange(K) < counts[:, None]  # [G, K]
    owner = np.zeros(T, int) if single else np.arange(T)
    whole = np.isfinite(user).all((1, 2)) & (np.isfinite(agents).all((2, 3)) | ~there).all(1)[owner]
    notes = [_without(int((~whole).sum()), T, "with entries that are not finite", "targets")]
    if not whole.any():
        raise ValueError(
            f"{path}: user_utility, agent_utilities: every target has entries that are not finite; expected numbers"
        )
    names = [f"agent {k}" if single else f"game {g} agent {k}" for g in range(G) for k in range(K)]
    names += [f"target {t}" if single else f"game {t}" for t in range(T)]
    utilities = np.concatenate([np.nan_to_num(agents.reshape(-1, A, Y)), np.nan_to_num(user)])
    targets = G * K + np.flatnonzero(whole)
    memory.require(targets.size * len(utilities), f"{path}: {targets.size} targets with agents of their own")
    allowed = np.zeros((len(targets), len(utilities)), bool)
    for t, game in enumerate(np.flatnonzero(whole)):
        g = owner[game]
        allowed[t, g * K : (g + 1) * K] = there[g]
    table = Table(
        "utilities", utilities, names, targets, allowed, np.arange(Y), "agents", "prompts" if A > 1 else "items",
        tuple(note for note in notes if note),
    )  # fmt: skip
    return _varied(path, table, named=options.target is not None or T == 1)


def _check_utilities(arrays: dict[str, np.ndarray]) -> None:
    for name, core, axes in (("user_utility", "[..., A, Y]", 2), ("agent_utilities", "[..., K, A, Y]", 3)):
        array = arrays[name]
        if array.dtype.kind != "f" or array.ndim < axes or 0 in array.shape:
            raise ValueError(
                f"{name}: expected numbers of shape {core} with no empty axis, got {array.dtype} of shape "
                f"{list(array.shape)}"
            )
    user, agents = arrays["user_utility"].shape, arrays["agent_utilities"].shape
    if user[-2:] != agents[-2:]:
        raise ValueError(
            f"agent_utilities: last axes [A, Y] are {list(agents[-2:])}, those of user_utility {list(user[-2:])}"
        )
    if len(agents) > 3 and agents[:-3] != user[:-2]:  # else all targets share the agents
        raise ValueError(
            f"agent_utilities: batch axes are {list(agents[:-3])}, those of user_utility {list(user[:-2])}"
        )


def _dense(path, kind, table, names, items, words, notes, options, verb) -> Table:
    """A (people, items) table with gaps, its dense block, everyone as target or the one asked for."""
    rows, columns, more = _block(path, ~np.isnan(table), names, items, words, notes, options, verb)
    values = table[np.ix_(rows, columns)][:, None]
    return _in_turn(path, kind, values, [names[r] for r in rows], np.arange(len(columns)), words, more, options)


def _in_turn(path, kind, utilities, names, item, words, notes, options) -> Table:
    P = len(names)
    memory.require(P * (P if options.target is None else 1), f"{path}: {P} {words[0]}, each a target in turn,")
    targets = np.arange(P) if options.target is None else np.array([names.index(options.target)])
    agents = np.ones((len(targets), P), bool)
    agents[np.arange(len(targets)), targets] = False
    table = Table(
        kind, np.ascontiguousarray(utilities), [str(name) for name in names], targets, agents, item, words[0], words[1],
        tuple(note for note in notes if note), options.overlap,
    )  # fmt: skip
    if P < 2:
        raise ValueError(f"{path}: one of the {words[0]} is left; expected a target and at least one agent")
    return _varied(path, table, named=options.target is not None)


def _block(path, present, names, items, words, notes, options, verb):
    """Rows and columns of the dense block, and `notes` with sentences about what it leaves out."""
    keep = None
    if options.target is not None:
        if options.target not in names:
            raise ValueError(
                f"{path}: --target: {shown(options.target)} is none of the {words[0]}, which are {text.listed(names)}"
            )
        keep = names.index(options.target)
    if options.overlap is not None:
        rows, columns = np.flatnonzero(present.any(1)), np.flatnonzero(present.any(0))
        if keep is not None and keep not in rows:
            raise ValueError(f"{path}: --target: {shown(options.target)} {verb} none of the {words[1]}")
        rule = f"fitted on the {words[1]} that it and its agents {verb}, {options.overlap} at least"
        return rows, columns, [*notes, f"{present.mean():.1%} of the cells are there; each target is {rule}"]
    rows, columns = dense_block(present, options.least_people, options.least_items, keep)
    if not (len(rows) and len(columns)):
        raise ValueError(f"{path}: no item was {verb} by two of the {words[0]}; expected a block without missing cells")
    if len(rows) < options.least_people or len(columns) < options.least_items:
        raise ValueError(
            f"{path}: expected at least {options.least_people} {words[0]} and {options.least_items} {words[1]} without "
            f"missing cells (--least-people, --least-items), the largest block has {len(rows)} and {len(columns)}"
            + "".join(f"; {note}" for note in notes if note)
        )
    P, C = present.shape
    notes = list(notes)
    if len(columns) < C:
        by = present[rows].sum(0)[np.setdiff1d(np.arange(C), columns)]
        notes.append(
            f"{C - len(columns)} of {C} {words[1]} left out: {verb} by {_range(by)} of the {len(rows)} {words[0]} kept"
        )
    if len(rows) < P:
        by = present[:, columns].sum(1)[np.setdiff1d(np.arange(P), rows)]
        notes.append(
            f"{P - len(rows)} of {P} {words[0]} left out: {verb} {_range(by)} of the {len(columns)} {words[1]} kept"
        )
    return rows, columns, notes


def _varied(path, table: Table, named: bool) -> Table:
    """Without targets of which all cells are alike (several answers: all answers to each prompt)."""
    u = table.utilities[table.targets]
    axes = 1 if table.per_state else (1, 2)
    spread = np.nanmax(u, axes) - np.nanmin(u, axes)
    flat = (spread.max(1) if table.per_state else spread) == 0
    if not flat.any():
        return table
    names = [table.names[t] for t in table.targets[flat]]
    if flat.all() or named:
        same = (
            "is indifferent between all answers"
            if table.per_state
            else f"is {np.nanmax(u[flat][0]):g} on all {table.items}"
        )
        raise ValueError(
            f"{path}: the target {shortened(names[0].removeprefix('target '))} {same}; expected one that varies"
        )
    note = f"{len(names)} of {len(flat)} are no targets, for whom all {table.items} are alike: {text.listed(names, 5)}"
    return dataclasses.replace(
        table, targets=table.targets[~flat], agents=table.agents[~flat], notes=(*table.notes, note)
    )


def _frequent(rows, columns, values):
    """Where a table would not fit, the ratings of users and items with 2, 4, 8, ... ratings at least; else all."""
    kept, least = np.arange(len(values)), 1
    while len(np.unique(rows[kept])) * len(np.unique(columns[kept])) > MOST_CELLS:
        least *= 2
        for codes in (rows, columns):
            kept = kept[np.bincount(codes[kept])[codes[kept]] >= least]
    return (rows, columns, None) if least == 1 else (rows[kept], columns[kept], kept)


def no_duplicates(source: text.Source, frame: pd.DataFrame, columns: list[str]) -> None:
    again = frame.duplicated(columns)
    if not again.any():
        return
    at = again.idxmax()
    first = (frame[columns] == frame.loc[at, columns]).all(axis=1).idxmax()
    what = ", ".join(f"{shortened(column)} {shortened(frame.loc[at, column])}" for column in columns)
    more = f" ({int(again.sum())} such rows)" if again.sum() > 1 else ""
    raise ValueError(
        f"{source.path}: {what} is in rows {source.row(first)} and {source.row(at)}; expected one row for each "
        f"({text.listed(columns)}){more}"
    )


def _without(count: int, total: int, why: str, what: str = "rows") -> str:
    return f"{count} of {total} {what} left out: {why}" if count else ""


def _range(counts: np.ndarray) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"only {low}" if low == high else f"only {low} to {high}"
