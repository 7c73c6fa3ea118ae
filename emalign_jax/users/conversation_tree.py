"""The shape of a conversation: who can have seen what, and where it is kept in arrays.

In each of R rounds every agent sends one of M messages; after all but the last the user replies to each agent, or
once to all, with one of Q replies. Agent i's rule is a law over messages at each of his information sets, x_B and his
own history (s_1, q_1, ..., s_r, q_r): `rows` = XB * H of them, row x_B * H + h, where

    H = sum_{r < R} (M Q)^r,      h = first(r) + history,      history' = (history * M + s) * Q + q.

The user sees everything. A joint history at the start of round r is one of (M^K Q^K)^r (M^K Q where she replies to
all), history' = (history * M^K + n) * replies + q, in which later agents vary fastest in n and q.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from jaxtyping import Int

from emalign_jax.internal.arguments import power


@dataclasses.dataclass(frozen=True)
class Tree:
    rounds: int
    replies: int
    together: bool  # one reply to all
    agents: int
    messages: int

    @property
    def joint_messages(self) -> int:
        return power(self.messages, self.agents)

    @property
    def joint_replies(self) -> int:
        return self.replies if self.together else power(self.replies, self.agents)

    def histories(self, r: int) -> int:
        """An agent's own histories at the start of round r (from 0)."""
        return power(self.messages * self.replies, r)

    def first(self, r: int) -> int:
        """Where those of round r start among his H."""
        return sum(self.histories(s) for s in range(r))

    @property
    def information_sets(self) -> int:
        """H: an agent's histories of all rounds."""
        return self.first(self.rounds)

    def nodes(self, r: int) -> int:
        """Joint histories at the start of round r."""
        return power(self.joint_messages * self.joint_replies, r)

    def reply_nodes(self, r: int) -> int:
        """Transcripts at which she replies in round r < R - 1."""
        return self.nodes(r) * self.joint_messages

    def first_reply(self, r: int) -> int:
        """Where those of round r start in a reply rule."""
        return sum(self.reply_nodes(s) for s in range(r))

    @property
    def leaves(self) -> int:
        """Transcripts at which she acts."""
        return self.nodes(self.rounds - 1) * self.joint_messages

    def cells(self, user_features: int, actions: int) -> int:
        """Numbers in the largest tensor: every agent's payoff from each action at each transcript and x_A."""
        return self.agents * user_features * self.leaves * actions

    @functools.cached_property
    def joint_message(self) -> Int[np.ndarray, "N K"]:
        """The message of each agent in each joint message."""
        return _digits(self.joint_messages, self.messages, self.agents)

    @functools.cached_property
    def joint_reply(self) -> Int[np.ndarray, "q K"]:
        """The reply that each agent hears in each joint reply."""
        if self.together:
            return np.repeat(np.arange(self.replies)[:, None], self.agents, 1)
        return _digits(self.joint_replies, self.replies, self.agents)

    def own_history(self, r: int) -> Int[np.ndarray, "nodes K"]:
        """What each agent has seen of each joint history at the start of round r, counted within the round."""
        own = np.zeros((1, self.agents), int)
        for _ in range(r):
            said = own[:, None, None] * self.messages + self.joint_message[:, None]
            own = (said * self.replies + self.joint_reply).reshape(-1, self.agents)
        return own

    def alone(self) -> Tree:
        """The same conversation with one agent."""
        return dataclasses.replace(self, agents=1)


def _digits(count: int, base: int, places: int) -> np.ndarray:
    return np.arange(count)[:, None] // base ** np.arange(places - 1, -1, -1) % base
