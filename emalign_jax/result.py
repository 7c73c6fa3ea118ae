"""Result codes: what became of each game of a batch. Every code is a sentence."""

from __future__ import annotations

import enum


class Result(enum.IntEnum):
    """A code per game; `.message` is the sentence, `.ok` says whether no deviation gains more than the tolerance.

    `solve` says how a profile was found, `certify` what is proved of it: CERTIFIED if the upper bound of every gain is
    within the tolerance, UNREFUTED if only the lower bound is. With `differentiation`, `solve` says whether the
    derivative can be trusted: SMOOTH, or why not.
    """

    CERTIFIED = 0
    UNREFUTED = 1
    START = 2
    PLAY = 3
    BEST_RESPONSE = 4
    DYNAMICS = 5
    GAIN_ABOVE_TOLERANCE = 10
    UNVERIFIED = 11
    SMOOTH = 12
    NOT_REACHED = 13
    SINGULAR = 14
    BOUNDARY = 15
    MALFORMED_GAME = 20
    NOT_FINITE = 21
    NO_SCHEMES = 22
    LP_FAILED = 23

    @property
    def message(self) -> str:
        return _MESSAGES[self]

    @property
    def ok(self) -> bool:
        return self < Result.GAIN_ABOVE_TOLERANCE


_CHECKED = "; the exact check found no gain above the tolerance."
_MESSAGES = {
    Result.CERTIFIED: "Every deviation gain is certified to be within the tolerance.",
    Result.UNREFUTED: "The exact check found no gain above the tolerance; its upper bound does not exclude one.",
    Result.START: "The starting schemes are kept" + _CHECKED,
    Result.PLAY: "Found by gradient play" + _CHECKED,
    Result.BEST_RESPONSE: "Found by gradient play with exact best responses or fresh starts in between" + _CHECKED,
    Result.DYNAMICS: "Found by exact best-response dynamics" + _CHECKED,
    Result.GAIN_ABOVE_TOLERANCE: "Some agent gains more than the tolerance by deviating.",
    Result.UNVERIFIED: "Play ended; deviation gains were not checked.",
    Result.SMOOTH: "A smoothed equilibrium was reached and its derivative can be trusted; gains were not checked.",
    Result.NOT_REACHED: "The smoothed equilibrium was not reached, so its derivative means nothing.",
    Result.SINGULAR: "The equilibrium's linear system is singular: its derivative cannot be trusted.",
    Result.BOUNDARY: "A message is about to come into use or to leave it: the derivative may jump here.",
    Result.MALFORMED_GAME: "The game is malformed: a number is not finite, or the prior is negative or does not sum "
    "to 1.",
    Result.NOT_FINITE: "Play met a number that is not finite and stopped.",
    Result.NO_SCHEMES: "The schemes hold a number that is not finite.",
    Result.LP_FAILED: "HiGHS did not solve an LP of this game to optimality, so nothing is certified.",
}
