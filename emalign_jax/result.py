"""Codes: what is proved of each game of a batch, how its profile was found, and whether its derivative holds.

Each code is a sentence, its `message`.
"""

from __future__ import annotations

import enum


class _Code(enum.IntEnum):
    @property
    def message(self) -> str:
        """The sentence that the code stands for."""
        return _MESSAGES[self.name]


class Result(_Code):
    """What is proved of a profile, in `Solution`, `Certificate` and every other result.

    `ok` says whether no deviation is known to gain more than the tolerance.
    """

    CERTIFIED = 0
    UNREFUTED = 1
    ABOVE_TOLERANCE = 2
    UNCHECKED = 3
    MALFORMED = 4
    FAILED = 5

    @property
    def ok(self) -> bool:
        return self <= Result.UNREFUTED


class FoundBy(_Code):
    """How `solve` arrived at a profile."""

    START = 0
    PLAY = 1
    PLAY_AND_BEST_RESPONSES = 2
    BEST_RESPONSE_DYNAMICS = 3
    NOTHING = 4


class Move(_Code):
    """How a profile of a `Trajectory` came about."""

    START = 0
    PLAY = 1
    BEST_RESPONSE = 2
    OTHER = 3
    RETURNED = 4


class Derivative(_Code):
    """Whether the derivative of a smoothed equilibrium can be trusted: only if SMOOTH."""

    SMOOTH = 0
    BOUNDARY = 1
    SINGULAR = 2
    NOT_REACHED = 3
    NOT_FINITE = 4


_MESSAGES = {
    "CERTIFIED": "Every deviation gain is certified to be within the tolerance.",
    "UNREFUTED": "No deviation gain above the tolerance was found; the upper bound does not exclude one.",
    "ABOVE_TOLERANCE": "Some agent gains more than the tolerance by deviating.",
    "UNCHECKED": "Deviation gains were not checked.",
    "MALFORMED": "The game or its schemes are malformed: a number is not finite, or the prior is negative or does not "
    "sum to 1.",
    "FAILED": "Nothing is certified: gradient play met a number that is not finite, or HiGHS did not solve an LP.",
    "START": "The starting schemes were kept.",
    "PLAY": "Found by gradient play.",
    "PLAY_AND_BEST_RESPONSES": "Found by gradient play with exact best responses or fresh starts in between.",
    "BEST_RESPONSE_DYNAMICS": "Found by exact best-response dynamics.",
    "NOTHING": "No profile was found.",
    "BEST_RESPONSE": "One agent moved by an exact best response, or outbid the others.",
    "OTHER": "Moved by a solver of one's own.",
    "RETURNED": "The best profile met, which the search returns.",
    "SMOOTH": "A smoothed equilibrium was reached, and its derivative can be trusted.",
    "BOUNDARY": "A message is about to come into use or to leave it: the derivative may jump here.",
    "SINGULAR": "The linear system of the equilibrium is singular: its derivative cannot be trusted.",
    "NOT_REACHED": "The smoothed equilibrium was not reached, so its derivative means nothing.",
    "NOT_FINITE": "Play met a number that is not finite.",
}
