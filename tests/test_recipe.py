"""The recipe of the README, in small."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("espeakng_loader", reason="minispeech is made by espeak-ng: pip install -e '.[demo]'")

SCRIPT = Path(__file__).resolve().parents[1] / "recipes" / "minispeech" / "run.py"


def run(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--out", str(out), "--minutes", "2.4", "--speakers", "4", "--updates", "6"]
    return subprocess.run([*command, *more], capture_output=True, text=True)


@pytest.mark.slow
def test_minispeech_runs_from_synthesis_to_table_and_goes_on(tmp_path):
    """All stages in small: results.json as documented, pictures, a loadable model; a second call redoes nothing."""
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["phone"]) == set(results["speaker"]) == {"majority", "untrained", "mfcc", "cpc_z", "cpc_c"}
    for row in results["phone"].values():
        assert 0 < row["accuracy"] < 1
    for row in results["speaker"].values():
        assert 0 <= row["accuracy"] <= 1
        assert 0 <= row["utterance_accuracy"] <= 1
    assert set(results["seconds"]) == {"synthesise", "manifest", "train", "features", "probes"}
    assert results["phone"]["mfcc"]["accuracy"] > results["phone"]["majority"]["accuracy"] + 0.1
    for name in ("CPC c", "MFCC", "majority class"):
        assert name in done.stdout
    for name in ("learning_curves.png", "accuracy_by_k.png"):
        assert (tmp_path / name).stat().st_size > 10_000

    import torch

    import cpc

    z, c = cpc.load(tmp_path)(torch.randn(2, 16000))
    assert z.shape[:2] == c.shape[:2]

    weights = (tmp_path / "last.pt").stat().st_mtime_ns
    again = run(tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "last.pt").stat().st_mtime_ns == weights
    assert json.loads((tmp_path / "results.json").read_text())["phone"] == results["phone"]

    other = run(tmp_path, "--seed", "1")
    assert other.returncode == 2
    assert "choose another folder" in other.stderr
    assert "Traceback" not in other.stderr
