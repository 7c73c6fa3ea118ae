"""What weights and an offset leave of a table, and what a dual vector proves that all weights must leave.

The arithmetic of `alignment`: tables [..., A, Y], offsets c(y) [..., Y], the sup norm or the Frobenius norm.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from emalign_jax.internal.arguments import shown

WIDE = 1e-11  # cone: a change of the dual by this share is worth another look
ROUNDING = 1e-14  # of a table's largest entry: an error so small is not worth fitting
LEVEL = 1e-15  # of a table's largest entry: differences so small are none (cone)


class Rule(NamedTuple):
    """What is fitted: the words of `align`."""

    weights: str
    offset: str
    norm: str

    @property
    def simplex(self) -> bool:
        return self.weights == "simplex"


_WORDS = {"weights": ("simplex", "cone"), "offset": ("none", "constant", "per_state"), "norm": ("sup", "l2")}


def rule_of(weights: str, offset: str, norm: str) -> Rule:
    rule = Rule(weights, offset, norm)
    for name, word in rule._asdict().items():
        if not isinstance(word, str) or word not in _WORDS[name]:
            allowed = ", ".join(f'"{w}"' for w in _WORDS[name])
            raise ValueError(f"{name}: expected one of {allowed}, got {shown(word)}")
    return rule


def best_offset(misfit, *, offset: str, norm: str) -> Float[np.ndarray, "*any Y"]:
    """The c(y) [..., Y] that leaves least of `misfit` [..., A, Y]."""
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
    """A lower bound on the error of any weights and offset, from any `dual` q [A, Y], by weak duality.

    q is first made admissible: orthogonal to offsets, of size at most 1 in the dual norm (l1 for sup). Rounding is
    counted, so that the bound holds of the given numbers as they are."""
    rule = rule_of(weights, offset, norm)
    parts = apart(user_utility, agent_utilities, rule)
    return bound(admissible(dual, rule), parts, rule)


class Parts(NamedTuple):
    """What is fitted, offsets taken out: sum_i w_i tables_i + c ~ goal. On the simplex goal is 0 and the tables are the
    agents' less the user's, so that nothing is rounded at the size of what they have in common.

    The residual of weights w is sum_i w_i tables_i - goal - left, and their offset shift - sum_i w_i offsets_i - left,
    left being the offset nearest to sum_i w_i tables_i - goal.
    """

    tables: Float[np.ndarray, "*any K A Y"]
    offsets: Float[np.ndarray, "*any K Y"]
    goal: Float[np.ndarray, "*any A Y"]
    shift: Float[np.ndarray, "*any Y"]


def apart(user, agents, rule: Rule, near=None) -> Parts:
    """near: on the simplex, what is taken from all tables in place of the user's (goal is then not 0)."""
    if rule.simplex:
        middle = user if near is None else near
        return Parts(*_split_difference(agents, middle[..., None, :, :], rule), *_split_difference(user, middle, rule))
    tables, offsets = split(agents, rule)
    # an agent who is all offset but for the last digit is 0, or huge weights would make something of that digit
    tables[size_of(tables, "sup") <= LEVEL * np.abs(agents).max((-2, -1))] = 0
    return Parts(tables, offsets, *split(user, rule))


def bound(q, parts: Parts, rule: Rule, inward: float = np.inf) -> Float[np.ndarray, "*any"]:
    """What an admissible q proves: error >= <q, residual> = sum_i w_i <q, tables_i> - <q, goal>.

    On the simplex that is at least the least <q, tables_i> - <q, goal>. On the cone it is at least -<q, goal> if all
    <q, tables_i> >= 0. Where some are not (rounding, or an agent who is the opposite of others) some q - d does it: d
    from `inward`, or the projection of q on the span of those tables, if the others exceed |d| |tables_i|. A fit better
    than none is at most 2 |goal| long, so d can cost no more than 2 |goal| |d|. Tables that depend on each other
    but for rounding count as dependent."""
    tables, goal = _orthogonal(parts.tables, rule), _orthogonal(parts.goal, rule)
    size, length = size_of(tables, rule.norm), size_of(parts.goal, rule.norm)
    slopes, noise = _products("...kay,...ay->...k", tables, q, size)
    earned, lost = _products("...ay,...ay->...", goal, q, size_of(goal, rule.norm))
    if rule.simplex:
        least = (slopes - noise).min(-1) - earned - lost
    else:
        lack = np.where(size > 0, np.maximum(noise - slopes, 0) / np.where(size > 0, size, 1), 0).max(-1)
        wide = np.where(lack > 0, np.maximum(lack, 1e-300) * inward, 0)
        if (wide > WIDE).any():
            wide = np.minimum(wide, _tilt(slopes, noise, size, tables, rule))
        least = (-earned - lost - 2 * length * wide) / (1 + wide)
    return np.asarray(np.maximum(least, 0) * (1 - rounding_of(q)))


