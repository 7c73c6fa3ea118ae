"""Tables of utilities made in a test."""

import numpy as np

from emalign_jax.experiments.hull.tables import Table


def table(utilities, targets=None, item=None, overlap=None):
    """A table of people [P, A, Y], all of them targets in turn, or `targets` with all others as agents."""
    P, _, Y = utilities.shape
    targets = np.arange(P) if targets is None else np.array(targets)
    agents = np.ones((len(targets), P), bool)
    agents[np.arange(len(targets)), targets] = False
    item = np.arange(Y) if item is None else item
    names = [f"p{n}" for n in range(P)]
    return Table("test", utilities, names, targets, agents, item, "people", "items", (), overlap)
