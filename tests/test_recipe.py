"""The scripts of recipes/minispeech on a small corpus."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cpc.data import read_manifest, write_manifest
from tests.conftest import load_script
from tests.test_ablate import BASE
from tests.test_evaluate import write_alternating_labels

pytest.importorskip("espeakng_loader", reason="minispeech is made by espeak-ng: pip install -e '.[demo]'")

SCRIPT = Path(__file__).resolve().parents[1] / "recipes" / "minispeech" / "run.py"


def run(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--out", str(out), "--minutes", "2.4", "--speakers", "4", "--updates", "6"]
    return subprocess.run([*command, *more], capture_output=True, text=True)


@pytest.mark.slow
def test_minispeech_runs_from_synthesis_to_table_and_resumes(tmp_path):
    """All stages in small: results.json as documented, pictures, a loadable model; a second call repeats nothing."""
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    rows = {f"{row}{end}" for row in ("untrained", "mfcc", "spectral", "cpc_z", "cpc_c") for end in ("", "_mlp")}
    assert set(results["speaker"]) == {"majority", *rows}
    assert set(results["phone"]) == {"majority", *rows, "cpc_c_cmvn", "cpc_c_cmvn_mlp"}
    for row in results["phone"].values():
        assert 0 < row["accuracy"] < 1
    for row in results["speaker"].values():
        assert 0 <= row["accuracy"] <= 1
        assert 0 <= row["utterance_accuracy"] <= 1
    assert set(results["seconds"]) == {"synthesise", "manifest", "train", "features", "probes"}
    assert results["phone"]["mfcc"]["accuracy"] > results["phone"]["majority"]["accuracy"] + 0.1
    for name in ("CPC c", "CPC c, CMVN", "strongest spectral", "MFCC", "majority class", "phone, hidden layer"):
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
    assert "stage synthesise would have to rerun" in other.stderr
    assert "seed was 0, is 1; undo the change, pass another --out" in other.stderr
    assert "Traceback" not in other.stderr
    assert json.loads((tmp_path / "results.json").read_text())["phone"] == results["phone"]


def test_split_by_sentence_leaves_no_test_sentence_in_train_and_every_speaker_there(tmp_path, monkeypatch, capsys):
    """The manifest names the sentences of each utterance, and the line that is printed counts the shared ones."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    script = load_script(SCRIPT)
    partners, _ = script.SPLITS["sentence"]
    script.synthesise(tmp_path, minutes=2, num_speakers=3, partners=partners)
    script.make_manifest(tmp_path, "sentence", 0)
    assert "sentences of test that also occur in train: 0.0 %" in capsys.readouterr().out
    manifest = read_manifest(tmp_path / "manifest.csv")
    sentences = {split: set(manifest.select(split).column("sentence")) for split in ("train", "dev", "test")}
    assert not sentences["test"] & (sentences["train"] | sentences["dev"])
    assert not sentences["dev"] & sentences["train"]
    assert len(set(manifest.select("train").speakers)) == 3


def test_learning_speed_probes_every_checkpoint_that_was_kept_and_no_frames_stay(corpus, tmp_path, monkeypatch, capsys):
    """A second call trains and probes nothing."""
    write_manifest(read_manifest(corpus), tmp_path / "corpus" / "manifest.csv")
    write_alternating_labels(corpus, tmp_path / "corpus" / "phone_labels.txt")
    (tmp_path / "tiny.toml").write_text(BASE)
    script, out = load_script(SCRIPT.with_name("learning_speed.py")), tmp_path / "out"
    monkeypatch.setattr(script, "SETTINGS", {"tiny one": (tmp_path / "tiny.toml", {"optim.lr": 1e-3}, 6, 3)})
    monkeypatch.setattr(sys, "argv", ["learning_speed.py", "--corpus", str(tmp_path / "corpus"), "--out", str(out)])
    script.main()
    curve = json.loads((out / "learning_speed.json").read_text())["tiny one"]
    assert [update for update, _, _ in curve] == [3, 6]
    assert "MFCC: " in capsys.readouterr().out
    assert not list(out.rglob("*.npy"))
    probes = {path: path.stat().st_mtime_ns for path in [out / "mfcc.json", *(out / "tiny-one" / "probes").iterdir()]}
    assert len(probes) == 3
    script.main()
    assert {path: path.stat().st_mtime_ns for path in probes} == probes
    assert json.loads((out / "learning_speed.json").read_text())["tiny one"] == curve


def test_alignment_quality_finds_a_border_that_is_two_frames_late():
    """Of three borders, one is exact, one is 20 ms late, and one is missing."""
    script = load_script(SCRIPT.with_name("alignment_quality.py"))
    truth = {"u": np.array(["sil"] * 10 + ["aa"] * 10 + ["b"] * 10 + ["k"] * 10)}
    found = {"u": np.array(["sil"] * 10 + ["aa"] * 12 + ["b"] * 18)}
    table = script.compare(truth, found)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    values = {name: value for name, value in cells}
    assert values["frames with the same phone"] == "70.0 %"
    assert values["frames with the same phone, in speech only"] == "60.0 %"
    assert values["borders found (same two phones within 100 ms)"] == "66.7 %"
    assert values["their mean deviation (positive is late)"] == "+10.0 ms"
    assert values["share of them within 20 ms"] == "100.0 %"
