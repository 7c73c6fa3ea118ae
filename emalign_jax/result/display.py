"""How results and modules print: on one line what matters, and in notebooks a small table with a figure."""

from __future__ import annotations

import html as markup
import inspect
import io
import math
import numbers
from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer

from emalign_jax.internal.transfers import fetch

MOST = 400  # characters of what prints
LISTED = 6  # numbers of a list
ROWS = 8  # of a table in a notebook

_figures: dict[type, Callable[[Any], Any]] = {}


def register_figure(cls: type, draw: Callable[[Any], Any]) -> None:
    """Show a figure below the table of this class of results in notebooks.

    draw: a function of the result that returns a matplotlib figure, or None where there is nothing to draw
    """
    _figures[cls] = draw


def number(value: Any) -> str:
    """Three digits, .93, 1.2e-05 or 12.5; whole numbers whole."""
    if abs(value) < 1e9 and value == int(value):
        return f"{int(value):,}"
    text = f"{float(value):.3g}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def summary(result: Any) -> str:
    """What a result is, in fewer than 400 characters: of how many games, how many of each code, the numbers that
    matter."""
    name = type(result).__name__
    if not _is_concrete(result):
        return cut(eqx.tree_pformat(result, short_arrays=True))
    size = [*_size(result)]
    parts = [", ".join(_counts(result)), "; ".join(_numbers(result))]
    text = ", ".join(size) + (": " if size and any(parts) else "") + "; ".join(filter(None, parts))
    return cut(f"{name}({text})")


def cut(text: str) -> str:
    """Text on one line, of at most `MOST` characters."""
    line = " ".join(text.split())
    return line if len(line) < MOST else line[: MOST - 5] + "...)"


def _is_concrete(result: Any) -> bool:
    """Whether its leaves are numbers; not while it is traced, or mapped to something else."""
    from emalign_jax.result.batched import axes_of

    if getattr(result, next(iter(axes_of(type(result))))) is None:
        return False
    known = (np.ndarray, jax.Array, np.generic, numbers.Number, str)
    leaves = jax.tree.leaves(result)
    return all(isinstance(x, known) and not isinstance(x, Tracer) for x in leaves)


def _size(result: Any) -> Iterable[str]:
    """The number of games and of agents."""
    from emalign_jax.result.batched import axes_of

    batch, unit = result.batch_shape, result._unit
    starts = getattr(result, "has_starts", False)
    batch = batch[1:] if starts else batch
    axes = axes_of(type(result))
    if batch or any(not one.shared for one in axes.values()):
        count = " x ".join(f"{n:,}" for n in batch)
        words = f"one {unit}" if not batch else f"{count} {unit}{'' if batch == (1,) else 's'}"
        yield f"{result.starts} starts of {words}" if starts else words
    for name, (_, after, _) in axes.items():
        if "K" in after and getattr(result, name) is not None:
            yield f"K={np.shape(getattr(result, name))[after.index('K') - len(after)]}"
            return


def _counts(result: Any) -> Iterable[str]:
    """How many games have each code."""
    if result._code is None:
        return
    from emalign_jax.result.batched import CODES

    codes = np.asarray(fetch(getattr(result, result._code)))
    for code in CODES[result._code]:
        if count := int((codes == code).sum()):
            word = code.name.lower().replace("_", " ")
            yield f"{count:,} {word}" if codes.ndim else word


def _numbers(result: Any) -> Iterable[str]:
    """The numbers that matter: of one game themselves, of a batch their means."""
    for word, value in result._headline().items():
        if value is None:
            continue
        if isinstance(value, str):
            yield f"{word} {value}"
            continue
        value = np.asarray(fetch(value), float)  # flags become shares
        if value.ndim and (result.batch_shape or value.ndim > 1):
            value = value[np.isfinite(value)]
            value = np.array(value.mean() if value.size else np.nan)
        if value.ndim:
            rest = ", ..." if len(value) > LISTED else ""
            yield f"{word} {', '.join(map(number, value[:LISTED]))}{rest}"
        elif not math.isnan(value):
            yield f"{word} {number(value)}"


