"""The base class of results over a batch of games: named fields, indexing, codes by name, tables.

The shape of a field stands in its annotation, such as `Float[np.ndarray, "*batch K"]`, and nowhere else: indexing,
tables and labelled arrays read it there.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import equinox as eqx
import jax
import numpy as np

from emalign_jax.internal import batching
from emalign_jax.internal.arguments import boolean
from emalign_jax.internal.transfers import fetch
from emalign_jax.result import display
from emalign_jax.result.codes import Code, Derivative, FoundBy, Move, Result

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

SHAPE = re.compile(r"""\[.*?,\s*["']([^"']*)["']\]""")
# The axes of fields by the letters of their shapes, as labelled arrays name them. Rows of a scheme are values of x_B
# (in a conversation x_B and what was said).
AXES = {
    "K": "agent", "XA": "user_feature", "XB": "agent_feature", "A": "action", "Y": "outcome", "M": "message",
    "P": "point", "T": "step", "S": "start", "2": "limit", "R": "restart",
}  # fmt: skip
# Fields of codes, which tables hold by name.
CODES: dict[str, type[Code]] = {"result": Result, "found_by": FoundBy, "derivative": Derivative, "move": Move}
# Where the labels of an axis stand in `em.Labels`.
LABELS = {"K": "agents", "XA": "user_features", "XB": "agent_features", "A": "actions", "Y": "outcomes"}


Part = TypeVar("Part", bound="Batched")


class Axes(NamedTuple):
    """The letters of a field's axes before and after the batch axes; shared: it has no batch axes."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    shared: bool


