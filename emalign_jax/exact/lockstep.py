"""Many searches side by side: what they ask for in one step is computed together.

A search is a generator. It yields requests (a `NamedTuple` with `size`, `work` and a static `serve`) and is sent the
answers. NumPy's cost a call is then paid once for many small problems, and its loops are long enough to run in threads.
What a search finds does not depend on how many threads there are.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeVar

from emalign_jax.workers import each

Found = TypeVar("Found")
Search = Generator[Any, Any, Found]
TOGETHER = 40_000  # numbers of one array in one go, so that arrays stay in the cache


def alone(search: Search[Found]) -> Found:
    """What one search returns."""
    return side_by_side([search])[0]


def side_by_side(searches: Sequence[Search[Found]]) -> list[Found]:
    """What the searches return, in their order; the first error of one ends all."""
    found: dict[int, Found] = {}
    answers: dict[int, Any] = dict.fromkeys(range(len(searches)))
    while answers:
        asked = {}
        for n, answer in answers.items():
            try:
                asked[n] = searches[n].send(answer)
            except StopIteration as end:
                found[n] = end.value
        answers = {}
        for numbers, replies in each(_serve, _batches(asked)):
            answers.update(zip(numbers, replies, strict=True))
        answers = dict(sorted(answers.items()))
    return [found[n] for n in range(len(searches))]


def _batches(asked: dict[int, Any]) -> list[list[tuple[int, Any]]]:
    """Requests of one kind and size, up to `TOGETHER` numbers."""
    groups: dict[Any, list[tuple[int, Any]]] = {}
    for n, request in asked.items():
        groups.setdefault((type(request), request.size), []).append((n, request))
    batches = []
    for group in groups.values():
        total = TOGETHER
        for one in group:
            total += one[1].work
            if total > TOGETHER:
                batches.append([])
                total = one[1].work
            batches[-1].append(one)
    return batches


def _serve(batch: list[tuple[int, Any]]) -> tuple[list[int], list[Any]]:
    return [n for n, _ in batch], batch[0][1].serve([request for _, request in batch])
