"""A small run of the recipe density_ratio."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "recipes" / "density_ratio" / "run.py"


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    out = tmp_path_factory.mktemp("density_ratio")
    options = "--nats 1 --dim 2 --updates 300 --batch-size 128 --largest 256 --seeds 1"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(out), *options.split()], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return out, done.stdout, {r["critic"]: r for r in json.loads((out / "results.json").read_text())["results"]}


def test_the_bounds_grow_with_n_and_stay_below_log_n_and_the_truth(outcome):
    """In two dimensions the critics come close to their limits: 1 nat, and rho² without a term in |x|²."""
    _, _, results = outcome
    for row in results.values():
        assert all(b <= math.log(2 ** (i + 1)) for i, b in enumerate(row["bounds"]))
        assert max(row["bounds"]) < 1 + 0.05  # with sampling error
        assert row["bounds"][0] < row["bounds"][3] < row["bounds"][-1]
    assert results["true ratio"]["bounds"][-1] == pytest.approx(1, abs=0.05)
    assert results["neural"]["bounds"][-1] == pytest.approx(1, abs=0.1)
    assert results["log-bilinear"]["bounds"][-1] == pytest.approx(1 - math.exp(-1), abs=0.1)


def test_the_neural_critic_learns_the_ratio_while_the_bilinear_one_lacks_a_term(outcome):
    _, _, results = outcome
    assert results["neural"]["correlation"] > 0.95
    assert results["neural"]["correlation"] > results["log-bilinear"]["correlation"] + 0.02


def test_figures_and_a_table_are_made(outcome):
    out, printed, _ = outcome
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines()]
    assert [row[:2] for row in rows[2:]] == [[critic, "1"] for critic in ("true ratio", "log-bilinear", "neural")]
    assert all((out / name).stat().st_size < 150_000 for name in ("bound.png", "ratio.png"))


def test_bad_options_are_refused(tmp_path):
    done = subprocess.run([sys.executable, str(SCRIPT), "--nats", "0"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--nats: got 0.0, expected above 0" in done.stderr
