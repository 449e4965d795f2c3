"""Short forms of `python -m tests.faults`, with other seeds than its tables."""

import subprocess
import sys

import pytest

from tests.faults.__main__ import ROWS
from tests.faults.files import KINDS, damage, tampered_states, tampered_values

NUMBERS = {"sounds": 110, "checkpoints": 30}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, about damaged pickles
def test_damaged_files_are_refused_by_one_line_or_read_aright(kind):
    tally = damage(kind, NUMBERS.get(kind, 60), seed=1)
    assert tally.faults == []
    assert tally.refused > 0


@pytest.mark.parametrize("tamper", [tampered_values, tampered_states])
def test_checkpoints_with_values_of_another_type_are_refused_by_one_line_or_read(tamper):
    tally = tamper(40, seed=1)
    assert tally.faults == []
    assert tally.refused > 0


@pytest.mark.slow
@pytest.mark.parametrize(("row", "number"), [("kill train", 3), ("kill features", 2), ("full disk", 3), ("soak", 200)])
def test_kills_a_full_disk_and_a_long_run_are_survived(row, number):
    """In a process of its own, because a server forks its workers."""
    command = [sys.executable, "-m", "tests.faults", row, "--number", str(number), "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert row in done.stdout
    assert row in ROWS
