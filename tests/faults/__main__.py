"""Throw faults at the toolkit and print what it survives: a row of the README's table "What was tried" each.

python -m tests.faults                    all rows, as in the README (about an hour)
python -m tests.faults sounds --number 50000 --seed 7
python -m tests.faults "kill train"
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial

from tests.faults.files import KINDS, damage, tampered_states, tampered_values
from tests.faults.kills import JOBS, fill_disk, kill
from tests.faults.soak import soak

NUMBERS = {"sounds": 2000, "tables": 500, "labels": 500, "intervals": 500, "configs": 500, "checkpoints": 300}
KILLS = {"train": 100, "features": 40, "align": 20, "ablate": 10}
ROWS: dict[str, tuple[Callable[..., object], int]] = {
    **{kind: (partial(damage, kind), NUMBERS[kind]) for kind in KINDS},
    "tampered": (tampered_values, 300),
    "states": (tampered_states, 300),
    **{f"kill {job}": (partial(kill, job), KILLS[job]) for job in JOBS},
    "full disk": (fill_disk, 30),
    "soak": (lambda number, seed: soak(number), 20_000),
}


def main() -> int:
    """Print the rows; the exit status is 1 if there was a fault."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="row", help=f"one or more of: {', '.join(ROWS)}; by default all")
    parser.add_argument("--number", type=int, help="files, kills or updates of each row")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    num_faults = 0
    for name in options.rows or ROWS:
        throw, number = ROWS[name]
        result = throw(options.number or number, seed=options.seed)
        print(result, flush=True)
        num_faults += len(getattr(result, "faults", ()))
    return int(num_faults > 0)


if __name__ == "__main__":
    sys.exit(main())
