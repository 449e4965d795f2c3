"""Every benchmark prints its table; nothing here checks a time."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.__main__ import TABLES

SMALL = ["--channels", "16", "--windows", "2", "--rounds", "1"]
CASES = [
    ("step", SMALL, "ours, bf16, GRU, current sequence"),
    ("encoder", SMALL, "norm none, bf16"),
    ("account", SMALL, "preset small, bf16:"),
    ("hours", ["--hours", "0.01"], "cache     0.0 h: opened in"),
    ("criterion", SMALL, "same_speaker_excl, all"),
    ("losses", ["--channels", "16", "--embeddings", "512"], "sup_con       512 x 16, 256 rows at a time"),
    ("probes", ["--channels", "8", "--frames", "2000"], "streaming"),
    ("data", ["--rows", "2000"], "cache"),
    ("features", ["--channels", "16", "--minutes", "1", "2"], "a file of 2 min"),
    ("contention", ["--seconds", "0.2"], "probe, epochs, --threads auto"),
    ("ranks", ["--rounds", "1"], "bidirectional, DistributedDataParallel"),
]
BESIDE_CPC_AUDIO = {"race", "memory"}


@pytest.mark.parametrize(("table", "options", "says"), CASES, ids=[case[0] for case in CASES])
@pytest.mark.slow
def test_each_table_is_printed(table, options, says, corpus):
    command = [sys.executable, "-m", "tests.bench", table, "--threads", "1", "--manifest", str(corpus), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout


def test_the_readme_shows_each_table():
    text = (Path(__file__).parent / "bench" / "README.md").read_text(encoding="utf-8")
    assert {name for name in TABLES if f"python -m tests.bench {name}" not in text} == set()
    assert {case[0] for case in CASES} == set(TABLES) - BESIDE_CPC_AUDIO


@pytest.mark.parametrize("table", sorted(BESIDE_CPC_AUDIO))
def test_without_a_clone_of_cpc_audio_a_line_says_so_at_once(table, tmp_path, corpus):
    command = [sys.executable, "-m", "tests.bench", table, "--theirs", str(tmp_path), "--manifest", str(corpus)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (
        1,
        f"--theirs: {tmp_path} is no clone of CPC_audio: it has no folder cpc\n",
    )
