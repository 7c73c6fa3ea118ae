"""Every way to fit u by the agents: how weights are restricted, what is added, in which norm."""

from itertools import product

import pytest

WEIGHTS, OFFSETS, NORMS = ("simplex", "cone"), ("none", "constant", "per_state"), ("sup", "l2")
RULES = [{"weights": w, "offset": o, "norm": n} for w, o, n in product(WEIGHTS, OFFSETS, NORMS)]
NAMES = ["-".join(rule.values()) for rule in RULES]
every_rule = pytest.mark.parametrize("rule", RULES, ids=NAMES)
