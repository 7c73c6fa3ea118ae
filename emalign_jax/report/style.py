"""The one style of all figures, at print size: fonts of 7 to 8 points at the widths of columns, TrueType in PDF.

Colours are those of Okabe and Ito (2008), which people with any kind of colour blindness tell apart (Wong 2011, Nature
Methods 8:441); maps are viridis. The style holds while something is drawn or saved (`styled`), never globally. Words
from outside are drawn as they stand, never as mathematics.
"""

from __future__ import annotations

import functools
import math
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure, SubFigure
from matplotlib.transforms import ScaledTranslation

from emalign_jax.internal import arguments
from emalign_jax.internal.files import atomic
from emalign_jax.report.look import FULL, NARROW
from emalign_jax.result.batched import Batched

P = ParamSpec("P")
R = TypeVar("R")

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, GREY, PALE = "0.15", "0.45", "0.8"
MAP = "viridis"
SMALL = 7.0  # points, the smallest font
MOST = 5  # entries of a legend; where there are more things to tell apart they have labels of their own
DOTTED, DASHED, DASHDOT = (0, (1, 1.3)), (0, (4, 1.6)), (0, (5, 1.5, 1, 1.5))
# What a line stands for looks the same in every figure.
ROLES: dict[str, dict[str, Any]] = {
    "found": {"color": COLOURS[0], "marker": "o", "ms": 3.6, "lw": 2.2},
    "best": {"color": COLOURS[2], "marker": "^", "ms": 3.6, "lw": 0.9},
    "worst": {"color": COLOURS[1], "marker": "v", "ms": 3.6, "lw": 0.9},
    "guarantee": {"color": COLOURS[3], "marker": "_", "ms": 4, "lw": 1.2, "ls": DASHDOT},
    "alone": {"color": GREY, "marker": "s", "ms": 2.8, "lw": 1.1, "ls": DASHED},
    "average": {"color": "0.6", "marker": ".", "ms": 4, "lw": 1, "ls": DOTTED},
    "aligned": {"color": COLOURS[5], "marker": "D", "ms": 2.6, "lw": 1.2},
    "hull": {"color": COLOURS[4], "marker": "D", "ms": 2.8, "lw": 1.3},
}
WORDS = {
    "found": "equilibrium found", "best": "best equilibrium", "worst": "worst equilibrium",
    "guarantee": "guarantee (sharp form)", "alone": "best single agent", "average": "average single agent",
    "aligned": "one aligned agent",
}  # fmt: skip
FAMILIES = {
    "hull": "hull: user utility is a mean of theirs",
    "noise": "noise: independent errors",
    "shared_bias": "shared bias: all err alike",
    "goal": "goal: profit on own products",
    "opposed": "opposed: biases in pairs",
    "file": "games of the file",
}
VALUE = "user value (0 no, 1 full information)"
MEAN = "user value, mean\n(1: full information)"  # where a longer one would be higher than the axes

