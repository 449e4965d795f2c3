"""The benchmarks run; what they print is for people."""

import subprocess
import sys

import pytest

SMALL = ["--channels", "16", "--windows", "2", "--rounds", "1"]


@pytest.mark.parametrize(
    ("table", "options", "says"),
    [
        ("step", SMALL, "ours, bf16, GRU, current sequence"),
        ("encoder", SMALL, "norm none, bf16"),
        ("account", SMALL, "preset small, bf16:"),
        ("hours", ["--hours", "0.01"], "cache     0.0 h: opened in"),
        ("criterion", SMALL, "same_speaker_excl, all"),
        ("losses", ["--channels", "16", "--embeddings", "512"], "sup_con       512 x 16, 256 rows at a time"),
        ("probes", ["--channels", "8", "--frames", "2000"], "streaming"),
        ("data", ["--rows", "2000"], "cache"),
        ("features", ["--channels", "16"], "a file of 60 min"),
    ],
)
@pytest.mark.slow
def test_each_table_is_printed(table, options, says, corpus):
    command = [sys.executable, "-m", "tests.bench", table, "--manifest", str(corpus), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
