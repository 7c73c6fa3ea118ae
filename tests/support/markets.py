"""Tables of which the market's equilibria are known by hand."""

import numpy as np
import pandas as pd


def table(user, agents, names=None):
    """A frame with columns prompt, answer, human and one of each agent. user: [n, A]; agents: [K, n, A]."""
    n, A = user.shape
    names = names or [f"ai {k}" for k in range(len(agents))]
    own = {"prompt": np.repeat([f"p{k}" for k in range(n)], A), "answer": np.tile([f"a{k}" for k in range(A)], n)}
    return pd.DataFrame(own | {"human": user.ravel()} | dict(zip(names, agents.reshape(len(agents), -1), strict=True)))


def opposed(n, A, K=2, seed=0):
    """Scorers who want u + b and u - b in turn, in units of their own: u is in their hull, so that every equilibrium is
    worth V_full, the mean of the best answers' u."""
    rng = np.random.default_rng(seed)
    user, bias = rng.normal(size=(2, n, A))
    return user, np.array([(user + (-1) ** k * bias) * (1 + k) + k for k in range(K)])


def copies(n, A, K, bias=2.5, seed=0):
    """K copies of one biased scorer: all offering what it offers alone is an equilibrium, and none is worth less, for a
    rival could outbid nobody below that; so the worst equilibrium is the monopoly value."""
    rng = np.random.default_rng(seed)
    user, own = rng.normal(size=(2, n, A))
    return user, np.repeat((user + bias * own)[None], K, 0)


def monopoly_by_linprog(user, agent):
    """The user's value under the best obedient recommendations of one agent, prompts equally likely: SciPy's LP."""
    from scipy.optimize import linprog

    n, A = user.shape
    rows = []
    for a in range(A):
        for b in range(A):
            if a != b:
                row = np.zeros((n, A))
                row[:, a] = user[:, b] - user[:, a]
                rows.append(row.ravel() / n)
    sums = np.kron(np.eye(n), np.ones(A))
    found = linprog(-agent.ravel() / n, np.array(rows), np.zeros(len(rows)), sums, np.ones(n), method="highs")
    best = linprog(  # of those that are best for the agent the best for the user
        -user.ravel() / n, np.vstack([rows, -agent.ravel() / n]), np.append(np.zeros(len(rows)), found.fun + 1e-10),
        sums, np.ones(n), method="highs",
    )  # fmt: skip
    return -best.fun