class Batched(eqx.Module):
    """What one call found about one game or a batch of games.

    It is a pytree of its arrays, with names in place of positions: `len`, iteration, numbers, slices and masks go along
    the batch axes, as those of `em.Game` do. Fields without batch axes are the same in every part.

    Attributes:
        labels: the `em.Labels` of the games, for tables; None: there are none.

    Subclasses declare: `_along`, the letter of the axis along which tables in long form go; `_names`, what the schema
    of columns calls some fields; `_code`, the field of codes that says what came of each game; `_unit`, what the batch
    is of; and `_headline`, what is printed.
    """

    labels: Any = eqx.field(static=True, default=None, kw_only=True)

    _along: ClassVar[str] = "K"
    _names: ClassVar[dict[str, str]] = {}
    _code: ClassVar[str | None] = "result"
    _unit: ClassVar[str] = "game"

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The batch axes, () for one game."""
        for name, (before, after, shared) in axes_of(type(self)).items():
            if not shared and (value := getattr(self, name)) is not None:
                shape = np.shape(value)
                return shape[len(before) : len(shape) - len(after)]
        return ()

    def __len__(self) -> int:
        """The number of games along the first batch axis."""
        if not self.batch_shape:
            raise TypeError("this is of one game, not of a batch: it has no length")
        return self.batch_shape[0]

    def __bool__(self) -> bool:
        return not self.batch_shape or len(self) > 0

    def __iter__(self: Part) -> Iterator[Part]:
        """The parts along the first batch axis."""
        if not self.batch_shape:
            raise TypeError(
                f"this is of one game, not of a batch: there is nothing to go through; a {type(self).__name__} has "
                "names, not positions"
            )
        return (self[k] for k in range(len(self)))

    def __getitem__(self: Part, index) -> Part:
        """The part at `index` of the batch axes, as in NumPy: numbers, slices, arrays, masks."""
        return self._at(batching.index_parts(index, self.batch_shape))

    def _at(self: Part, parts: tuple[Any, ...], leading: int = 0) -> Part:
        """leading: how many axes stand before the batch axes that are indexed"""
        found, axes = {}, axes_of(type(self))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Batched):
                found[field.name] = value._at(parts, leading + field.metadata.get("leading", 0))
            elif field.name in axes and not axes[field.name].shared and value is not None:
                before = leading + len(axes[field.name].before)
                found[field.name] = _indexed(value, parts, before, len(axes[field.name].after))
        part = object.__new__(type(self))  # as trees are put together, without the checks of what is given
        for field in dataclasses.fields(self):
            object.__setattr__(part, field.name, found.get(field.name, getattr(self, field.name)))
        return part

    def replace(self: Part, **changes) -> Part:
        """The same with other values of some fields."""
        return dataclasses.replace(self, **changes)

    @property
    def ok(self) -> Any:
        """[...] whether all is well with each game: no deviation is known to gain more than the tolerance, where gains
        were checked; elsewhere that it was solved."""
        return self._of_codes("ok")

    @property
    def result_names(self) -> Any:
        """[...] the names of the codes, such as "CERTIFIED"; `em.Result[name].message` is a sentence."""
        return self._of_codes("name")

    def _of_codes(self, what: str) -> Any:
        if self._code is None:
            raise AttributeError(f"a {type(self).__name__} has no result codes")
        return of_codes(self._code, getattr(self, self._code), what)[()]

    def to_pandas(self, *, long: bool = False) -> pd.DataFrame:
        """A pandas table with a row a game (and start, where there are several), and the columns of docs/columns.md.

        long: a row a game, start and agent (of a `Stability` and a `Trajectory`: point or step), with its number, its
              label where the games have labels, and its own numbers. Otherwise these stand in lists.

        Fields with more axes, such as schemes, are left out: `to_xarray` has them.
        """
        import pandas as pd

        from emalign_jax.result.columns import GAMES

        boolean("long", long)
        batch, order = self.batch_shape, self._order()
        numbers = np.arange(int(np.prod(batch, dtype=int)))
        rows, values = len(numbers), self._columns(long)
        cells = {name: np.broadcast_to(x, (*batch, *np.shape(x)[len(batch) :])) for name, x in values.items()}
        cells = {name: x.reshape(rows, *x.shape[len(batch) :])[order] for name, x in cells.items()}
        cells = self._numbers(order) | cells
        along: dict[str, Any] = {}
        if long:
            count = max((x.shape[1] for x in cells.values() if x.ndim > 1), default=1)
            along = {AXES[self._along]: np.tile(np.arange(count), rows)}
            if words := self._words(self._along, count):
                along["label"] = np.tile(words, rows)
            own = {name: x.reshape(-1) if x.ndim > 1 else np.repeat(x, count) for name, x in cells.items()}
            numbered = {name: own.pop(name) for name in self._numbers(order)}
            table = pd.DataFrame(numbered | along | own)
        else:
            table = pd.DataFrame({name: x.tolist() if x.ndim > 1 else x for name, x in cells.items()})
        if self._unit != "game":
            return table
        place = {column.name: n for n, column in enumerate(GAMES)}
        place |= dict.fromkeys(("game", "start", *along), -1) if long else {}
        return table.reindex(columns=sorted(table, key=lambda name: place.get(name, len(place))))

    def _order(self) -> np.ndarray:
        """The rows of a table, as numbers of the flattened batch."""
        return np.arange(int(np.prod(self.batch_shape, dtype=int)))

    def _numbers(self, order: np.ndarray) -> dict[str, np.ndarray]:
        """The columns that say which row is which."""
        return {self._unit: order}

    def _columns(self, long: bool) -> dict[str, np.ndarray]:
        """Columns of a table: arrays over the batch, with one more axis for lists."""
        found = {}
        for name, (before, after, shared) in axes_of(type(self)).items():
            value = getattr(self, name)
            fits = not before and (not after or after == (self._along,) or (len(after) == 1 and not long))
            if value is None or not fits:
                continue
            value = np.asarray(fetch(value))
            value = np.broadcast_to(value, (*self.batch_shape, *value.shape)) if shared else value
            found[self._names.get(name, name)] = of_codes(name, value, "name") if name in CODES else value
        return found if self._code is None else found | {name: self._of_codes(name) for name in ("message", "ok")}

    def _words(self, letter: str, count: int) -> tuple[str, ...] | None:
        """The labels along an axis of this length."""
        words = getattr(self.labels, LABELS[letter], None) if letter in LABELS else None
        return words if words is not None and len(words) == count else None

    def to_xarray(self) -> xr.Dataset:
        """An xarray data set with all arrays, their axes named (game, start, agent, action, outcome, message, ...) and
        labelled where the games have labels.

        Raises `ImportError` that says what to install where xarray is not.
        """
        try:
            import xarray
        except ImportError:
            raise ImportError("to_xarray: xarray is not installed: pip install 'emalign-jax[xarray]'") from None
        batch, arrays, labels = self._batch_axes(), {}, {}
        for name, (before, after, shared) in axes_of(type(self)).items():
            value = getattr(self, name)
            if value is None:
                continue
            value = of_codes(name, value, "name") if name in CODES else np.asarray(fetch(value))
            own = [AXES.get(letter, letter) for letter in after]
            twice = [f"{axis}_{own[:n].count(axis) + 1}" if axis in own[:n] else axis for n, axis in enumerate(own)]
            arrays[name] = ([*(AXES.get(x, x) for x in before), *(() if shared else batch), *twice], value)
            for letter, axis, size in zip(after, own, value.shape[value.ndim - len(after) :], strict=True):
                if words := self._words(letter, size):
                    labels[axis] = list(words)
        return xarray.Dataset(arrays, labels)

    def _batch_axes(self) -> list[str]:
        axes = len(self.batch_shape)
        return [self._unit] if axes == 1 else [f"{self._unit}_{n}" for n in range(axes)]

    def _headline(self) -> dict[str, Any]:
        """The numbers that are printed, by the words before them; arrays over the batch are averaged."""
        return {}

    def __repr__(self) -> str:
        return display.summary(self)

    def _repr_html_(self) -> str:
        return display.html(self)


class BatchedStarts(Batched):
    """A result of searches.

    Attributes:
        starts: the number of starts; with more than one an axis of starts leads.
    """

    starts: int = eqx.field(static=True, default=1, kw_only=True)

    @property
    def has_starts(self) -> bool:
        return self.starts > 1 and self.batch_shape[:1] == (self.starts,)

    def _at(self, parts: tuple[Any, ...], leading: int = 0) -> Any:
        found = super()._at(parts, leading)
        whole = self.batch_shape[leading:]
        first = parts[0] if parts else ...
        kept = isinstance(first, slice) or (first is Ellipsis and len(parts) <= len(whole))
        kept = kept or [getattr(part, "ndim", 0) for part in parts] == [
            1,
            *[0] * (len(parts) - 1),
        ]  # some of the starts
        left = found.batch_shape[leading:]
        object.__setattr__(found, "starts", left[0] if self.has_starts and kept else 1)
        return found

    def _order(self) -> np.ndarray:
        """The starts of a game after each other, as in the run store."""
        order = super()._order()
        return order.reshape(self.starts, -1).T.reshape(-1) if self.has_starts else order

    def _numbers(self, order: np.ndarray) -> dict[str, np.ndarray]:
        games = max(1, len(order) // self.starts if self.has_starts else len(order))
        return {self._unit: order % games, "start": order // games}

    def _batch_axes(self) -> list[str]:
        if not self.has_starts:
            return super()._batch_axes()
        rest = len(self.batch_shape) - 1
        return ["start", *([self._unit] if rest == 1 else [f"{self._unit}_{n}" for n in range(rest)])]


@functools.cache
def axes_of(cls: type[Batched]) -> dict[str, Axes]:
    """The axes of each field of numbers, from its annotation."""
    found = {}
    for field in dataclasses.fields(cls):
        written = str(field.type)
        shape = SHAPE.search(written)
        if shape:
            before, batch, after = shape[1].partition("*batch")
            axes = (tuple(before.split()), tuple(after.split())) if batch else ((), tuple(before.split()))
            found[field.name] = Axes(*axes, not batch)
        elif written.split(" |")[0] in ("float", "int", "bool", "Result") and not field.metadata.get("static", False):
            found[field.name] = Axes((), (), True)
    return found


def of_codes(field: str, codes: Any, what: str) -> np.ndarray:
    """An attribute of each code in an array of codes, such as "name"; "" or False for -1, which stands for none."""
    known = [getattr(code, what) for code in CODES[field]]
    return np.asarray(np.array([*known, type(known[0])()])[np.asarray(fetch(codes))])


def _indexed(value: Any, parts: tuple[Any, ...], before: int, after: int) -> Any:
    """`value` at the parts of an index of its batch axes."""
    axes = range(np.ndim(value))
    found = value.transpose(*axes[before:], *axes[:before])  # so that all axes of its own follow the batch axes
    found = batching.take(found, parts, before + after)
    axes, left = range(np.ndim(found)), np.ndim(found) - before
    found = found.transpose(*axes[left:], *axes[:left]) if before else found
    return found if hasattr(found, "devices") else np.asarray(found)  # a number of NumPy is no array


def stacked(rows: list[Part], batch: tuple[int, ...], like: Part) -> Part:
    """The results of single games as one of a batch of this shape. like: of any game, for
    the axes where there is none"""
    count = len(rows)
    return jax.tree.map(lambda *x: np.stack(x)[:count].reshape((*batch, *x[0].shape)), *(rows or [like]))
