"""Evidence that no pure equilibrium of Selection is worth less than some value (sections 6.5 and 12 of docs/model.md).

Between V_none and that value gap(v) = sum_i f_i(v) - M(v) must be above 0. An interval is proved by chords of the f_i
between obedient distributions at its ends, and one line above M. Most games need few intervals: the first is the whole
way from V_none to V_full, and one that is not proved is divided at a breakpoint of M or of the f_i.
"""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from emalign_jax.exact.proofs import verify
from emalign_jax.exact.proofs.evidence import MARGIN, ObedienceEvidence, text
from emalign_jax.games.units import NEGLIGIBLE_INFORMATION_VALUE
from emalign_jax.lp.highs import LPFailed

# How far below the worst equilibrium the claim lies, as shares of V_full - V_none: the first one that is proved.
ROOM = (1e-9, 1e-8, 1e-7, 1e-6, 1e-5)
# As a share of V_full - V_none: a narrower interval is not divided.
NARROWEST = 1e-7
# Intervals of one game, in case rounding keeps dividing them.
MOST = 1000


class Line(NamedTuple):
    """A line above M, with its multipliers."""

    evidence: dict[str, Any]
    at: Fraction
    value: Fraction
    slope: Fraction

    def above(self, v: Fraction) -> Fraction:
        return self.value + self.slope * (v - self.at)


class Chords(NamedTuple):
    """What the agents get from obedient distributions worth v, in total, and the slope of sum_i f_i there."""

    v: Fraction
    distributions: list[Any]
    paid: Fraction
    slope: float


class Intervals:
    """Proves intervals of user values of one game of the verifier, from V_none on."""

    def __init__(self, game: Any):
        self.game = game
        self.lp = ObedienceEvidence(game, -MARGIN)
        self.low = Fraction(np.nextafter(float(game.silent), -np.inf))
        self.spread = game.full - self.low
        X, B, A = range(game.X), range(game.B), range(game.A)
        self.together = [[[sum(own[x][b][a] for own in game.G) for a in A] for b in B] for x in X]
        self.line, self.chords = functools.cache(self._line), functools.cache(self._chords)

    def _line(self, v: Fraction) -> Line:
        evidence = self.lp.bound(self.together, v, v)
        value = self.game.largest(self.together, evidence, v, v, Fraction(0))
        return Line(evidence, v, value, -Fraction(evidence["value_price"]))

    def _chords(self, v: Fraction) -> Chords:
        found = [self.lp.distribution(i, v) for i in range(self.game.K)]
        return Chords(
            v, [rows for rows, _, _ in found], sum((p for _, p, _ in found), Fraction(0)), sum(s for *_, s in found)
        )

    def _silence(self) -> Chords:
        """Recommending to each type what it does anyway."""
        best = [max(range(self.game.A), key=lambda a, row=row: sum(cell[a] for cell in row)) for row in self.game.g]
        rows = [[best, ["1"] * self.game.B]]
        paid = [verify.obedient(self.game, i, self.low, rows) for i in range(self.game.K)]
        return Chords(self.low, [rows] * self.game.K, sum(paid, Fraction(0)), 0.0)

    def proving(self, a: Chords, b: Chords) -> Line | None:
        """A line above M that the chords exceed at both ends."""
        for v in (a.v, b.v):
            line = self.line(v)
            if a.paid > line.above(a.v) and b.paid > line.above(b.v):
                return line
        return None

    def claim(self) -> dict[str, Any]:
        """The claim `equilibrium_set`: the largest value that is proved."""
        ends, lines = [], []
        try:
            ends.append(self.chords(self.low))
            if self.spread > NEGLIGIBLE_INFORMATION_VALUE * self.lp.user_size:
                self._extend(ends, lines)
        except LPFailed:  # What is proved stands, V_none at least.
            ends = ends or [self._silence()]
        return {
            "values": text([end.v for end in ends]), "distributions": [end.distributions for end in ends],
            "evidence": [line.evidence for line in lines], "at_least": text(ends[-1].v),
        }  # fmt: skip

    def _extend(self, ends: list[Chords], lines: list[Line]) -> None:
        """Add proved intervals, from the left, as far as they go."""
        todo = [self.chords(self._below(self.game.full, ROOM[0]))]
        while todo and len(ends) + len(todo) < MOST:
            a, b = ends[-1], todo[-1]
            if line := self.proving(a, b):
                lines.append(line)
                ends.append(todo.pop())
            elif a.paid <= self.line(a.v).value:  # The gap is 0 at the end of what is proved, or at V_none.
                return
            elif (between := self._breakpoint(a, b)) is not None:
                todo.append(self.chords(between))
            else:  # The gap is linear, and 0 at some value up to b.
                for end in self._below_zero(a, b):
                    if end.v > a.v and (line := self.proving(a, end)):
                        lines.append(line)
                        ends.append(end)
                        return
                return

    def _below(self, v: Fraction, room: float) -> Fraction:
        return Fraction(float(v - Fraction(room) * self.spread))

    def _below_zero(self, a: Chords, b: Chords):
        """Ends a little below the value at which the gap, which is linear from a to b, is 0."""
        left, right = a.paid - self.line(a.v).value, b.paid - self.line(b.v).value
        zero = a.v + (b.v - a.v) * left / (left - min(right, Fraction(0)))
        for room in ROOM:
            v = self._below(zero, room)
            yield self.chords(v) if v > a.v else a

    def _breakpoint(self, a: Chords, b: Chords) -> Fraction | None:
        """A breakpoint of M, or of the sum of the f_i, between two values; None if both are straight there."""
        left, right = self.line(a.v), self.line(b.v)
        width = float(b.v - a.v)
        rise = (float(right.value - left.value), float(left.slope), float(right.slope)), (
            float(b.paid - a.paid), a.slope, b.slope,
        )  # fmt: skip
        for change, before, after in rise:
            # By how much the lines through the two points lie above the other point.
            first, last = before * width - change, change - after * width
            if first + last <= 0:
                continue
            step = width * last / (first + last)
            if min(step, width - step) > NARROWEST * float(self.spread):
                return Fraction(float(a.v) + step)
        return None