def inward(tables: Float[np.ndarray, "K A Y"], rule: Rule) -> float:
    """Cone: the length, in the dual norm, of a p with <p, table> >= |table| for all tables; inf if none is found (there
    is none where some agents cancel each other). If <q, table> lacks some |table| of 0, q + lack * p does not."""
    size = size_of(tables, rule.norm)
    if not size.any():
        return 0.0
    shape = (_orthogonal(tables, rule).reshape(len(size), -1) / np.where(size > 0, size, 1)[:, None])[size > 0]
    p = np.linalg.lstsq(shape, np.ones(len(shape)))[0]
    least = (shape @ p - rounding_of(tables) * np.abs(shape) @ np.abs(p)).min(initial=1.0)
    length = np.linalg.norm(p, 2 if rule.norm == "l2" else 1)
    return float(length / least) if least > 0 else np.inf


def _products(which: str, tables, q, size):
    """<q, table> and what it may be off: by the rounding of the sum, and because q is orthogonal to offsets but for
    its own rounding, as the table is."""
    rounding = rounding_of(q)
    noise = rounding * (np.einsum(which, np.abs(tables), np.abs(q)) + rounding * size)
    return np.einsum(which, tables, q), noise


def rounding_of(table) -> float:
    """What a product <q, table> of this shape may be off, in units of |q| |table|, whatever the order of its sum."""
    return (table.shape[-1] * table.shape[-2] + 16) * float(np.finfo(float).eps) / 2


def _tilt(slopes, noise, size, tables, rule: Rule) -> Float[np.ndarray, "*any"]:
    """|d| of `bound` in the dual norm, at most."""
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


def polished(q, w, parts: Parts, rule: Rule) -> np.ndarray:
    """`q` without the rounding that an agent far larger than the error, or a small residual, makes of it.

    At the best fit <q, tables_i> is the same for all agents in use and larger for the others (cone: 0 for those in
    use); the smallest change that makes it so, with twice the rounding to spare in each agent's own size."""
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
    """`dual` orthogonal to offsets and of dual norm 1; zeros stay zeros in the sup case, where they are many."""
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


def as_one(offset: Float[np.ndarray, "*any Y"], rule: Rule) -> Float[np.ndarray, "*any Y"]:
    """A constant offset is one number: products of matrices round columns that are equal differently."""
    return np.broadcast_to(offset[..., :1], offset.shape).copy() if rule.offset == "constant" else offset


def offset_of(x: Float[np.ndarray, "*any A Y"], rule: Rule) -> Float[np.ndarray, "*any Y"]:
    """The c(y) nearest to x: the midrange (sup) or the mean (l2) of what one number must fit."""
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
    again = offset_of(x, rule)  # the first rounds at the size of c
    return x - again[..., None, :], c + again


def _split_difference(x, y, rule: Rule):
    """`split` of x - y, rounded at the size of what is left: neither of an offset nor of what both have in common."""
    difference = x - y
    partner = difference - x
    lost = (x - (difference - partner)) - (y + partner)  # of the subtraction, exactly
    left, c = split(difference, rule)
    left, again = split(left + lost, rule)
    return left, c + again


def centre(x, rule: Rule):
    return split(x, rule)[0]


def size_of(x: Float[np.ndarray, "*any A Y"], norm: str) -> Float[np.ndarray, "*any"]:
    largest = np.asarray(np.abs(x).max((-2, -1)))
    if norm == "sup":
        return largest
    unit = np.where(largest > 0, largest, 1.0)
    return np.asarray(unit * np.sqrt(((x / unit[..., None, None]) ** 2).sum((-2, -1))))


def scale_of(x, rule: Rule):
    """The size of a table of nothing but x's largest entry."""
    return np.abs(x).max((-2, -1)) * (np.sqrt(x.shape[-1] * x.shape[-2]) if rule.norm == "l2" else 1.0)


def unit_of(parts: Parts, user, agents, rule: Rule):
    """[...] of user [..., A, Y] and agents [..., K, A, Y], apart: the error of the best single agent (cone: of no
    agent), and what of it may be rounding of the entries."""
    own = ROUNDING * scale_of(user, rule)
    if not rule.simplex:
        return size_of(parts.goal, rule.norm), own
    singles = size_of(parts.tables - parts.goal[..., None, :, :], rule.norm)
    best = singles.argmin(-1)[..., None]
    others = np.take_along_axis(scale_of(agents, rule), best, -1)[..., 0]
    return np.take_along_axis(singles, best, -1)[..., 0], own + ROUNDING * others
