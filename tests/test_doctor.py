"""`cpc doctor` finds each fault in a run that has it, and none in a sound one."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from cpc.cli import main
from cpc.config import (
    AudioConfig,
    AutoregressorConfig,
    BatchConfig,
    CriterionConfig,
    EncoderConfig,
    LossConfig,
    NegativeSet,
    OptimConfig,
    TrainConfig,
    read_config,
    write_config,
)
from cpc.data import read_manifest, write_manifest
from cpc.experiments import DoctorError, examine_run
from cpc.experiments.signals import check_collapse, check_units
from cpc.report import Finding, ReportError, findings_text, read_findings, write_page
from cpc.runs import build_model, read_metrics, save_checkpoint, save_weights
from cpc.train import train
from tests.conftest import make_corpus, tampered, tiny_config

CHECKS = {
    *("divergence", "overfitting", "chance level", "shortcuts", "ceiling", "weights", "dev split", "speakers"),
    *("clipping", "silence", "DC offset", "collapse of z", "collapse of c", "units of z", "units of c"),
}
LENGTH = TrainConfig(num_updates=220, log_every=20, validate_every=110, validate_batches=20, checkpoint_every=220)


# In the tiny network of 16 channels, the ReLU of two never opens from the start, which is a fault of its own.
WIDE = {"encoder": EncoderConfig(channels=32), "autoregressor": AutoregressorConfig(hidden=32)}
LATE = (203, 220)  # updates after warm-up and patience


def line(update, loss_k, *, kind="train", accuracy_k=None, log_n=2.0):
    """Make up a line of metrics.jsonl."""
    accuracy_k = accuracy_k or [0.5] * len(loss_k)
    log_n_k = [log_n] * len(loss_k)
    means = {"loss": float(np.mean(loss_k)), "log_n": log_n, "accuracy": float(np.mean(accuracy_k))}
    by_step = {"loss_k": loss_k, "log_n_k": log_n_k, "accuracy_k": accuracy_k, "win_rate_k": accuracy_k}
    bounds = {"bound_kind": "none", "bound_k": [log_n - loss for loss in loss_k]}
    return {"kind": kind, "update": update, "seconds": 1.0, **means, **by_step, **bounds}


def write_lines(run, lines):
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), speakers=4, utterances=12)


@pytest.fixture(scope="module")
def sound(manifest, tmp_path_factory):
    """A run that says that it learns, with random weights; a trained one is in the slow test."""
    run = tmp_path_factory.mktemp("run") / "sound"
    run.mkdir()
    config = tiny_config(manifest, train=LENGTH, **WIDE)
    torch.manual_seed(0)
    model = build_model(config)
    save_weights(run / "best.safetensors", config, model)
    save_checkpoint(run / "last.pt", config, model)
    write_config(config, run / "config.toml")
    write_lines(run, [line(update, [2 - update / 400] * 3, kind=kind) for update in LATE for kind in ("train", "dev")])
    return run


@pytest.fixture
def broken(sound, tmp_path):
    """Copy the sound run with another configuration, metrics or weights; examine it; return its findings by name."""

    def examine(*, lines=None, weights=None, **sections):
        run = tmp_path / "broken"
        shutil.copytree(sound, run, dirs_exist_ok=True)
        write_config(replace(read_config(run / "config.toml"), **sections), run / "config.toml")
        if lines is not None:
            write_lines(run, lines)
        for path in (run / "best.safetensors", run / "last.pt") if weights else ():
            with tampered(path) as payload:
                weights(payload["model"])
        return {finding.name: finding for finding in examine_run(run)}

    return examine


def faults(findings):
    return {name for name, finding in findings.items() if finding.level != "ok"}


def test_a_sound_run_has_no_faults(sound):
    findings = examine_run(sound)
    assert findings_text(findings) == f"nothing found; checked: {', '.join(one.name for one in findings)}"
    assert {one.name for one in findings} == CHECKS
    assert read_findings(sound) == findings


# --- metrics


def test_a_loss_that_stays_at_log_n(broken):
    found = broken(lines=[line(LATE[0], [1.99, 1.99, 1.99])])
    assert faults(found) == {"chance level"}
    assert found["chance level"].level == "broken"
    assert "--optim.lr" in found["chance level"].message


def test_a_young_run_is_not_blamed_for_guessing(broken):
    """A sound run too begins at log N."""
    found = broken(lines=[line(LATE[0] - 1, [1.99, 1.99, 1.99])])
    assert faults(found) == {"too early"}
    assert "from update 203 on" in found["too early"].message


@pytest.mark.slow
@pytest.mark.parametrize(("lr", "expected"), [(4e-3, set()), (1e-9, {"chance level"})])
def test_a_run_that_is_trained_has_the_faults_of_its_learning_rate(manifest, tmp_path, lr, expected):
    config = tiny_config(manifest, train=LENGTH, optim=OptimConfig(lr=lr, warmup_updates=3, clip_norm=1.0), **WIDE)
    run = train(config, tmp_path / "run")
    found = faults({one.name: one for one in examine_run(run)})
    assert found - {"units of z"} == expected  # in so small a network some ReLUs die, which is a fault of its own


@pytest.mark.parametrize(
    ("loss", "says"), [(float("nan"), "is nan"), (float("inf"), "is inf"), (0.0, "exactly 0"), (9.0, "is 9")]
)
def test_a_loss_that_is_not_finite_exactly_zero_or_above_a_guess(broken, loss, says):
    found = broken(lines=[line(20, [1.5, 1.6, 1.7]), line(40, [loss] * 3)])["divergence"]
    assert found.level == "broken"
    assert f"{says} at update 40" in found.message
    assert all(np.isfinite(value) for value in found.measured.values())


def test_only_the_steps_that_share_samples_are_solved(broken):
    """With the paper's strides, frames 465 samples long share some up to k = 2."""
    found = broken(lines=[line(400, [0.02, 0.05, 1.99], accuracy_k=[0.99, 0.98, 0.2])])["shortcuts"]
    assert found.level == "broken"
    assert "up to k = 2 share samples" in found.message
    further = broken(lines=[line(400, [0.02, 0.05, 1.8], accuracy_k=[0.99, 0.98, 0.3])])
    assert faults(further) == set()
    some = broken(lines=[line(400, [0.02, 1.99, 1.98], accuracy_k=[0.99, 0.2, 0.2]) | {"steps": [2, 4, 6]}])[
        "shortcuts"
    ]
    assert "0.99 at k = 2 and 0.20 at k = 6" in some.message
    assert some.level == "broken"


