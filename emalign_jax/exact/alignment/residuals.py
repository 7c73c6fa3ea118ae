"""Residuals of alignment fits, and the lower bounds of their norms that dual vectors prove.

Tables are [..., A, Y], offsets c(y) [..., Y]; norms are the sup norm or the Frobenius norm.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from emalign_jax.internal.arguments import shown
from emalign_jax.internal.validation import checked

# Cone: if the dual must be changed by a larger share, a second way to change it is tried.
LARGE_CHANGE = 4e-11
# Relative to a table's largest entry: a smaller error is not fitted.
ROUNDING = 1e-14
# Cone, relative to a table's largest entry: a table with smaller differences counts as 0.
ALL_OFFSET = 1e-15


class Rule(NamedTuple):
    """The kind of fit: the arguments `weights`, `offset` and `norm` of `align`."""

    weights: str
    offset: str
    norm: str

    @property
    def simplex(self) -> bool:
        return self.weights == "simplex"


_WORDS = {"weights": ("simplex", "cone"), "offset": ("none", "constant", "per_state"), "norm": ("sup", "l2")}


def rule_of(weights: str, offset: str, norm: str) -> Rule:
    """The rule of these words. Raises `ValueError` for an unknown one."""
    rule = Rule(weights, offset, norm)
    for name, word in rule._asdict().items():
        if not isinstance(word, str) or word not in _WORDS[name]:
            allowed = ", ".join(f'"{w}"' for w in _WORDS[name])
            raise ValueError(f"{name}: expected one of {allowed}, got {shown(word)}")
    return rule


def best_offset(misfit, *, offset: str, norm: str) -> Float[np.ndarray, "*any Y"]:
    """The offset c(y) [..., Y] with the smallest norm of `misfit` - c, `misfit` [..., A, Y]."""
    return offset_of(np.asarray(misfit, float), rule_of("simplex", offset, norm))


def dual_bound(
    dual: Float[np.ndarray, "*any A Y"],
    user_utility: Float[np.ndarray, "*any A Y"],
    agent_utilities: Float[np.ndarray, "*any K A Y"],
    *,
    weights: str,
    offset: str,
    norm: str,
) -> Float[np.ndarray, "*any"]:
    """A lower bound [...] of the error of any weights and offset, from any `dual` q [..., A, Y], by weak duality.

    q is first made admissible: orthogonal to offsets, and of norm at most 1 in the dual norm (l1 for sup). Rounding is
    included, so that the bound holds for the given numbers."""
    rule = rule_of(weights, offset, norm)
    parts = parts_of(user_utility, agent_utilities, rule)
    return bound(admissible(dual, rule), parts, rule)


class Parts(NamedTuple):
    """The fit sum_i w_i tables_i + c ~ goal, in which offsets are removed from all tables. On the simplex goal is 0 and
    the tables are the agents' less the user's, so that their common part causes no rounding.

    With left the offset nearest to sum_i w_i tables_i - goal, the residual of weights w is
    sum_i w_i tables_i - goal - left, and their offset is shift - sum_i w_i offsets_i - left.
    """

    tables: Float[np.ndarray, "*any K A Y"]
    offsets: Float[np.ndarray, "*any K Y"]
    goal: Float[np.ndarray, "*any A Y"]
    shift: Float[np.ndarray, "*any Y"]


def parts_of(user, agents, rule: Rule, near=None) -> Parts:
    """The parts of a fit. near: on the simplex, the table that is subtracted from all tables instead of the user's
    (goal is then not 0)."""
    if rule.simplex:
        middle = user if near is None else near
        return Parts(*_split_difference(agents, middle[..., None, :, :], rule), *_split_difference(user, middle, rule))
    tables, offsets = split(agents, rule)
    # An agent whose table is an offset up to rounding counts as 0; otherwise huge weights would fit its rounding.
    tables[size_of(tables, "sup") <= ALL_OFFSET * np.abs(agents).max((-2, -1))] = 0
    return Parts(tables, offsets, *split(user, rule))


def bound(q, parts: Parts, rule: Rule, cone_interior: float = np.inf) -> Float[np.ndarray, "*any"]:
    """The lower bound of the error that an admissible q proves: error >= <q, residual> = sum_i w_i <q, tables_i> -
    <q, goal>.

    On the simplex this is at least min_i <q, tables_i> - <q, goal>. On the cone it is at least -<q, goal> if all
    <q, tables_i> >= 0. Where some are negative (by rounding, or because an agent is the opposite of others), q is
    replaced by q - d, where d is either a multiple of the vector whose length is `cone_interior`, or the projection of
    q on the span of those tables, if the other products exceed |d| |tables_i|. A fit that is better than zero weights
    has norm at most 2 |goal|, so that d reduces the bound by at most 2 |goal| |d|. Tables that are linearly dependent
    up to rounding count as dependent."""
    tables, goal = _orthogonal(parts.tables, rule), _orthogonal(parts.goal, rule)
    size, length = size_of(tables, rule.norm), size_of(parts.goal, rule.norm)
    slopes, noise = _products("...kay,...ay->...k", tables, q, size)
    earned, lost = _products("...ay,...ay->...", goal, q, size_of(goal, rule.norm))
    if rule.simplex:
        least = (slopes - noise).min(-1) - earned - lost
    else:
        lack = np.where(size > 0, np.maximum(noise - slopes, 0) / np.where(size > 0, size, 1), 0).max(-1)
        wide = np.where(lack > 0, np.maximum(lack, 1e-300) * cone_interior, 0)
        large = wide > LARGE_CHANGE
        if large.any():
            sizes = np.broadcast_to(size, slopes.shape)[large]
            whole = np.broadcast_to(tables, (*slopes.shape, *tables.shape[-2:]))[large]
            wide[large] = np.minimum(wide[large], _tilt(slopes[large], noise[large], sizes, whole, rule))
        least = (-earned - lost - 2 * length * wide) / (1 + wide)
    return np.asarray(np.maximum(least, 0) * (1 - rounding_of(q)))


def cone_interior(tables: Float[np.ndarray, "K A Y"], rule: Rule) -> float:
    """Cone: the length, in the dual norm, of a vector p with <p, table> >= |table| for all tables; inf if none is found
    (there is none where some agents cancel each other). If <q, table> >= -lack |table| for all tables, then
    <q + lack p, table> >= 0."""
    size = size_of(tables, rule.norm)
    if not size.any():
        return 0.0
    shape = (_orthogonal(tables, rule).reshape(len(size), -1) / np.where(size > 0, size, 1)[:, None])[size > 0]
    p = np.linalg.lstsq(shape, np.ones(len(shape)))[0]
    least = (shape @ p - rounding_of(tables) * np.abs(shape) @ np.abs(p)).min(initial=1.0)
    length = np.linalg.norm(p, 2 if rule.norm == "l2" else 1)
    return float(length / least) if least > 0 else np.inf


def _products(which: str, tables, q, size):
    """<q, table> and a bound of its error: from rounding of the sum, and because q and the table are orthogonal to
    offsets only up to rounding."""
    rounding = rounding_of(q)
    noise = rounding * (np.einsum(which, np.abs(tables), np.abs(q)) + rounding * size)
    return np.einsum(which, tables, q), noise


def rounding_of(table) -> float:
    """A bound of the rounding of a product <q, table> of this shape, in units of |q| |table|, for any order of sums."""
    return (table.shape[-1] * table.shape[-2] + 16) * float(np.finfo(float).eps) / 2


def _tilt(slopes, noise, size, tables, rule: Rule) -> Float[np.ndarray, "*any"]:
    """An upper bound of |d| of `bound`, in the dual norm."""
    cells = tables.shape[-1] * tables.shape[-2]
    unit = np.where(size > 0, size, 1.0)
    share, noise = slopes / unit, noise / unit
    flat = (tables / unit[..., None, None]).reshape(*size.shape, cells)
    longest, dependent = np.sqrt(cells) if rule.norm == "sup" else 1.0, rounding_of(tables)
    wrong = (share < noise) & (size > 0)
    wide = np.zeros(size.shape[:-1])
    for _ in range(size.shape[-1] + 1):
        if not wrong.any():
            return wide
        u, sigma, _ = np.linalg.svd(np.where(wrong[..., None], flat, 0), full_matrices=False)
        along = np.abs(np.einsum("...kr,...k->...r", u, np.where(wrong, share, 0)))
        along += np.linalg.norm(np.where(wrong, noise, 0), axis=-1)[..., None]
        kept = sigma > dependent * np.maximum(sigma[..., :1], 1e-300)
        steps = np.where(kept, along / np.where(kept, sigma, 1), 0)
        wide = np.asarray(longest * np.linalg.norm(steps, axis=-1))
        more = wrong | ((share - noise < wide[..., None]) & (size > 0))
        if (more == wrong).all():
            return wide
        wrong = more
    return wide


def polished_dual(q, w, parts: Parts, rule: Rule) -> np.ndarray:
    """`q` corrected for the rounding that agents much larger than the error, or a small residual, cause.

    At the optimum <q, tables_i> is equal for all agents in use and larger for the others (cone: 0 for agents in use).
    The result is the smallest change of q for which this holds, with a margin of twice the rounding for each agent."""
    tables, rounding = parts.tables, rounding_of(q)
    size = size_of(tables, rule.norm)
    slopes = np.tensordot(tables, q, 2)
    level = w @ slopes if rule.simplex else 0.0
    rows = ((w > 0) | (slopes < level + 2 * rounding * size)) & (size > 0)
    lack = (level - slopes[rows]) / size[rows] + 2 * rounding
    change = np.linalg.lstsq(_orthogonal(tables[rows], rule).reshape(-1, q.size) / size[rows, None], lack)[0]
    return q + change.reshape(q.shape)


def _orthogonal(tables, rule: Rule):
    """The part of each table that is orthogonal to offsets, as every q must be."""
    return centre(tables, rule._replace(norm="l2"))


def admissible(dual: Float[np.ndarray, "*any A Y"], rule: Rule) -> Float[np.ndarray, "*any A Y"]:
    """`dual` made orthogonal to offsets and of dual norm 1. In the sup norm its many zeros stay zeros."""
    if rule.norm == "l2":
        dual = centre(dual, rule)
        size = size_of(dual, "l2")[..., None, None]
    else:
        if rule.offset != "none":
            axes = (-2, -1) if rule.offset == "constant" else (-2,)
            up = np.maximum(dual, 0).sum(axes, keepdims=True)
            down = np.maximum(-dual, 0).sum(axes, keepdims=True)
            both = np.minimum(up, down)
            dual = dual * np.where(dual > 0, both / np.where(up > 0, up, 1), both / np.where(down > 0, down, 1))
        size = np.abs(dual).sum((-2, -1), keepdims=True)
    return np.where(size > 0, dual / np.where(size > 0, size, 1), 0.0)


def exactly_constant(offset: Float[np.ndarray, "*any Y"], rule: Rule) -> Float[np.ndarray, "*any Y"]:
    """A constant offset is repeated exactly: matrix products may round equal columns differently."""
    return np.broadcast_to(offset[..., :1], offset.shape).copy() if rule.offset == "constant" else offset


def offset_of(x: Float[np.ndarray, "*any A Y"], rule: Rule) -> Float[np.ndarray, "*any Y"]:
    """The offset c(y) nearest to x: the midrange (sup) or the mean (l2)."""
    if rule.offset == "none":
        return np.zeros((*x.shape[:-2], x.shape[-1]))
    axes = (-2, -1) if rule.offset == "constant" else (-2,)
    if rule.norm == "l2":
        c = x.mean(axes, keepdims=True)
    else:
        c = x.max(axes, keepdims=True) / 2 + x.min(axes, keepdims=True) / 2
    return np.broadcast_to(c, (*x.shape[:-2], 1, x.shape[-1]))[..., 0, :]


def split(x, rule: Rule):
    """x - c [..., A, Y] and c [..., Y]."""
    c = offset_of(x, rule)
    if rule.offset == "none":
        return np.array(x, np.float64), c
    x = x - c[..., None, :]
    again = offset_of(x, rule)  # The first result is rounded at the size of c.
    return x - again[..., None, :], c + again


def _split_difference(x, y, rule: Rule):
    """`split` of x - y, rounded at the size of the result, not of the offset or of the common part of x and y."""
    difference = x - y
    minus_y = difference - x
    lost = (x - (difference - minus_y)) - (y + minus_y)  # The exact rounding error of the subtraction.
    left, c = split(difference, rule)
    left, again = split(left + lost, rule)
    return left, c + again


def centre(x, rule: Rule):
    """x without its nearest offset."""
    return split(x, rule)[0]


def size_of(x: Float[np.ndarray, "*any A Y"], norm: str) -> Float[np.ndarray, "*any"]:
    """The norm of x, without overflow."""
    largest = np.asarray(np.abs(x).max((-2, -1)))
    if norm == "sup":
        return largest
    unit = np.where(largest > 0, largest, 1.0)
    return np.asarray(unit * np.sqrt(((x / unit[..., None, None]) ** 2).sum((-2, -1))))


def scale_of(x, rule: Rule):
    """The norm of a table all of whose entries are x's largest entry."""
    return np.abs(x).max((-2, -1)) * (np.sqrt(x.shape[-1] * x.shape[-2]) if rule.norm == "l2" else 1.0)


