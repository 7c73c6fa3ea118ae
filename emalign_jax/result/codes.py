"""Codes: what is proved of each game of a batch, how its profile was found, and whether its derivative holds.

Each code is a sentence, its `message`.
"""

from __future__ import annotations

import enum


class Code(enum.IntEnum):
    """A code of a game in an array of integers. `ok` says whether what it stands for is what was hoped for."""

    @property
    def message(self) -> str:
        """The sentence that the code stands for."""
        return _MESSAGES[self.name]

    @property
    def ok(self) -> bool:
        """Whether the code tells of nothing amiss."""
        return True

    def __repr__(self) -> str:
        return f"{type(self).__name__}.{self.name}"

    def __str__(self) -> str:
        return self.name


class Result(Code):
    """What is proved of a profile, in `Solution`, `Certificate` and every other result.

    `ok` says whether no deviation is known to gain more than the tolerance, and `message` is the sentence that the code
    stands for.

    Example:
        >>> em.Result(1).name, em.Result.UNREFUTED.ok
        ('UNREFUTED', True)
        >>> em.Result.CERTIFIED.message
        'Every deviation gain is certified to be within the tolerance.'

    Source: section 4.2 of docs/model.md.
    """

    CERTIFIED = 0
    UNREFUTED = 1
    ABOVE_TOLERANCE = 2
    UNCHECKED = 3
    MALFORMED = 4
    FAILED = 5

    @property
    def ok(self) -> bool:
        """Whether no deviation is known to gain more than the tolerance: CERTIFIED or UNREFUTED."""
        return self <= Result.UNREFUTED


class FoundBy(Code):
    """How `solve` arrived at a profile; `message` is a sentence.

    Example:
        >>> em.FoundBy.START.message
        'The starting schemes were kept.'
    """

    START = 0
    PLAY = 1
    PLAY_AND_BEST_RESPONSES = 2
    BEST_RESPONSE_DYNAMICS = 3
    NOTHING = 4


class Move(Code):
    """How a profile of a `Trajectory` came about; `message` is a sentence.

    Example:
        >>> em.Move.BEST_RESPONSE.message
        'One agent moved by an exact best response, or outbid the others.'
    """

    START = 0
    PLAY = 1
    BEST_RESPONSE = 2
    OTHER = 3
    RETURNED = 4


class Derivative(Code):
    """Whether the derivative of a smoothed equilibrium can be trusted: only if SMOOTH; `message` is a sentence.

    Example:
        >>> em.Derivative.BOUNDARY.message
        'A message is about to come into use or to leave it: the derivative may jump here.'

    Source: section 4.9 of docs/model.md.
    """

    SMOOTH = 0
    BOUNDARY = 1
    SINGULAR = 2
    NOT_REACHED = 3
    NOT_FINITE = 4

    @property
    def ok(self) -> bool:
        """Whether the derivative can be trusted: SMOOTH."""
        return self == Derivative.SMOOTH


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
