"""NashOpt on Pooled quantal games, run by `benchmarks/play.py` with a Python that has it (it is no dependency of ours).

`python nashopt_side.py IN.npz OUT.npz`. IN: mass [N, XA, XB], user, agents (reduced games), start [N, K, XB, M],
precision. OUT, a setting: schemes [N, K, XB, M] and seconds [N], of the second solve of each game, so that what is
compiled for a game counts for nothing.
"""

from __future__ import annotations

import functools
import sys
import time

import jax
import jax.numpy as jnp
import nashopt
import numpy as np

jax.config.update("jax_enable_x64", True)
SOLVERS = ("hybr", "lm", "trf")


def payoffs(mass, user, agents, precision, schemes):
    """[K] of one game, as in section 2 of docs/model.md."""
    weights = functools.reduce(
        lambda w, s: (w[:, None] * s.T[None]).reshape(-1, w.shape[-1]), schemes, 1.0 + 0 * mass[:1]
    )
    sent = weights @ mass.T  # [n, XA]
    total = jnp.einsum("nb,xba->nxa", weights, user)
    response = jax.nn.softmax(precision * total / jnp.maximum(sent, 1e-300)[..., None], -1)
    return jnp.einsum("nxa,nb,ixba->i", response, weights, agents)


def pay(game, precision, schemes_of, x):
    return payoffs(*game, precision, schemes_of(x))


def by_logits(K, XB, M):
    """Logits, the last of each row fixed at 0: nothing is constrained."""

    def schemes(x):
        rows = x.reshape(K, XB, M - 1)
        return jax.nn.softmax(jnp.concatenate([rows, jnp.zeros((K, XB, 1))], -1), -1)

    start = lambda s: (np.log(s[..., :-1]) - np.log(s[..., -1:])).ravel()  # noqa: E731
    return schemes, start, {}


def by_probabilities(K, XB, M):
    """Probabilities but for the last of each row; box and rows as constraints."""

    def schemes(x):
        rows = x.reshape(K, XB, M - 1)
        return jnp.concatenate([rows, 1 - rows.sum(-1, keepdims=True)], -1)

    size = K * XB * (M - 1)
    constraints = {
        "lb": np.zeros(size), "ub": np.ones(size),
        "g": lambda x: x.reshape(K * XB, M - 1).sum(-1) - 1, "ng": K * XB,
    }  # fmt: skip
    return schemes, lambda s: s[..., :-1].ravel(), constraints


def main() -> None:
    given = np.load(sys.argv[1])
    N, K, XB, M = given["start"].shape
    found = {}
    for name, parametrised in (("logits", by_logits), ("probabilities", by_probabilities)):
        schemes_of, start_of, constraints = parametrised(K, XB, M)
        answers = {solver: [] for solver in SOLVERS}
        for k in range(N):
            game = [jnp.asarray(given[field][k]) for field in ("mass", "user", "agents")]
            value = functools.partial(pay, game, given["precision"], schemes_of)
            lost = [lambda x, i=i, value=value: -value(x)[i] for i in range(K)]
            nep = nashopt.GNEP([XB * (M - 1)] * K, lost, **constraints)
            for solver in SOLVERS:
                x0 = jnp.asarray(start_of(given["start"][k]))
                nep.solve(x0, solver=solver, verbose=0)
                began = time.perf_counter()
                x = np.asarray(nep.solve(x0, solver=solver, verbose=0).x)
                answers[solver].append((time.perf_counter() - began, np.asarray(schemes_of(x))))
        for solver, rows in answers.items():
            found[f"{name} {solver} seconds"] = np.array([row[0] for row in rows])
            found[f"{name} {solver} schemes"] = np.array([row[1] for row in rows])
    np.savez(sys.argv[2], **found)


if __name__ == "__main__":
    main()
