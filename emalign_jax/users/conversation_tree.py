"""The tree of a conversation: information sets, transcripts, and their places in arrays.

In each of R rounds every agent sends one of M messages; after each round but the last the user gives one of Q replies
to each agent, or one to all. Agent i's rule is a distribution over messages at each of its information sets, which are
pairs of x_B and its own history (s_1, q_1, ..., s_r, q_r). There are XB * H of them, and row x_B * H + h is that of h:

    H = sum_{r < R} (M Q)^r,      h = first(r) + history,      history' = (history * M + s) * Q + q.

The user sees all messages. A joint history at the start of round r is one of (M^K Q^K)^r, or of (M^K Q)^r if one reply
goes to all: history' = (history * M^K + n) * joint replies + q. Later agents vary fastest in n and q.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from jaxtyping import Int

from emalign_jax.internal.arguments import power


@dataclasses.dataclass(frozen=True)
class Tree:
    """Sizes and index maps of a conversation with `agents` agents.

    reply_to_all: whether one reply goes to all agents, rather than one to each.
    """

    rounds: int
    replies: int
    reply_to_all: bool
    agents: int
    messages: int

    @property
    def joint_messages(self) -> int:
        return power(self.messages, self.agents)

    @property
    def joint_replies(self) -> int:
        return self.replies if self.reply_to_all else power(self.replies, self.agents)

    def histories(self, r: int) -> int:
        """The number of an agent's own histories at the start of round r (from 0)."""
        return power(self.messages * self.replies, r)

    def first(self, r: int) -> int:
        """The number of the first own history of round r among all H."""
        return sum(self.histories(s) for s in range(r))

    @property
    def information_sets(self) -> int:
        """H, the number of an agent's own histories in all rounds."""
        return self.first(self.rounds)

    def nodes(self, r: int) -> int:
        """The number of joint histories at the start of round r."""
        return power(self.joint_messages * self.joint_replies, r)

    def reply_nodes(self, r: int) -> int:
        """The number of transcripts after which the user replies in round r < R - 1."""
        return self.nodes(r) * self.joint_messages

    def first_reply(self, r: int) -> int:
        """The number of the first reply node of round r among those of all rounds."""
        return sum(self.reply_nodes(s) for s in range(r))

    @property
    def leaves(self) -> int:
        """The number of transcripts after which the user acts."""
        return self.nodes(self.rounds - 1) * self.joint_messages

    def cells(self, user_features: int, actions: int) -> int:
        """Numbers in the largest tensor: each agent's payoff from each action after each transcript, for each x_A."""
        return self.agents * user_features * self.leaves * actions

    @functools.cached_property
    def joint_message(self) -> Int[np.ndarray, "N K"]:
        """The message of each agent in each joint message."""
        return _digits(self.joint_messages, self.messages, self.agents)

    @functools.cached_property
    def joint_reply(self) -> Int[np.ndarray, "q K"]:
        """The reply that each agent hears in each joint reply."""
        if self.reply_to_all:
            return np.repeat(np.arange(self.replies)[:, None], self.agents, 1)
        return _digits(self.joint_replies, self.replies, self.agents)

    def own_history(self, r: int) -> Int[np.ndarray, "nodes K"]:
        """Each agent's own history in each joint history at the start of round r, counted within the round."""
        own = np.zeros((1, self.agents), int)
        for _ in range(r):
            said = own[:, None, None] * self.messages + self.joint_message[:, None]
            own = (said * self.replies + self.joint_reply).reshape(-1, self.agents)
        return own

    def of_one_agent(self) -> Tree:
        """The same conversation with one agent."""
        return dataclasses.replace(self, agents=1)


def _digits(count: int, base: int, places: int) -> np.ndarray:
    return np.arange(count)[:, None] // base ** np.arange(places - 1, -1, -1) % base
