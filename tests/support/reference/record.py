"""Reference outputs: what the package computes of stored games, as arrays, to be compared after a change of its code.

    PYTHONPATH=tests python -m support.reference.record record FILE.npz [--games N] [--anywhere] [--only PART ...]
    PYTHONPATH=tests python -m support.reference.record compare FILE.npz [--tolerance T]

The file holds all inputs ("in/..."): games, the profiles that searches start from and ended in, rules of reply,
parameters of mechanisms; and the outputs ("out/PART/quantity", see `outputs.py`). `compare` computes the outputs again
from these inputs and prints, a quantity, the largest difference and whether all agree bitwise; it exits with 1 beyond
the tolerance.

Some quantities are functions of stored arrays, such as the payoffs of a stored profile: they hold on any machine
(`ANYWHERE`, recorded alone with --anywhere, and compared in tests/claims/test_reference.py). Others, such as the
profile in which play ends or the multipliers of an LP that has several, may turn on the last bit of a sum: they are
compared on the machine on which they were recorded.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import defaultdict

import jax
import numpy as np
from support.reference.outputs import SHAPES, Arrays, compute, draw

SEARCHED_GAIN = r"(certify_\w+\.gain_(lower|upper)|(best_response|monopoly)_\d\.(value|upper))"
# What holds on any machine, and how closely; the first rule that matches PAIR/quantity counts. LPs are solved to 1e-9;
# bounds that a search closes are known to a tenth of the certificate's tolerance, in units of the payoff range.
ANYWHERE = (
    (rf"(selection|selection_then|comparison) rational_.*/{SEARCHED_GAIN}", 1e-7),
    (rf".*/{SEARCHED_GAIN}", 5e-4),
    (r".*/certify_\w+\.(payoff_range|guarantee|theorem)", 1e-7),
    (r".*/certify_\w+\.(user|agents|full_information|no_information|result)", 1e-9),
    (r".*/(payoffs_\w+\.\w+|pseudo_gradient|means\.\w+|cost|under\.\w+)", 1e-9),
    (r".*/stability\.(worst|best|no_information|full_information|gap_between)", 1e-7),
    (r".*/(worst_case_.*|coverage_.*\.(slack|full_information)|least_budget_\w+|best_transfers_\w+\.guarantee)", 1e-7),
    (r".*/align_\w+\.error", 1e-7),
    (r".*/kept\.(user|agents|schemes|derivative)", 1e-6),
)


def tolerance_of(name: str) -> float | None:
    """What PAIR/quantity may differ by on another machine; None where it may be something else there."""
    return next((tolerance for rule, tolerance in ANYWHERE if re.fullmatch(rule, name)), None)


def difference(new: np.ndarray, old: np.ndarray) -> float:
    """The largest, as a share of the number where that is above 1; infinite where shapes or NaNs do not agree."""
    if new.shape != old.shape or (np.isnan(new) != np.isnan(old)).any():
        return np.inf
    same = (new == old) | np.isnan(old)
    with np.errstate(invalid="ignore"):
        apart = np.abs(np.subtract(new, old, dtype=float)) / np.maximum(1, np.abs(old))
    return float(np.where(same, 0, apart).max(initial=0.0))


def read(path) -> tuple[Arrays, Arrays]:
    """Inputs and outputs of a file, each by name."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = [(name.partition("/"), stored[name]) for name in stored.files]
    given, out = ({name: x for (where, _, name), x in arrays if where == part} for part in ("in", "out"))
    return given, out


def record(path, count: int, searched: bool, only: tuple[str, ...]) -> None:
    began, given = time.process_time(), draw(count)
    out = dict(compute(given, searched=searched, only=only))
    out = {name: x for name, x in out.items() if searched or tolerance_of(name) is not None}
    given = {name: x for name, x in given.items() if not name.endswith("/start") or name.startswith(only)}
    given["searched"] = np.array(searched)
    np.savez_compressed(path, **{f"in/{n}": x for n, x in given.items()}, **{f"out/{n}": x for n, x in out.items()})
    print(f"{time.process_time() - began:.0f} s of CPU; {count * len(SHAPES)} games, {len(out)} arrays")


def compare(path, tolerance: float) -> int:
    given, old = read(path)
    only = tuple({name.partition("/")[0] for name in old})
    new = dict(compute(given, searched=bool(given["searched"]), only=only))
    new = {name: x for name, x in new.items() if given["searched"] or tolerance_of(name) is not None}
    missing, table, worst = old.keys() ^ new.keys(), defaultdict(list), 0.0
    for name in old.keys() & new.keys():
        bitwise = new[name].tobytes() == old[name].tobytes() and new[name].dtype == old[name].dtype
        table[name.partition("/")[2]].append((difference(new[name], old[name]), bitwise, name))
    for quantity, found in sorted(table.items()):
        largest, _, name = max(found)
        worst = max(worst, largest)
        same = all(bitwise for _, bitwise, _ in found)
        print(f"{quantity:45} {'bitwise' if same else f'{largest:.1e}  {name}'}")
    for name in sorted(missing):
        print(f"{name}: {'not computed any more' if name in old else 'new'}")
    same = sum(all(bitwise for _, bitwise, _ in found) for found in table.values())
    print(f"{same} of {len(table)} quantities bitwise, largest difference {worst:.1e}")
    return int(bool(missing) or not worst <= tolerance)


def main() -> int:
    parser = argparse.ArgumentParser(description="Record reference outputs, or compare with them.")
    parser.add_argument("do", choices=("record", "compare"))
    parser.add_argument("file")
    parser.add_argument("--games", type=int, default=50, help="games of each of the four shapes")
    parser.add_argument("--anywhere", action="store_true", help="record what holds on any machine alone")
    parser.add_argument("--tolerance", type=float, default=1e-12)
    parser.add_argument("--only", nargs="+", default=[""], help="pairs and parts whose name begins with one of these")
    given = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if given.do == "compare":
        return compare(given.file, given.tolerance)
    record(given.file, given.games, not given.anywhere, tuple(given.only))
    return 0


if __name__ == "__main__":
    sys.exit(main())
