"""The command line: the whole way in small, and one clear line for each bad input."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cpc.cli import _continued, main
from cpc.config import Config, read_config
from cpc.data import read_manifest, write_manifest
from tests.conftest import exit_status, make_corpus, tampered, write_sound

TINY = [
    "--device", "cpu", "--data.window-samples", "4000", "--batches.num-windows", "4", "--encoder.channels", "16",
    "--autoregressor.hidden", "8", "--criterion.num-steps", "3", "--train.num-updates", "4",
]  # fmt: skip


def run_command(*arguments, stdout=subprocess.PIPE, env=None):
    """Run the command in a process of its own."""
    code = "from cpc.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=env,
        text=True,
        errors="replace",
    )


@pytest.fixture
def command(capfd):
    """Run a command and return (exit status, stdout, stderr)."""

    def call(*arguments):
        capfd.readouterr()
        status = exit_status(*arguments)
        return status, *capfd.readouterr()

    return call


@pytest.fixture
def refused(command):
    """Run a command that must fail: status 2, one line on stderr that holds all of the given texts."""

    def call(*arguments, says):
        status, _, err = command(*arguments)
        lines = [line for line in err.splitlines() if "error" in line]
        assert status == 2, err
        assert len(lines) == 1, err
        assert "Traceback" not in err
        for text in says:
            assert text in lines[0]
        return lines[0]

    return call


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A corpus with phone labels in the CPC authors' format: the phone is the half of the file."""
    root = tmp_path_factory.mktemp("labelled")
    manifest = read_manifest(make_corpus(root))
    lines = []
    for utterance, num_samples in zip(manifest.table["utterance"], manifest.table["num_samples"], strict=True):
        n = 1 + (num_samples - 400) // 160
        lines.append(" ".join([utterance, *(str(int(i > n // 2)) for i in range(n))]))
    (root / "labels.txt").write_text("\n".join(lines) + "\n")
    (root / "phones.txt").write_text("0 first\n1 second\n")
    return root


@pytest.fixture(scope="module")
def trained(labelled, tmp_path_factory):
    run = tmp_path_factory.mktemp("trained") / "run"
    assert exit_status("train", "small", "--data.manifest", labelled / "manifest.csv", "--out", run, *TINY) == 0
    return run


def test_the_whole_way(labelled, tmp_path, command):
    """Manifest, train, features, both probes and pictures, by the commands of the README."""
    table, run, frames = tmp_path / "m.csv", tmp_path / "run", tmp_path / "f"
    status, out, _ = command("manifest", labelled, "-o", table, "--split", "utterance", "--fractions", ".6", ".2", ".2")
    assert status == 0
    assert "15 utterances, 3 speakers" in out
    assert "split by utterance: train 9, dev 3, test 3" in out
    assert command("train", "small", "--data.manifest", table, "--out", run, *TINY)[0] == 0
    assert command("features", run, "--out", frames / "c", "--device", "cpu")[0] == 0
    assert command("features", run, "--out", frames / "z", "--layer", "z", "--manifest", table)[0] == 0
    assert command("features", "--baseline", "mfcc", "--manifest", table, "--out", frames / "m")[0] == 0
    status, out, _ = command(
        "probe", "phone", frames / "m", "--labels", labelled / "labels.txt", "--phones", labelled / "phones.txt",
        "--out", tmp_path / "phone.json",
    )  # fmt: skip
    assert status == 0
    result = json.loads((tmp_path / "phone.json").read_text())
    assert 0 < result["accuracy"] <= 1
    assert [row["name"] for row in result["per_class"]] == ["first", "second"]
    assert f"phone: {100 * result['accuracy']:.1f} % of test frames right" in out
    assert command("probe", "speaker", frames / "c", "--out", tmp_path / "speaker.json")[0] == 0
    assert "utterance_accuracy" in json.loads((tmp_path / "speaker.json").read_text())
    assert command("report", run, "--features", frames / "c", "--labels", labelled / "labels.txt")[0] == 0
    assert (run / "report.html").read_text().count("<svg") >= 4


def test_resume_on_the_command_line(labelled, tmp_path, command, refused):
    run = tmp_path / "run"
    assert command("train", "small", "--data.manifest", labelled / "manifest.csv", "--out", run, *TINY)[0] == 0
    refused("train", "small", "--data.manifest", labelled / "manifest.csv", "--out", run, *TINY, says=["--resume"])
    assert command("train", "--resume", run)[0] == 0
    assert command("train", "--resume", run, "--device", "cpu")[0] == 0
    refused("train", "--resume", run, "--optim.lr", "1", says=["takes no other settings than --device, --threads"])
    refused("train", "--resume", tmp_path / "none", says=["no such run folder"])


def test_a_run_takes_its_manifest_from_another_place(labelled, trained, tmp_path, command, refused):
    """What moved is named, and found again by its content; test utterances do not count."""
    moved, run = tmp_path / "moved.csv", tmp_path / "run"
    shutil.copytree(trained, run)
    write_manifest(read_manifest(labelled / "manifest.csv"), moved)
    more = ["--data.manifest", moved, "--train.num-updates", "6"]
    assert command("train", "--resume", run, *more)[0] == 0
    assert read_config(run / "config.toml").data.manifest == str(moved)
    moved.unlink()
    frames = ["--out", tmp_path / "c", "--checkpoint", "last"]
    refused("features", run, *frames, says=["no longer there", "--manifest"])
    refused("train", "--resume", run, "--train.num-updates", "8", says=["no longer there", "--data.manifest"])
    assert command("features", run, *frames, "--manifest", labelled / "manifest.csv")[0] == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_writes_for_tensorboard_on_the_command_line(labelled, tmp_path, command, refused, monkeypatch):
    pytest.importorskip("tensorboard")
    start = ["train", "small", "--data.manifest", labelled / "manifest.csv", *TINY, "--tensorboard", "--out"]
    assert command(*start, tmp_path / "run")[0] == 0
    assert list((tmp_path / "run" / "tensorboard").glob("events.out.tfevents.*"))
    monkeypatch.setattr("cpc.train.tensorboard.find_spec", lambda name: None)
    refused(*start, tmp_path / "other", says=["TensorBoard is not installed; pip install 'cpc-audio[tensorboard]'"])
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("words", ["--help", "--version", "train --help", "design --sample-rate 8000"])
def test_a_reader_that_closes_its_pipe_hears_nothing(words):
    """`cpc --help | head -1` ends quietly, as `cpc … | head -1` does for commands that print and write nothing."""
    read, write = os.pipe()
    os.close(read)
    done = run_command(*words.split(), stdout=write)
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 141


@pytest.mark.parametrize("which", ["manifest", "probe"])
def test_a_reader_that_closes_its_pipe_loses_no_result(labelled, trained, tmp_path, which):
    """`cpc … | head -1` writes its file, and ends without a word on stderr."""
    out = tmp_path / "out"
    if which == "manifest":
        arguments = ["manifest", labelled, "-o", out]
    else:
        frames = tmp_path / "mfcc"
        run_command("features", "--baseline", "mfcc", "--manifest", labelled / "manifest.csv", "--out", frames)
        arguments = ["probe", "speaker", frames, "--evaluate", "dev", "--out", out]
    read, write = os.pipe()
    os.close(read)
    done = run_command(*arguments, stdout=write)
    os.close(write)
    assert out.exists()
    assert done.returncode == 141
    lines = [line for line in done.stderr.splitlines() if "%" not in line]  # without progress bars
    assert not re.search("error|exception|pipe", "\n".join(lines), re.IGNORECASE), done.stderr


def test_a_file_that_the_command_did_not_make_is_never_replaced(labelled, trained, tmp_path, command, refused):
    """A sound file, a text or a hand-made table named as output stays as it is, and the command says so at once."""
    corpus, frames = tmp_path / "corpus", tmp_path / "mfcc"
    shutil.copytree(labelled, corpus)
    sound, notes = next(corpus.rglob("*.flac")), tmp_path / "notes.txt"
    notes.write_text("mine\n")
    kept = {path: path.read_bytes() for path in (sound, notes)}
    assert command("features", "--baseline", "mfcc", "--manifest", corpus / "manifest.csv", "--out", frames)[0] == 0
    for path in kept:
        refused("manifest", corpus, "-o", path, says=[str(path), "not a manifest", "another name"])
        refused("manifest", corpus / "manifest.csv", "-o", path, "--split", "speaker", says=["not a manifest"])
        refused("probe", "speaker", frames, "--out", path, says=["not a result of cpc probe"])
        refused("report", trained, "-o", path, says=["not a page of cpc report"])
        labels = ["--labels", labelled / "labels.txt", "--predictions", path]
        refused("probe", "phone", frames, *labels, says=["not a file of predicted phones"])
    refused("report", trained, "-o", tmp_path, says=["a folder, expected the name of a file"])
    assert {path: path.read_bytes() for path in kept} == kept
    (corpus / "manifest.csv").write_text("path,num_samples,sample_rate,speaker,utterance,mine\na.wav,1,1,a,a,x\n")
    refused("manifest", corpus, says=["manifest.csv", "not a manifest that a scan has made"])
    (corpus / "manifest.csv").unlink()
    for _ in range(2):  # the second time, it replaces its own
        assert command("manifest", corpus)[0] == 0
        assert command("manifest", corpus / "manifest.csv", "-o", tmp_path / "split.csv", "--split", "speaker")[0] == 0
        assert command("probe", "speaker", frames, "--out", tmp_path / "s.json")[0] == 0
        predicted = ["--labels", labelled / "labels.txt", "--predictions", tmp_path / "p.txt"]
        assert command("probe", "phone", frames, *predicted)[0] == 0
        assert command("report", trained, "-o", tmp_path / "page.html")[0] == 0


@pytest.mark.parametrize(
    "error", [MemoryError("no more"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9")]
)
def test_memory_that_runs_out_is_one_line(labelled, tmp_path, refused, monkeypatch, error):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr("cpc.data.scan_listing", fails)
    refused("manifest", labelled, "-o", tmp_path / "m.csv", says=["out of memory", "take a smaller batch"])


def test_an_empty_output_is_refused_instead_of_the_current_folder(labelled, refused):
    refused("train", "small", "--data.manifest", labelled / "manifest.csv", "--out", "", says=["--out: got an empty"])
    refused("features", "--baseline", "mfcc", "--out", "", "--manifest", "m.csv", says=["--out: got an empty text"])


def test_commands_work_where_text_is_not_utf_8(labelled, tmp_path):
    """LC_ALL=C, without the modes in which Python would still use UTF-8: help, presets, and messages with signs."""
    surroundings = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for arguments, status, says in (
        (["train", "small", "--help"], 0, "usage"),
        (["manifest", str(labelled), "-o", str(tmp_path / "m.csv")], 0, "15 utterances"),
        (["train", "small", "--data.manifest", "m\u00e9.csv", "--out", str(tmp_path / "run")], 2, "no such manifest"),
    ):
        done = run_command(*arguments, env=surroundings)
        assert done.returncode == status, done.stderr
        assert says in done.stdout + done.stderr
        assert "codec" not in done.stderr


def test_a_preset_counts_wherever_it_stands_among_the_options(labelled, tmp_path, command, refused):
    """The last place used to train the paper's defaults without a word."""
    options = ["--data.manifest", labelled / "manifest.csv", *TINY]
    assert command("train", "small", *options, "--out", tmp_path / "first")[0] == 0
    assert command("train", *options, "--out", tmp_path / "last", "small")[0] == 0
    assert command("train", *options[:2], "small", *options[2:], "--out", tmp_path / "between")[0] == 0
    first, last, between = (read_config(tmp_path / name / "config.toml") for name in ("first", "last", "between"))
    assert first == last == between
    assert first.criterion.tau == 4.0
    refused("train", *options, "--out", tmp_path / "none", "smal", says=["smal: no such configuration", "small"])
    refused("train", *options, "--out", tmp_path / "none", says=["no configuration given"])
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", ["", "manifest", "train", "features", "probe", "report"])
def test_help_teaches_with_an_example_and_needs_no_torch(name):
    """`cpc X --help` says what it does; it answers before torch is loaded."""
    program = f"import sys; sys.argv = ['cpc', *{name.split()!r}, '--help']\nfrom cpc import cli\n"
    program += "try: cli.main()\nexcept SystemExit: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")
    if name != "report":
        assert f"cpc {name}" in done.stdout


def test_installed_command_exits_2_with_one_line(tmp_path):
    """The same through the real entry point, as a shell sees it."""
    done = subprocess.run(
        [sys.executable, "-m", "cpc", "manifest", str(tmp_path / "none")], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no such folder" in done.stderr


# --- bad input, line by line


def test_a_missing_folder(tmp_path, refused):
    refused("manifest", tmp_path / "none", says=[f"{tmp_path / 'none'}: no such folder"])
    refused(
        "train", "small", "--data.manifest", tmp_path / "m.csv", "--out", tmp_path / "r", says=["m.csv", "cpc manifest"]
    )
    refused("features", tmp_path / "none", "--out", tmp_path / "f", says=["no such run folder", "cpc train"])
    refused("probe", "speaker", tmp_path / "none", says=["no features folder", "cpc features"])
    refused("report", tmp_path / "none", says=["no such run folder", "cpc train"])


def test_an_empty_manifest(tmp_path, refused):
    (tmp_path / "m.csv").write_text("path,num_samples,sample_rate,speaker,utterance,split\n")
    refused(
        "train",
        "small",
        "--data.manifest",
        tmp_path / "m.csv",
        "--out",
        tmp_path / "r",
        says=["m.csv", "at least one utterance"],
    )
    (tmp_path / "empty").mkdir()
    refused("manifest", tmp_path / "empty", says=["empty", "no sound file"])


def test_a_wrong_sample_rate(tmp_path, refused, command):
    corpus = make_corpus(tmp_path / "c", rate=8000)
    arguments = ["train", "small", "--data.manifest", corpus, "--out", tmp_path / "r", *TINY]
    refused(*arguments, says=["8000 Hz, expected 16000; pass --audio.resample"])
    assert not (tmp_path / "r").exists()
    assert command(*arguments, "--audio.resample")[0] == 0


@pytest.mark.parametrize("kind", ["truncated", "nan", "text", "empty", "silent"])
def test_broken_files_are_listed_counted_and_left_out(tmp_path, command, kind):
    write_sound(tmp_path / "1" / "1" / "good.flac", 1.0, 0)
    bad = tmp_path / "1" / "1" / ("bad.flac" if kind == "truncated" else "bad.wav")
    match kind:
        case "truncated":
            write_sound(bad, 2.0, 1)
            bad.write_bytes(bad.read_bytes()[:9000])
        case "nan":
            soundfile.write(bad, np.array([0.1, np.nan, 0.2] * 999), 16000, subtype="FLOAT")
        case "text":
            bad.write_text("this is no sound")
        case "empty":
            bad.touch()
        case "silent":
            soundfile.write(bad, np.zeros(16000), 16000)
    status, out, _ = command("manifest", tmp_path, "-o", tmp_path / "m.csv")
    assert status == 0
    assert "1 utterances" in out
    assert "left out: 1" in out
    assert bad.name in out
    reason = {"nan": "nan, expected a finite number", "text": "not a sound file"}.get(kind, kind)
    assert reason in out
    assert len(read_manifest(tmp_path / "m.csv")) == 1


def test_a_file_that_breaks_after_the_manifest_was_made(tmp_path, refused, command, trained, monkeypatch):
    """Features stop with the file's name; the batches that are written stay, and go on once it is mended."""
    monkeypatch.setattr("cpc.features.extract._FILES_AT_ONCE", 2)
    root = tmp_path / "c"
    corpus = make_corpus(root, speakers=1)
    broken = root / "1" / "10" / "1-10-0001.flac"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    arguments = ["features", trained, "--manifest", corpus, "--out", tmp_path / "f"]
    refused(*arguments, says=["1-10-0001.flac: truncated"])
    written = {p.name for p in (tmp_path / "f" / "frames").iterdir()}
    assert written == {"1-10-0004.npy", "1-10-0003.npy"}  # the longest first
    refused("probe", "speaker", tmp_path / "f", says=["not finished"])
    broken.write_bytes(whole)
    assert command(*arguments)[0] == 0
    assert {p.name for p in (tmp_path / "f" / "frames").iterdir()} == {f"1-10-000{i}.npy" for i in range(5)}


def test_labels_for_another_corpus(labelled, trained, tmp_path, refused, command):
    assert command("features", trained, "--out", tmp_path / "f")[0] == 0
    other = tmp_path / "other.txt"
    other.write_text("1737-148989-0038 0 0 1\n")
    refused("probe", "phone", tmp_path / "f", "--labels", other, says=["1737-148989-0038", "1-10-0000"])
    lines = (labelled / "labels.txt").read_text().splitlines()
    other.write_text("\n".join([lines[0] + " 1 1 1", *lines[1:]]) + "\n")
    refused("probe", "phone", tmp_path / "f", "--labels", other, says=["1-10-0000", "98", "101"])
    other.write_text("1-10-0000 0 x 1\n")
    refused("probe", "phone", tmp_path / "f", "--labels", other, says=["other.txt", "x"])
    refused("probe", "phone", tmp_path / "f", says=["pass --labels"])


def test_an_unknown_configuration_key(labelled, tmp_path, refused):
    (tmp_path / "c.toml").write_text("[optim]\nlearning_rate = 1\n")
    refused(
        "train", tmp_path / "c.toml", "--out", tmp_path / "r",
        says=["c.toml", "unknown key optim.learning_rate; allowed in [optim]: name, lr,"],
    )  # fmt: skip
    refused("train", "smal", "--out", tmp_path / "r", says=["smal", "paper, small"])


def test_a_batch_too_small_for_its_scheme(labelled, tmp_path, refused):
    arguments = ["train", "small", "--data.manifest", labelled / "manifest.csv", "--out", tmp_path / "r", *TINY]
    scheme = ("--criterion.scheme", "mixed_speaker_excl", "--batches.num-windows", "1")
    refused(*arguments, *scheme, says=["mixed_speaker_excl", "batch of 1 windows", "use batches of several utterances"])
    refused(*arguments, "--batches.num-windows", "999", says=["do not fill one batch of 999"])


def test_a_checkpoint_of_another_architecture(trained, tmp_path, refused):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    with tampered(run / "best.safetensors") as payload:
        payload["config"]["autoregressor"]["kind"] = "lstm"
    before = snapshot(run)
    refused(
        "features", run, "--out", tmp_path / "f", says=["another architecture", "g_ar.rnn.weight_ih_l0", "expected"]
    )
    assert snapshot(run) == before


@pytest.mark.parametrize("stage", ["manifest", "train", "features"])
def test_a_full_disk(labelled, trained, tmp_path, stage):
    """Files may not grow beyond a limit: one line that says so, and what was there before is intact."""
    run, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(trained, run)
    table = (labelled / "manifest.csv").read_bytes()
    (tmp_path / "m.csv").write_bytes(table)
    arguments = {
        "manifest": ["manifest", labelled, "-o", tmp_path / "m.csv"],
        "train": ["train", "small", "--data.manifest", labelled / "manifest.csv", "--out", out, *TINY],
        "features": ["features", run, "--out", out],
    }[stage]
    limit = 600 if stage == "manifest" else 4000  # bytes; above the run's config.toml, below its checkpoints
    before = snapshot(run)
    program = f"""
import resource, signal, sys
from cpc import cli
import torch, cpc.train, cpc.features  # before the limit: importing may write caches
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
sys.argv = {["cpc", *map(str, arguments)]!r}
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if "error" in line]
    assert done.returncode == 2, done.stderr
    assert len(errors) == 1
    assert "file too large" in errors[0].lower()
    assert "Traceback" not in done.stderr
    assert snapshot(run) == before
    assert (tmp_path / "m.csv").read_bytes() == table
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_job_array_makes_a_manifest_and_refuses_what_is_no_share(labelled, tmp_path, command, refused):
    """Only the last of three shares splits and writes the table; it equals that of one call."""
    whole, joined = tmp_path / "whole.csv", tmp_path / "joined.csv"
    assert command("manifest", labelled, "-o", whole, "--split", "utterance")[0] == 0
    for number in (1, 2, 3):
        assert not joined.exists()
        _, out, _ = command("manifest", labelled, "-o", joined, "--split", "utterance", "--shard", f"{number}/3")
        assert out.startswith(f"share {number}/3 is done" + ("" if number == 3 else f"; {3 - number} are not yet"))
    assert f"wrote {joined}" in out
    assert joined.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["joined.csv", "whole.csv"]
    refused("manifest", labelled, "-o", tmp_path / "m.csv", "--shard", "4/3", says=["4/3", "K from 1 to N"])
    refused("manifest", whole, "--split", "utterance", "--shard", "1/3", says=["--shard is for scanning a folder"])
    imported = ("align", "--manifest", whole, "--intervals", labelled, "--out", tmp_path / "labels")
    refused(*imported, "--shard", "1/3", says=["--shard is for aligning words"])


def test_version_is_one_line_and_needs_nothing_else(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cpc", "--version"])
    main()
    assert capsys.readouterr().out == f"cpc {version('cpc-audio')}\n"


@pytest.mark.parametrize(
    "words",
    [
        "train small --data.manifest nowhere.csv --out run",
        "train --resume nowhere",
        "train nowhere",
        "doctor nowhere",
        "features nowhere --out frames",
        "features --baseline mfcc --manifest nowhere.csv --out frames",
        "probe phone nowhere --labels labels.txt",
        "ablate nowhere.toml --labels labels.txt --out ablation",
        "report nowhere",
        "table nowhere",
        "align --manifest nowhere.csv --intervals labels --out out",
        "manifest nowhere",
    ],
)
def test_what_does_not_exist_is_refused_before_torch_is_imported(tmp_path, words):
    """Importing torch takes seconds, in which nothing would be said."""
    code = "import sys\nfrom cpc.cli import main\ntry:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *words.split()], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(r"cpc: error: nowhere[^\n]*\n", done.stderr)
    assert done.stdout == "False\n"
    assert not list(tmp_path.iterdir())


def test_a_number_of_updates_counts_as_given_even_if_it_is_the_default(monkeypatch):
    config, words = Config(), ["cpc", "train", "--resume", "run"]
    monkeypatch.setattr(sys, "argv", words)
    assert _continued(config)["num_updates"] is None
    for flag in (["--train.num-updates", "300000"], ["--train.num_updates=300000"]):
        monkeypatch.setattr(sys, "argv", [*words, *flag])
        assert _continued(config)["num_updates"] == config.train.num_updates == 300000


def test_options_of_the_manifest_are_never_ignored(refused, tmp_path):
    """What cannot be joined is refused before anything is decoded."""
    (tmp_path / "a.wav").write_bytes(b"")
    (tmp_path / "t.csv").write_text("name,call\na,x\n")
    refused("manifest", tmp_path, "--stratify", "call", says=["--stratify is for a split"])
    refused("manifest", tmp_path, "--verify", "--labels", tmp_path / "t.csv", says=["--verify writes nothing"])
    refused("manifest", tmp_path, "--labels", tmp_path / "t.csv", says=["no column utterance or path"])
    refused("manifest", tmp_path, "--labels", tmp_path / "u.csv", says=["no such table"])