def written(self) -> str:
    """A module as one writes it, without what it has by default: `QuantalUser(precision=20)`."""
    given = []
    for name, parameter in inspect.signature(type(self)).parameters.items():
        if hasattr(self, name):
            value = getattr(self, name)
            if not _same(value, parameter.default):
                given.append(f"{name}={_word(value)}")
    return cut(f"{type(self).__name__}({', '.join(given)})")


def _same(value: Any, default: Any) -> bool:
    if default is inspect.Parameter.empty or isinstance(value, Tracer):
        return False
    if np.ndim(value) == 0 and isinstance(default, numbers.Number):
        try:
            return bool(np.asarray(value) == default)
        except Exception:  # whatever stands in a tree that was mapped
            return False
    return value is default or (isinstance(value, str | tuple | bool) and value == default)


def _word(value: Any) -> str:
    if isinstance(value, Tracer) or not isinstance(value, np.ndarray | jax.Array | np.generic | float):
        if isinstance(value, list | tuple):
            return f"({', '.join(map(_word, value))}{',' if len(value) == 1 else ''})"
        if hasattr(value, "aval"):
            return f"traced{list(value.shape)}"
        plain = isinstance(value, eqx.Module | str | int | type(None)) or type(value).__repr__ is not object.__repr__
        name = getattr(value, "__name__", None)
        return str(name) if callable(value) and name else repr(value) if plain else f"<{type(value).__name__}>"
    if np.ndim(value):
        return f"array{list(np.shape(value))}"
    return f"{float(value):g}"


def html(result: Any) -> str:
    """The summary, a table of the first games, and the figure that is registered for the class. Text from data is
    escaped, and a figure that cannot be drawn never hides the table."""
    text = markup.escape(repr(result))
    if not _is_concrete(result):
        return f"<p><code>{text}</code></p>"
    return f"<div><p><code>{text}</code></p>{_table(result)}{_figure(result)}</div>"


def _table(result: Any) -> str:
    from emalign_jax.result.columns import GAMES  # which imports pandas

    few = result[:ROWS] if len(result.batch_shape) == 1 and not getattr(result, "has_starts", False) else result
    rows = few.to_pandas().head(ROWS)
    unlabelled = {column.name for column in GAMES if not column.label} - {"result"}
    shown = rows.drop(columns=[name for name in rows if name in {"message", *unlabelled}]).map(_cell)
    whole = math.prod(result.batch_shape)
    more = f"<p>{len(rows)} of {whole:,} rows; <code>.to_pandas()</code> has all.</p>" if whole > len(rows) else ""
    return f'<div style="overflow-x: auto">{shown.to_html(index=False, escape=True, border=0)}{more}</div>'


def _cell(value: Any) -> str:
    if isinstance(value, list):  # on one line: notebooks break lines at spaces, and six numbers would be six lines
        return ",\N{NO-BREAK SPACE}".join([*map(_cell, value[:LISTED]), *["..."] * (len(value) > LISTED)])
    if isinstance(value, bool | np.bool_ | str | numbers.Integral):
        return str(value)
    return number(value) if isinstance(value, numbers.Real) else str(value)


def _figure(result: Any) -> str:
    """The registered figure as SVG inside an image, which cannot run or style anything."""
    draw = next((_figures[cls] for cls in type(result).__mro__ if cls in _figures), None)
    if draw is None:
        return ""
    try:
        import base64

        figure, file = draw(result), io.BytesIO()
        if figure is None:
            return ""
        figure.savefig(file, format="svg", bbox_inches="tight")
        data = base64.b64encode(file.getvalue()).decode()
        return f'<img alt="{type(result).__name__}" style="max-width: 100%" src="data:image/svg+xml;base64,{data}">'
    except Exception as error:  # whatever a figure may raise, the table is worth more
        return f"<p>The figure was not drawn: {markup.escape(f'{type(error).__name__}: {error}')[:MOST]}</p>"
