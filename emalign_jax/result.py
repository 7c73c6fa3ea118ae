"""Result codes: what became of each game of a batch. Every code is a sentence."""

from __future__ import annotations

import enum


class Result(enum.IntEnum):
    """A code per game; `.message` is the sentence, `.ok` says whether the profile is certified."""

    CERTIFIED = 0
    START = 1
    PLAY = 2
    BEST_RESPONSE = 3
    DYNAMICS = 4
    GAIN_ABOVE_TOLERANCE = 10
    UNVERIFIED = 11
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


_MESSAGES = {
    Result.CERTIFIED: "Every deviation gain is certified to be within the tolerance.",
    Result.START: "The starting schemes are an equilibrium within the tolerance already, certified.",
    Result.PLAY: "An equilibrium within the tolerance was found by gradient play and certified.",
    Result.BEST_RESPONSE: "An equilibrium within the tolerance was found by gradient play with exact best-response "
    "steps or a fresh start in between, and certified.",
    Result.DYNAMICS: "An equilibrium within the tolerance was found by exact best-response dynamics from where "
    "gradient play had ended, and certified.",
    Result.GAIN_ABOVE_TOLERANCE: "Some agent still gains more than the tolerance by deviating.",
    Result.UNVERIFIED: "Play ended; deviation gains were not checked.",
    Result.MALFORMED_GAME: "The game is malformed: a number is not finite, or the prior is negative or does not sum "
    "to 1.",
    Result.NOT_FINITE: "Play met a number that is not finite and stopped.",
    Result.NO_SCHEMES: "The schemes hold a number that is not finite.",
    Result.LP_FAILED: "HiGHS did not solve an LP of this game to optimality, so nothing is certified.",
}