def test_all_steps_are_solved(broken):
    found = broken(lines=[line(400, [0.001] * 3, accuracy_k=[1.0, 1.0, 0.999], log_n=6.657)])
    assert faults(found) == {"shortcuts"}
    assert found["shortcuts"].level == "broken"
    assert "told apart" not in found["shortcuts"].message
    assert "loudness" in found["shortcuts"].message


def test_two_steps_that_share_samples_may_be_solved(broken):
    """A run of K = 2 has no other steps."""
    findings = broken(lines=[line(400, [0.02, 0.05], accuracy_k=[0.99, 0.98])], criterion=CriterionConfig(num_steps=2))
    assert not {"shortcuts", "ceiling"} & faults(findings)


@pytest.mark.parametrize(("loss", "level"), [(0.05, "warning"), (0.2, "ok")])
def test_log_n_is_too_small_to_tell_more(broken, loss, level):
    """A loss of 0.05 leaves 97.5 % of log N = 2 nats, one of 0.2 leaves 90 %."""
    found = broken(lines=[line(400, [0.01, 0.02, loss], accuracy_k=[0.99, 0.99, 0.9])])["ceiling"]
    assert found.level == level
    assert found.measured["highest_share"] == pytest.approx(1 - loss / 2)


def test_dev_rises_while_train_falls(broken):
    dev = [line(update, [loss] * 3, kind="dev") for update, loss in ((100, 1.5), (200, 1.2), (300, 1.3), (400, 1.45))]
    down = [line(update, [1.8 - update / 400] * 3) for update in range(50, 450, 50)]
    found = broken(lines=sorted(down + dev, key=lambda one: one["update"]))
    assert faults(found) == {"overfitting"}
    assert found["overfitting"].measured["best_update"] == 200
    assert found["overfitting"].measured["ahead_nats"] == pytest.approx(0.25)
    assert "by heart" in found["overfitting"].message
    assert (
        "unstable" in broken(lines=[line(50, [1.0] * 3), *dev[:2], line(400, [1.6] * 3), dev[3]])["overfitting"].message
    )