STYLE: dict[Any, Any] = {
    "text.parse_math": False, "text.usetex": False,  # a dollar sign is one, also in `prices_$US_vs_$CA.csv`
    "pdf.fonttype": 42, "ps.fonttype": 42, "svg.hashsalt": "emalign", "savefig.dpi": 200, "figure.dpi": 150,
    "font.family": "DejaVu Sans", "font.size": 7.5, "axes.labelsize": 7.5, "axes.titlesize": 7.5,
    "figure.titlesize": 8, "xtick.labelsize": SMALL, "ytick.labelsize": SMALL, "legend.fontsize": SMALL,
    "legend.frameon": False, "legend.handlelength": 1.8, "legend.columnspacing": 1.2, "axes.titlepad": 4,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "lines.linewidth": 1.3,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5, "ytick.major.size": 2.5,
    "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white", "text.color": INK,
    "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.formatter.use_mathtext": False, "axes.grid": False, "figure.max_open_warning": 0,
    "figure.constrained_layout.h_pad": 0.03, "figure.constrained_layout.w_pad": 0.03,
}  # fmt: skip


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """The function, in the style while it runs."""

    @functools.wraps(draw)
    def within(*arguments: P.args, **options: P.kwargs) -> R:
        with mpl.rc_context(STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
            return draw(*arguments, **options)

    return within


# figures, axes and files


class Printed(Figure):
    """A figure of pyplot that embeds TrueType fonts however it is saved: matplotlib's default is Type 3, which
    submission checkers refuse."""

    def savefig(self, fname: Any, **options: Any) -> Any:
        with mpl.rc_context({key: STYLE[key] for key in ("pdf.fonttype", "ps.fonttype")}):
            return super().savefig(fname, **options)


def _known_to_pyplot(**options: Any) -> Any:
    """A new figure, which notebooks show; commands give axes of their own."""
    from matplotlib import pyplot

    return pyplot.figure(FigureClass=Printed, **options)


def axes_of(ax: Any, width: float = NARROW, height: float = 2.4) -> Axes:
    """The axes to draw into: those given, or for None those of a new figure of so many inches."""
    if ax is None:
        return _known_to_pyplot(figsize=(width, height), layout="constrained").subplots()
    if not isinstance(ax, Axes):
        raise ValueError(f"ax: expected matplotlib axes or None, got {arguments.shown(ax)}")
    return ax


@styled
def panels(
    count: int, *, width: float = FULL, height: float = 2.1, least: float = 2.4, figure: Any = None, share: bool = False
) -> tuple[Any, list[Axes]]:
    """A figure with several axes in the style of the package, side by side as far as the width allows.

    Args:
        count: number of axes.
        width: inches of the figure: 5.5 for the text of a page, 3.25 for one of two columns.
        height: inches of each row of axes.
        least: inches that each of the axes needs at least.
        figure: a matplotlib figure (or subfigure) to divide; by default a new one.
        share: whether all have the same vertical axis.

    Returns:
        (figure, axes).

    Raises:
        ValueError: names the argument and the rule.

    Example:
        >>> figure, (left, right) = em.plot.panels(2, width=3.25)
        >>> float(figure.get_figwidth())
        3.25
    """
    count = arguments.integer("count", count, 1)
    width, height, least = (
        arguments.number(name, value, *arguments.POSITIVE)
        for name, value in (("width", width), ("height", height), ("least", least))
    )
    arguments.boolean("share", share)
    if figure is None:
        return blank(count, width=width, height=height, least=least, figure=_known_to_pyplot(), share=share)
    if not isinstance(figure, Figure | SubFigure):
        raise ValueError(f"figure: expected a matplotlib figure or None, got {arguments.shown(figure)}")
    return figure, _divided(figure, *_rows(count, width, least), count, share)


def blank(
    count: int, *, width: float, height: float = 2.1, least: float = 2.4, figure: Any = None, share: bool = False
) -> tuple[Figure, list[Axes]]:
    """As `panels`, of a figure that pyplot does not know, or of this one, which gets the size."""
    figure = Figure() if figure is None else figure
    down, across = _rows(count, width, least)
    figure.set_size_inches(width, height * down)
    figure.set_layout_engine("constrained")
    return figure, _divided(figure, down, across, count, share)


def _rows(count: int, width: float, least: float) -> tuple[int, int]:
    """Rows and columns of so many panels, rows as even as can be."""
    across = min(count, max(1, int((width + 0.05) / least)))
    down = -(-count // across)
    return down, -(-count // down)


def _divided(figure: Any, down: int, across: int, count: int, share: bool) -> list[Axes]:
    grid = figure.subplots(down, across, sharey=share, squeeze=False)
    for ax in grid.ravel()[count:]:
        ax.set_axis_off()
    return list(grid.ravel()[:count])


@styled
def save(figure: Any, *paths: Any) -> list[str]:
    """Write a figure as it will be printed, with TrueType fonts in PDF; whole files or none.

    Args:
        figure: a matplotlib figure, or axes of it.
        paths: names that end in .png, .pdf or .svg; each file is replaced if it is there.

    Returns:
        The names of the files.

    Raises:
        ValueError: for anything else.

    Example:
        >>> axes = em.plot.schemes(em.catalog.judge(), em.full_revelation(1, 2, 2))
        >>> em.plot.save(axes, "schemes.png")
        ['schemes.png']
    """
    whole = figure.figure if isinstance(figure, Axes) else figure
    if not isinstance(whole, Figure):
        raise ValueError(f"figure: expected a matplotlib figure or axes, got {arguments.shown(figure)}")
    names = []
    for path in paths:
        if not isinstance(path, str | Path) or Path(path).suffix not in (".png", ".pdf", ".svg"):
            got = arguments.shown(path) if not isinstance(path, Path) else path.name
            raise ValueError(f"paths: expected names that end in .png, .pdf or .svg, got {got}")
        with atomic(Path(path)) as temporary:
            write(whole, temporary, Path(path).suffix[1:], laid_out=bool(names))
        names.append(Path(path).name)
    return names


@styled
def write(figure: Figure, file: Any, kind: str, laid_out: bool = False) -> None:
    """`Figure.savefig` of a kind, without dates: the same figure is the same file. laid_out: whether it was written
    before."""
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind, {})
    if not laid_out:
        figure.draw_without_rendering()  # ticks change with the first layout, and the second fits them
    figure.savefig(file, format=kind, metadata=undated, dpi=STYLE["savefig.dpi"])


def attempt(draw: Callable[[], list[str]]) -> list[str]:
    """The names of the files that `draw` writes; none, and a line on stderr that says why, if it fails."""
    try:
        return styled(draw)()
    except Exception as error:
        words = getattr(error, "strerror", None) or error
        why = " ".join(f"{type(error).__name__}: {words}".split())
        print(f"emalign: no figure could be drawn ({why}); all else is as it should be", file=sys.stderr)
        return []


# words


def shown(words: Any, most: int = 100) -> str:
    """A name or title from outside, as it fits into a figure: one line of what can be printed."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(str(words).split()))
    return line if len(line) <= most else line[: most - 3] + "..."


def wrapped(words: Any, inches: float, points: float = 7.5, lines: int = 2) -> str:
    """A name from outside, broken into lines that are so wide at most and about equally long, and cut where there is
    more."""
    across = max(8, int(inches * 72 / (0.57 * points)))
    whole = shown(words, 300).replace(" %", "\N{NO-BREAK SPACE}%")
    broken = textwrap.wrap(whole, across, max_lines=lines, placeholder="...")
    words = max(map(len, whole.split(" ")))
    for narrower in range(across - 1, words - 1, -1):
        even = textwrap.wrap(whole, narrower)
        if len(even) != len(broken):
            break
        broken = even
    return "\n".join(broken)


def family(name: Any) -> str:
    """What figures call a family of games."""
    return FAMILIES.get(str(name), shown(name).replace("_", " "))


def title(figure: Figure, words: str, lines: int = 3) -> None:
    """The title of a whole figure, within its width; the figure grows by its height."""
    width = float(figure.get_figwidth()) - 0.2
    text = "\n".join(wrapped(line, width, 8.0, lines) for line in words.split("\n"))
    figure.suptitle(text)
    grow(figure, 8.0, text.count("\n") + 1)


def grow(figure: Figure, points: float, lines: int) -> None:
    figure.set_figheight(float(figure.get_figheight()) + (1.35 * points * lines + 4) / 72)


def legend(figure: Figure, axes: Sequence[Axes], part: SubFigure | None = None) -> None:
    """One legend of all axes below them, each label once; the figure grows by its height. part: that holds the axes"""
    width = float(figure.get_figwidth())
    if entries := _entries(axes, width):
        handles, labels, across = entries
        (part or figure).legend(handles, labels, loc="outside lower center", ncols=across)
        grow(figure, SMALL, sum(label.count("\n") + 1 for label in labels[:: max(1, across)]))


def key(ax: Axes, given: Any) -> Axes:
    """The legend of a figure of one `ax`: below it if the figure is new (`given` is None) or is laid out around what it
    holds, else where there is room."""
    whole = ax.get_figure(root=True)
    assert isinstance(whole, Figure)
    if given is None:
        legend(whole, [ax])
    elif whole.get_layout_engine() is None:
        if ax.get_legend_handles_labels()[0]:
            ax.legend()
    elif entries := _entries([ax], inches(ax)[0]):
        handles, labels, across = entries
        # In inches below the axes, whose height the layout has yet to settle.
        down = ScaledTranslation(0, -0.3 - 0.13 * (ax.get_xlabel().count("\n") + 1), whole.dpi_scale_trans)
        place: dict[str, Any] = {"bbox_to_anchor": (0.5, 0), "bbox_transform": ax.transAxes + down}
        ax.legend(handles, labels, loc="upper center", ncols=across, **place)
    return ax


def _entries(axes: Sequence[Axes], width: float) -> tuple[list[Any], list[str], int] | None:
    """Handles, labels and the number of columns of the legend of these axes."""
    handles: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(str(label), handle)
    if not handles:
        return None
    assert len(handles) <= MOST, list(handles)
    labels = [wrapped(label, width - 0.5, SMALL, 3) for label in handles]
    longest = max(len(line) for label in labels for line in label.split("\n"))
    across = max(1, int((width + 0.1) / (0.4 + 0.57 * SMALL * longest / 72)))
    return list(handles.values()), labels, -(-len(labels) // -(-len(labels) // across))


# axes


def inches(ax: Axes) -> tuple[float, float]:
    """The size of axes before layout, which is about that after it."""
    box, dpi = ax.get_window_extent(), ax.get_figure(root=True).dpi  # pyright: ignore[reportOptionalMemberAccess]
    return float(box.width / dpi), float(box.height / dpi)


def left_label(axes: Iterable[Axes], words: str) -> None:
    """The label of a vertical axis that all panels share."""
    for ax in axes:
        place = ax.get_subplotspec()
        if place is None or place.is_first_col():
            ax.set_ylabel(words)


def letters(ax: Axes, share: float) -> int:
    """How many letters of the smallest font fit into a share of the width."""
    return max(16, int(share * inches(ax)[0] * 72 / (0.57 * SMALL)))


def levels(ax: Axes, *at: float) -> None:
    """Thin lines at 0 and 1, which values are counted from and to."""
    for level in at or (0, 1):
        ax.axhline(level, color=PALE, lw=0.6, zorder=0)


def value_limits(ax: Axes, values: Iterable[Any]) -> None:
    """0 to 1, or as far as values go. Information may harm a quantal user, and talking may cost more than it is worth:
    then values lie below 0."""
    known = np.concatenate([[0.0], *(np.ravel(np.asarray(x, float)) for x in values)])
    known = known[np.isfinite(known)]
    low, high = known.min(), max(1.0, known.max())
    ax.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))


def categories(ax: Axes, labels: Sequence[str]) -> None:
    """Ticks 0, 1, ... with these labels, as many of them as there is room for."""
    widest = max(max(map(len, label.split("\n"))) for label in labels)
    room = max(2, int(inches(ax)[0] * 72 / (0.62 * SMALL * (widest + 1))))
    step = -(-len(labels) // room)
    ax.set_xticks(range(0, len(labels), step), [labels[n] for n in range(0, len(labels), step)])
    ax.set_xlim(-0.4, len(labels) - 0.6)


def beside(ax: Axes, entries: Sequence[tuple[float, str, Any]]) -> None:
    """Labels (height, words, colour) to the right of the axes, moved apart where they would overlap. Where they are too
    many, some are left out: what is named is in the order of the heights."""
    ax.get_ylim()  # which brings limits up to date
    place = ax.transData + ax.transAxes.inverted()
    known = sorted((e for e in entries if math.isfinite(e[0])), key=lambda e: e[0])
    tall = inches(ax)[1]
    room = max(2, int(tall * 72 / (1.45 * SMALL)))
    step = -(-len(known) // room) if known else 1
    known = known[::-1][::step][::-1]
    if not known:
        return
    apart, most = 1.45 * SMALL / (72 * tall), letters(ax, 0.3)
    at = np.clip([place.transform((0, y))[1] for y, _, _ in known], 0, 1)
    for n in range(1, len(at)):  # from below, and what is too high then from above
        at[n] = max(at[n], at[n - 1] + apart)
    at[-1] = min(at[-1], 1 - apart / 3)
    for n in range(len(at) - 2, -1, -1):
        at[n] = min(at[n], at[n + 1] - apart)
    for y, (_, words, colour) in zip(at, known, strict=True):
        ax.text(1.02, y, shown(words, most), color=colour, fontsize=SMALL, va="center", transform=ax.transAxes)


def shades(count: int) -> list[Any]:
    """So many colours: those of the palette, or where there are more the map's, from dark to light."""
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    return [mpl.colormaps[MAP](share) for share in np.linspace(0, 0.85, count)]


def ink(colour: Any) -> str:
    """Black or white, whichever stands out more on a colour (WCAG 2's relative luminance)."""
    shares = np.array(to_rgb(colour))
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return "black" if linear @ [0.2126, 0.7152, 0.0722] > 0.179 else "white"


def plain_log(axis: Any) -> None:
    """Numbers as they are spoken on a logarithmic axis, whose usual ones are mathematics."""
    axis.set_major_formatter(lambda x, _: f"{x:g}")
    axis.set_minor_formatter(lambda x, _: "")


def log_counts(ax: Axes, n: Sequence[int]) -> None:
    """A logarithmic axis with ticks at these numbers, labelled where there is room."""
    ax.set_xscale("log")
    last, labels = 0.0, []
    scale = inches(ax)[0] / max(math.log(1.5 * n[-1] / n[0]), 0.4)  # inches a factor of e
    for k in n:
        fits = not last or scale * math.log(k / last) > (len(str(k)) + 1) * 0.6 * SMALL / 72
        labels.append(str(k) if fits else "")
        last = k if fits else last
    ax.set_xticks(n, labels)
    ax.minorticks_off()
    ax.set_xlim(n[0] / 1.25, n[-1] * 1.25)


def frame(name: str, rows: Any, needed: Iterable[str]) -> Any:
    """`rows`, or the table of a result, which must be a table with these columns and a row at least."""
    import pandas as pd

    rows = rows.to_pandas() if isinstance(rows, Batched) else rows
    if not isinstance(rows, pd.DataFrame):
        raise ValueError(f"{name}: expected a pandas DataFrame, got {arguments.shown(rows)}")
    if missing := [column for column in needed if column not in rows]:
        raise ValueError(f"{name}: expected a column {missing[0]}, got a table without it")
    if not len(rows):
        raise ValueError(f"{name}: expected a row at least, got a table without rows")
    return rows