def unit_of(parts: Parts, user, agents, rule: Rule):
    """For user [..., A, Y] and agents [..., K, A, Y] with these `parts`: the error [...] of the best single agent
    (cone: of zero weights), and a bound of its rounding."""
    own = ROUNDING * scale_of(user, rule)
    if not rule.simplex:
        return size_of(parts.goal, rule.norm), own
    singles = size_of(parts.tables - parts.goal[..., None, :, :], rule.norm)
    best = singles.argmin(-1)[..., None]
    others = np.take_along_axis(np.broadcast_to(scale_of(agents, rule), singles.shape), best, -1)[..., 0]
    return np.take_along_axis(singles, best, -1)[..., 0], own + ROUNDING * others


def table_of(name: str, value, core: str) -> np.ndarray:
    """The argument `name` as float64. Raises `ValueError` if its last axes are not those of `core`."""
    array = np.asarray(checked(**{name: value})[0])
    if array.ndim < core.count(",") or 0 in array.shape[-core.count(",") :]:
        raise ValueError(f"{name}: expected shape {core} with no empty axis of these, got {list(array.shape)}")
    return array.astype(np.float64, copy=False)


def tables_of(user_utility, agent_utilities) -> tuple[np.ndarray, np.ndarray]:
    """The two arguments as float64. Raises `ValueError` if they do not fit together."""
    user = table_of("user_utility", user_utility, "[..., A, Y]")
    agents = table_of("agent_utilities", agent_utilities, "[..., K, A, Y]")
    if agents.shape[-2:] != user.shape[-2:]:
        raise ValueError(
            f"agent_utilities: last axes [A, Y] are {list(agents.shape[-2:])}, "
            f"but user_utility has {list(user.shape[-2:])}"
        )
    try:
        np.broadcast_shapes(user.shape[:-2], agents.shape[:-3])
    except ValueError:
        raise ValueError(
            f"agent_utilities: batch axes are {list(agents.shape[:-3])}, "
            f"which do not broadcast with {list(user.shape[:-2])} of user_utility"
        ) from None
    return user, agents