def test_an_objective_without_steps_is_examined_too(broken):
    """The metrics of SimCLR and the like have a loss and log N, and no steps."""
    lines = [{"kind": "train", "update": 400, "loss": 1.0, "log_n": 1.1, "accuracy": 0.4}]
    findings = broken(
        lines=lines, loss=LossConfig(name="nt_xent"), batches=BatchConfig("by_utterance", 4, windows_per_group=2)
    )
    assert set(findings) == CHECKS - {"shortcuts", "ceiling", "speakers", "overfitting"}


# --- weights and representations


def test_weights_that_are_not_finite(broken):
    def spoil(weights):
        next(iter(weights.values())).fill_(float("nan"))

    found = broken(weights=spoil)["weights"]
    assert found.level == "broken"
    assert "weights of best.safetensors are NaN or infinite" in found.message


def test_constant_features(broken):
    """W_k does not reach z and c; all other weights at 0 make both constant."""

    def flatten(weights):
        for name, weight in weights.items():
            if not name.startswith("W"):
                weight.zero_()

    findings = broken(weights=flatten)
    assert {"collapse of z", "collapse of c", "units of z", "units of c"} <= faults(findings)
    assert findings["collapse of c"].level == "broken"
    assert findings["collapse of c"].measured == {"variance_share": 0, "effective_rank": 0}


def test_the_effective_rank_is_the_number_of_directions_that_vary_equally():
    rng = np.random.default_rng(0)
    for rank in (1, 3, 8):
        frames = rng.standard_normal((20_000, rank)) @ np.linalg.qr(rng.standard_normal((8, rank)))[0].T
        found = check_collapse("z", frames.astype(np.float32))
        assert found.measured["effective_rank"] == pytest.approx(rank, rel=0.01)
        assert found.level == ("broken" if rank == 1 else "ok")


def test_a_large_mean_hides_what_varies():
    frames = 100 + np.random.default_rng(0).standard_normal((1000, 8)).astype(np.float32)
    found = check_collapse("c", frames)
    assert found.level == "broken"
    assert found.measured["variance_share"] == pytest.approx(1e-4, rel=0.1)


def test_units_that_never_change():
    frames = np.random.default_rng(0).standard_normal((1000, 8)).astype(np.float32)
    assert check_units("z", frames).level == "ok"
    frames[:, 0], frames[:, 1] = 0, 1
    found = check_units("z", frames)
    assert found.level == "warning"
    assert found.measured == {"share": 0.25, "num_dead": 1}


# --- speakers and splits


@pytest.fixture
def with_manifest(manifest, sound, tmp_path):
    """The data section with a changed manifest."""

    def change(edit):
        table = read_manifest(manifest)
        write_manifest(edit(table), tmp_path / "manifest.csv")
        return replace(read_config(sound / "config.toml").data, manifest=str(tmp_path / "manifest.csv"))

    return change


BY_SPEAKER = BatchConfig("by_speaker", 4, windows_per_group=2)


def test_a_single_speaker(broken, with_manifest):
    data = with_manifest(lambda table: table.with_column("speaker", ["one"] * len(table)))
    found = broken(data=data)["speakers"]
    assert (found.level, found.measured["num_speakers"]) == ("warning", 1)
    assert faults(broken(data=data, criterion=CriterionConfig(3, scheme="current_sequence"))) == set()


def test_a_single_utterance_a_speaker(broken, with_manifest):
    data = with_manifest(lambda table: table.with_column("speaker", table.utterances))
    same = NegativeSet(same=("speaker",))
    for criterion in (
        CriterionConfig(3, scheme="same_speaker"),
        CriterionConfig(3, scheme="sets", negatives=(NegativeSet(scheme="mixed_speaker"), same)),
    ):
        found = broken(data=data, criterion=criterion, batches=BY_SPEAKER)["speakers"]
        assert found.level == "warning"
        assert found.measured["num_of_one_utterance"] == found.measured["num_speakers"] > 4
    assert faults(broken(data=data)) == set()


def test_speakers_with_too_few_windows_for_a_group(broken):
    found = broken(batches=replace(BY_SPEAKER, num_windows=2000, windows_per_group=1000))["speakers"]
    assert (found.level, found.measured["num_never_drawn"]) == ("warning", 4)


def test_a_dev_split_that_is_too_small(broken):
    found = broken(train=replace(LENGTH, validate_batches=2))
    assert faults(found) == {"dev split"}
    assert found["dev split"].measured["num_windows"] == 8


# --- sound files


@pytest.fixture
def with_audio(manifest, with_manifest, tmp_path):
    """The data section with all sound files changed."""

    def change(edit):
        table = read_manifest(manifest)
        for i in range(len(table)):
            waveform, rate = soundfile.read(table.audio_path(i), dtype="float32")
            (tmp_path / table.paths[i]).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(tmp_path / table.paths[i], edit(waveform, i), rate)
        return with_manifest(lambda table: replace(table, root=tmp_path))

    return change


def half_silent(waveform, _):
    return np.where(np.abs(np.arange(len(waveform)) / len(waveform) - 0.5) < 0.4, 0, waveform)


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("clipping", lambda waveform, _: np.clip(5 * waveform, -1, 1)),
        ("silence", half_silent),
        ("DC offset", lambda waveform, _: waveform + 0.5),
    ],
)
def test_bad_audio(broken, with_audio, name, edit):
    found = broken(data=with_audio(edit))
    assert name in faults(found)
    assert not {"clipping", "silence", "DC offset", "audio"} - {name} & faults(found)


def test_one_clipped_file_does_not_spoil_a_run(broken, with_audio):
    data = with_audio(lambda waveform, i: np.clip(5 * waveform, -1, 1) if i == 0 else waveform)
    assert broken(data=data)["clipping"].level == "ok"


def test_files_at_different_levels_matter_unless_they_are_normalised(broken, with_audio):
    data = with_audio(lambda waveform, i: waveform * (1 if i % 2 else 0.1))
    assert "levels" not in broken(data=data)
    found = broken(data=data, audio=AudioConfig(normalise="none"))["levels"]
    assert found.level == "warning"
    assert found.measured["range_db"] == pytest.approx(20, abs=3)


# --- what cannot be read


def test_what_cannot_be_read_is_named_and_the_rest_is_examined(broken, with_manifest, tmp_path):
    gone = with_manifest(lambda table: replace(table, root=tmp_path / "moved"))
    found = broken(data=gone)
    assert faults(found) == {"audio", "representations"}
    assert "not examined" in found["audio"].message
    assert set(found) >= {"speakers", "weights", "chance level"}
    (tmp_path / "manifest.csv").unlink()
    assert faults(broken(data=gone)) == {"data"}


def test_a_run_without_checkpoints_is_examined(sound, tmp_path):
    """It may have diverged before the first one."""
    shutil.copytree(sound, tmp_path / "run", ignore=shutil.ignore_patterns("*.pt", "*.safetensors"))
    findings = {one.name: one for one in examine_run(tmp_path / "run")}
    assert faults(findings) == {"weights", "representations"}


def test_a_run_that_has_measured_nothing_is_refused(sound, tmp_path):
    with pytest.raises(DoctorError, match="no such run folder; `cpc train"):
        examine_run(tmp_path / "none")
    shutil.copytree(sound, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    with pytest.raises(DoctorError, match="has not measured anything yet"):
        examine_run(tmp_path / "run")


# --- the command and the page


def test_the_worst_comes_first():
    findings = [Finding("a", "ok", "fine"), Finding("b", "warning", "hm"), Finding("c", "broken", "no")]
    assert findings_text(findings) == "broken: c: no\nwarning: b: hm"


def test_the_command_prints_the_faults_and_succeeds(broken, tmp_path, monkeypatch, capsys):
    broken(lines=[line(400, [0.0] * 3)], train=replace(LENGTH, validate_batches=2))
    monkeypatch.setattr(sys, "argv", ["cpc", "doctor", str(tmp_path / "broken")])
    main()
    levels = [text.partition(":")[0] for text in capsys.readouterr().out.splitlines()]
    assert levels == ["broken", "warning", "warning", f"wrote {tmp_path / 'broken' / 'doctor.json'}"]
    monkeypatch.setattr(sys, "argv", ["cpc", "doctor", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("cpc: error: ")


def test_the_page_shows_the_findings_or_the_command(broken, tmp_path):
    broken(train=replace(LENGTH, validate_batches=2))
    run, page = tmp_path / "broken", tmp_path / "page.html"
    assert len(read_metrics(run / "metrics.jsonl")) > 1
    write_page(run, page)
    assert "<li><b>warning</b>: dev split: the dev loss is measured on 8 windows" in page.read_text()
    assert f"cpc doctor {run}" not in page.read_text()
    (run / "doctor.json").unlink()
    write_page(run, page)
    assert f"cpc doctor {run}" in page.read_text()
    (run / "doctor.json").write_text("[]")
    with pytest.raises(ReportError, match="not what `cpc doctor` writes"):
        write_page(run, page)
