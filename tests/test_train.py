"""Training: learns, resumes bitwise, keeps the best, refuses what cannot work."""

import json
import math
import re
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import cpc
from cpc.config import (
    BatchConfig,
    Config,
    ConfigError,
    CriterionConfig,
    DataConfig,
    EncoderConfig,
    OptimConfig,
    TrainConfig,
    config_from_dict,
    read_config,
)
from cpc.data import read_manifest
from cpc.devices import resolve_device, resolve_precision
from cpc.runs import (
    BEST,
    CheckpointError,
    build_model,
    read_checkpoint,
    read_metrics,
    save_checkpoint,
    save_weights,
)
from cpc.train import TrainingError, complete, learning_rate, loop, resume, train
from cpc.train.stopping import Stopped
from cpc.train.timing import Profile
from tests.conftest import make_corpus, measured, tampered, tiny_config


def weights(run, name="last.pt"):
    return read_checkpoint(run / name)[1]["model"]


def test_two_identical_runs_give_bitwise_identical_weights(corpus, tmp_path):
    a, b = (train(tiny_config(corpus), tmp_path / name) for name in "ab")
    for x, y in zip(weights(a).values(), weights(b).values(), strict=True):
        assert torch.equal(x, y)
    other = train(tiny_config(corpus, seed=1), tmp_path / "c")
    assert any(not torch.equal(x, y) for x, y in zip(weights(a).values(), weights(other).values(), strict=True))


def test_a_run_that_recomputes_learns_the_same(corpus, tmp_path):
    """But for the order of sums; and what it trained is extracted like any other run."""
    smooth = OptimConfig(lr=1e-2, eps=1e-3, clip_norm=0.5)  # so that rounding stays small
    config = tiny_config(corpus, optim=smooth, precision="float32")
    plain, pieces = (train(replace(config, recompute=n), tmp_path / str(n)) for n in (0, 2))
    for x, y in zip(weights(plain).values(), weights(pieces).values(), strict=True):
        torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-3)
    assert cpc.load(pieces)(torch.randn(1, 4000))[0].shape == (1, 23, 16)


def test_g_enc_is_compiled_once_for_training_and_once_for_dev_however_many_epochs_there_are(
    corpus, tmp_path, monkeypatch
):
    """All batches are of one size: the last one of an epoch compiles nothing anew."""
    torch._dynamo.reset()  # code that another test compiled does not count
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, **options: compile_(module, backend=count, **options))
    config = tiny_config(corpus, compile="on", train=TrainConfig(num_updates=40, validate_every=10))
    batches_an_epoch = len(read_manifest(corpus).select("train")) * (32000 // 4000) // config.batches.num_windows
    assert config.train.num_updates > 2 * batches_an_epoch
    train(config, tmp_path / "run")
    assert len(graphs) == 2


@pytest.mark.parametrize(("num_negatives", "optimiser"), [(0, "adam"), (7, "adamw"), (0, "muon")])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(corpus, tmp_path, monkeypatch, num_negatives, optimiser):
    """Killed after update 7, resumed from the checkpoint of update 5: weights, optimiser, best and metrics agree."""
    config = tiny_config(corpus, criterion=CriterionConfig(num_steps=3, num_negatives=num_negatives))
    config = replace(config, optim=replace(config.optim, name=optimiser))
    whole = train(config, tmp_path / "whole")

    def dies(update, *options):
        if update == 7:
            raise RuntimeError("power cut")
        return learning_rate(update, *options)

    monkeypatch.setattr("cpc.train.loop.learning_rate", dies)
    with pytest.raises(RuntimeError, match="power cut"):
        train(config, tmp_path / "cut")
    monkeypatch.undo()
    assert torch.load(tmp_path / "cut" / "last.pt", weights_only=True)["update"] == 5
    cut = train(config, tmp_path / "cut", resume=True)

    for name in ("last.pt", BEST):
        for x, y in zip(weights(whole, name).values(), weights(cut, name).values(), strict=True):
            assert torch.equal(x, y)
    ours, theirs = (torch.load(run / "last.pt", weights_only=True)["optimisers"] for run in (whole, cut))
    assert len(ours) == (2 if optimiser == "muon" else 1)
    for a, b in zip(ours, theirs, strict=True):
        for i in a["state"]:
            for name, value in a["state"][i].items():
                assert torch.equal(value, b["state"][i][name])
    assert measured(cut) == measured(whole)


def test_a_finished_run_can_be_extended(corpus, tmp_path):
    """With a constant learning rate, it ends where a run of the full length ends, to the bit."""
    config = tiny_config(corpus, optim=OptimConfig(lr=1e-3, warmup_updates=3, schedule="constant"))
    whole = train(config, tmp_path / "whole")
    short = train(replace(config, train=replace(config.train, num_updates=7)), tmp_path / "short")
    with pytest.raises(ConfigError, match=r"train\.num_updates: got 7, but .*short has made 7"):
        resume(short, num_updates=7)
    resume(short, num_updates=12)
    for name, weight in weights(whole).items():
        assert torch.equal(weights(short)[name], weight), name
    assert read_config(short / "config.toml") == read_config(whole / "config.toml")
    assert [line["update"] for line in measured(short) if line["kind"] == "dev"] == [6, 7, 12]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_finishes_the_update_saves_and_can_be_resumed(corpus, tmp_path, monkeypatch, number):
    def interrupts(update, *options):
        if update == 6:
            signal.raise_signal(number)
        return learning_rate(update, *options)

    config = tiny_config(corpus)
    monkeypatch.setattr("cpc.train.loop.learning_rate", interrupts)
    inherited = signal.signal(number, signal.SIG_DFL)  # what started the tests may have had it ignored
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match="stopped after update 7; continue with `cpc train --resume") as stopped:
        train(config, tmp_path / "run")
    assert stopped.value.exit_status == 128 + number
    assert signal.getsignal(number) is before
    signal.signal(number, inherited)
    monkeypatch.undo()
    train(config, tmp_path / "run", resume=True)
    whole = train(config, tmp_path / "whole")
    for x, y in zip(weights(tmp_path / "run").values(), weights(whole).values(), strict=True):
        assert torch.equal(x, y)
    assert measured(tmp_path / "run") == measured(whole)


def test_a_run_stops_when_its_time_is_up_and_can_be_resumed(corpus, tmp_path):
    config, run = tiny_config(corpus), tmp_path / "run"
    with pytest.raises(Stopped, match="stopped after update 1; continue with `cpc train --resume") as stopped:
        train(config, run, max_hours=0)
    assert stopped.value.exit_status == 75
    train(config, run, resume=True, max_hours=1)
    assert measured(run) == measured(train(config, tmp_path / "whole"))


def test_a_signal_that_was_ignored_stays_ignored(corpus, tmp_path, monkeypatch):
    """As `nohup cpc train …` wants it."""
    monkeypatch.setattr(
        "cpc.train.loop.learning_rate", lambda *of: signal.raise_signal(signal.SIGHUP) or learning_rate(*of)
    )
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        train(tiny_config(corpus), tmp_path / "run")
    finally:
        signal.signal(signal.SIGHUP, before)


def test_best_is_the_checkpoint_with_the_lowest_dev_loss(corpus, tmp_path):
    """With a learning rate that ruins the model after a good start, the best weights are early ones."""
    config = tiny_config(
        corpus,
        optim=OptimConfig(lr=0.5),
        train=TrainConfig(num_updates=12, log_every=4, validate_every=1, validate_batches=2, checkpoint_every=50),
    )
    run = train(config, tmp_path / "run")
    dev = [r for r in read_metrics(run / "metrics.jsonl") if r["kind"] == "dev"]
    best, lowest = read_checkpoint(run / BEST)[1], min(dev, key=lambda r: r["loss"])
    assert best["update"] == lowest["update"]
    assert best["best_gain"] == lowest["log_n"] - lowest["loss"]
    assert torch.load(run / "last.pt", weights_only=True)["update"] == 12


def test_training_lowers_the_loss_well_below_log_n(corpus, tmp_path):
    config = tiny_config(
        corpus,
        optim=OptimConfig(lr=3e-3, warmup_updates=5),
        train=TrainConfig(num_updates=250, log_every=50, validate_every=250, validate_batches=2, checkpoint_every=250),
    )
    run = train(config, tmp_path / "run")
    dev = [row for row in read_metrics(run / "metrics.jsonl") if row["kind"] == "dev"][-1]
    assert dev["loss"] < dev["log_n"] - 0.3
    assert dev["win_rate"] > 0.6
    for k in range(3):
        assert dev["bound_k"][k] == pytest.approx(dev["log_n_k"][k] - dev["loss_k"][k])


@pytest.mark.parametrize(
    ("batches", "scheme"),
    [
        (BatchConfig("by_speaker", 4, 2), "same_speaker"),
        (BatchConfig("by_speaker", 4, 2), "same_speaker_excl"),
        (BatchConfig("mixed", 4), "mixed_speaker_excl"),
        (BatchConfig("by_utterance", 4, 2), "current_sequence"),
    ],
)
def test_every_scheme_trains_with_a_composition_that_offers_candidates(tmp_path, batches, scheme):
    corpus = make_corpus(tmp_path / "corpus", speakers=2, utterances=10)  # two utterances a speaker in dev, too
    run = train(tiny_config(corpus, batches=batches, criterion=CriterionConfig(3, scheme=scheme)), tmp_path / "run")
    rows = read_metrics(run / "metrics.jsonl")
    kinds = {"mixed_speaker_excl": "I(x;c)", "same_speaker_excl": "conditional"}
    assert rows[-1]["bound_kind"] == kinds.get(scheme, "none")


def test_padded_windows_train(corpus, tmp_path):
    """Utterances shorter than a window take part under short = "pad"."""
    config = tiny_config(corpus, data=DataConfig(manifest=str(corpus), window_samples=30000, short="pad"))
    rows = read_metrics(train(config, tmp_path / "run") / "metrics.jsonl")
    assert rows[-1]["loss"] < float("inf")


def test_a_run_folder_that_holds_a_run_is_not_overwritten(corpus, tmp_path):
    run = train(tiny_config(corpus), tmp_path / "run")
    before = (run / "last.pt").read_bytes()
    with pytest.raises(TrainingError, match="holds a run already; continue it with `cpc train --resume"):
        train(tiny_config(corpus), run)
    assert (run / "last.pt").read_bytes() == before


def test_a_batch_too_small_for_its_scheme_is_refused(corpus, tmp_path):
    config = tiny_config(
        corpus, batches=BatchConfig(num_windows=1), criterion=CriterionConfig(3, scheme="mixed_speaker_excl")
    )
    with pytest.raises(ValueError, match="mixed_speaker_excl: in a batch of 1 windows"):
        train(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"encoder": EncoderConfig(channels=2**20)}, r"the run needs [\d,]+ GB at least: .* this machine has \d+"),
        ({"batches": BatchConfig(num_windows=2**38)}, r"the run needs [\d,]+ GB at least: .* for a batch"),
        ({"encoder": EncoderConfig(channels=2**40)}, r"encoder.channels: got 1099511627776, expected"),
        ({"criterion": CriterionConfig(num_negatives=2**40)}, r"criterion.num_negatives: got"),
    ],
)
def test_sizes_that_no_machine_has_are_refused_with_the_figure(corpus, tmp_path, change, says):
    with pytest.raises(ConfigError, match=says):
        train(tiny_config(corpus, **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_more_steps_than_frames_are_refused(corpus, tmp_path):
    with pytest.raises(ConfigError, match=r"4000 give 23 frames, expected more than criterion\.num_steps = 40"):
        train(tiny_config(corpus, criterion=CriterionConfig(num_steps=40)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_gradient_that_is_not_finite_stops_the_run_with_a_file_to_reproduce_it(corpus, tmp_path):
    """The file holds the weights before the update, which are finite, and the windows with their utterances."""
    run = tmp_path / "run"
    with pytest.raises(TrainingError) as caught:
        train(tiny_config(corpus, optim=OptimConfig(lr=1e30)), run)
    said = re.search(
        r"the gradient of update (\d+) is not finite, from windows of ([\w, -]+);.* lower --optim.lr", str(caught.value)
    )
    content = torch.load(run / "not_finite.pt", weights_only=True)
    assert content["update"] == int(said[1]) - 1
    (batch,) = content["batches"]
    assert list(dict.fromkeys(batch["utterances"])) == said[2].split(", ")
    assert batch["waveforms"].shape == (4, 4000)
    z, c = cpc.load(run / "not_finite.pt")(batch["waveforms"])
    assert z.shape[:2] == c.shape[:2] == (4, 23)


def spoil(monkeypatch, *updates):
    """Make the loss of some updates NaN."""
    original = loop.score

    def score(parts, encode, batch, seed):
        result = original(parts, encode, batch, seed)
        return {**result, "loss": result["loss"] * (float("nan") if seed in updates and parts.network.training else 1)}

    monkeypatch.setattr("cpc.train.loop.score", score)


def test_updates_without_a_finite_gradient_are_left_out_if_so_asked(corpus, tmp_path, monkeypatch, capsys):
    """Weights stay as they were; the count survives an interruption, and the means leave the update out."""
    times = TrainConfig(
        num_updates=8, log_every=4, validate_every=8, validate_batches=1, checkpoint_every=4, keep_every=1,
        on_not_finite="skip",
    )  # fmt: skip
    spoil(monkeypatch, 6)
    run = train(tiny_config(corpus, train=times), tmp_path / "run")
    fifth, sixth, seventh = (weights(run / "kept", f"{update:07d}.safetensors") for update in (5, 6, 7))
    assert all(torch.equal(fifth[name], sixth[name]) for name in fifth)
    assert any(not torch.equal(sixth[name], seventh[name]) for name in sixth)
    assert read_checkpoint(run / "last.pt")[1]["skipped"] == 1
    assert all(math.isfinite(line["loss"]) for line in read_metrics(run / "metrics.jsonl"))
    assert "the gradient of update 6 is not finite" in capsys.readouterr().err


def test_no_more_than_one_update_in_a_hundred_is_left_out(corpus, tmp_path, monkeypatch):
    times = TrainConfig(num_updates=12, log_every=1, checkpoint_every=2, on_not_finite="skip")
    spoil(monkeypatch, 2, 5)
    with pytest.raises(TrainingError, match=r"update 5 .* and 2 updates were left out, more than 1; .*of update 4,"):
        train(tiny_config(corpus, train=times), tmp_path / "run")
    assert [line["update"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [1, 3, 4]


def test_no_checkpoint_ever_holds_weights_that_are_not_finite(corpus, tmp_path, monkeypatch):
    """Lines are logged every 20 updates, and weights saved every 5: those of update 10 are bad and are not saved."""
    config = tiny_config(corpus, train=TrainConfig(num_updates=30, log_every=20, validate_every=15, checkpoint_every=5))
    run = tmp_path / "run"

    def poisons(update, *options):
        return float("nan") if update == 9 else learning_rate(update, *options)

    monkeypatch.setattr("cpc.train.loop.learning_rate", poisons)
    with pytest.raises(
        TrainingError, match=r"weight .* is not finite after update 10; .*; last.pt is of update 5, when"
    ):
        train(config, run)
    assert all(weight.isfinite().all() for weight in weights(run).values())
    assert not (run / BEST).exists()


def test_weights_that_are_not_finite_make_no_frames(corpus, tmp_path):
    run = train(tiny_config(corpus), tmp_path / "run")
    with tampered(run / BEST) as payload:
        payload["model"]["W.weight"][0, 0] = float("inf")
    with pytest.raises(CheckpointError, match=r"best.safetensors: W.weight: holds NaN or infinity"):
        cpc.load(run)


def test_a_run_stuck_at_log_n_says_so(corpus, tmp_path, capsys):
    config = tiny_config(
        corpus,
        optim=OptimConfig(lr=1e-12),
        train=TrainConfig(num_updates=204, log_every=4, validate_every=500, validate_batches=1, checkpoint_every=500),
    )
    train(config, tmp_path / "run")
    assert capsys.readouterr().err.count("is still that of a guess") == 1


def test_load_gives_the_trained_model(corpus, tmp_path):
    """The README's ten lines: waveforms in, z and c out, from weights alone."""
    run = train(tiny_config(corpus), tmp_path / "run")
    model = cpc.load(run)
    z, c = model(torch.randn(2, 16000))
    assert z.shape == (2, model.g_enc.geometry.num_frames(16000), 16)
    assert c.shape == (2, z.shape[1], 8)
    assert model.sample_rate == 16000
    assert not model.training
    last = cpc.load(run, "last")
    assert all(torch.equal(a, b) for a, b in zip(last.state_dict().values(), weights(run).values(), strict=True))


def test_the_best_weights_are_safetensors_with_the_configuration_in_their_header(corpus, tmp_path):
    """So other tools read them without cpc."""
    config = tiny_config(corpus)
    run = train(config, tmp_path / "run")
    theirs, ours = load_file(run / BEST), cpc.load(run).state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    with safe_open(run / BEST, framework="pt") as f:
        header = json.loads(f.metadata()["cpc"])
    assert config_from_dict(header["config"], where="header") == config


def test_weights_of_an_earlier_version_are_read_until_there_are_better_ones(corpus, tmp_path):
    """It wrote best.pt; a run that goes on with this version writes safetensors beside it."""
    config = tiny_config(corpus)
    model = build_model(config)
    save_checkpoint(tmp_path / "best.pt", config, model)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), cpc.load(tmp_path).parameters(), strict=True))
    better = build_model(config)
    save_weights(tmp_path / BEST, config, better)
    assert all(torch.equal(a, b) for a, b in zip(better.parameters(), cpc.load(tmp_path).parameters(), strict=True))


def test_safetensors_of_another_tool_are_refused(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"other.safetensors: not a checkpoint of cpc"):
        cpc.load(tmp_path / "other.safetensors")


def test_nothing_in_a_checkpoint_can_execute(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"format": 1, "config": {}, "model": Evil()}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        read_checkpoint(tmp_path / "last.pt")


def test_a_checkpoint_of_another_architecture_is_refused_naming_the_weight(corpus, tmp_path):
    run = train(tiny_config(corpus), tmp_path / "run")
    with tampered(run / BEST) as payload:
        payload["config"]["encoder"]["channels"] = 32
    with pytest.raises(
        CheckpointError,
        match=r"another architecture: g_enc.convs.0.weight: got \(10, 16\), expected \(10, 32\)",
    ):
        cpc.load(run)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_a_damaged_checkpoint_is_one_clear_error(corpus, tmp_path, content):
    run = train(tiny_config(corpus), tmp_path / "run")
    whole = (run / BEST).read_bytes()
    (run / BEST).write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(CheckpointError, match=r"best\.safetensors: cannot be read as weights"):
        cpc.load(run)


def test_a_full_disk_leaves_the_last_checkpoint_whole(corpus, tmp_path):
    """With the size of files limited, saving fails with the file's name and the old checkpoint still loads."""
    run = train(tiny_config(corpus), tmp_path / "run")
    before = (run / "last.pt").read_bytes()
    program = f"""
import resource, signal, sys
from pathlib import Path
import torch
from cpc.runs import build_model, read_checkpoint, save_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
c, _ = read_checkpoint(Path({str(run / "last.pt")!r}))
m = build_model(c)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    save_checkpoint(Path({str(run / "last.pt")!r}), c, m)
except OSError as error:
    print(type(error).__name__, error.strerror)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "File too large" in done.stdout
    assert (run / "last.pt").read_bytes() == before
    assert sorted(p.name for p in run.iterdir()) == [
        "best.safetensors",
        "config.toml",
        "last.pt",
        "metrics.jsonl",
        "previous.pt",
    ]


def test_metrics_lines_are_json_with_what_the_report_needs(corpus, tmp_path):
    run = train(tiny_config(corpus), tmp_path / "run")
    start, *rows = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    where = {"kind": "start", "update": 0, "processes": 1, "threads": 1, "device": "cpu"}
    assert {key: start[key] for key in where} == where
    assert start["versions"]["torch"] == torch.__version__
    assert [(r["kind"], r["update"]) for r in rows] == [
        ("train", 4), ("dev", 6), ("train", 8), ("train", 12), ("dev", 12)
    ]  # fmt: skip
    for row in rows:
        assert row.keys() >= {
            "loss",
            "accuracy",
            "win_rate",
            "log_n",
            "loss_k",
            "accuracy_k",
            "win_rate_k",
            "bound_k",
            "bound_kind",
            "seconds",
        }
        assert len(row["loss_k"]) == 3


def test_an_absent_device_is_refused_and_auto_finds_one():
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("cuda:99", "gpu"):
        with pytest.raises(ConfigError, match=f"device: got '{name}', available here: auto, .*cpu"):
            resolve_device(name)
    assert resolve_precision("bf16", torch.device("cpu")) == "bf16"


def test_bf16_autocast_trains_and_keeps_scores_in_float32(corpus, tmp_path):
    run = train(replace(tiny_config(corpus), precision="bf16"), tmp_path / "run")
    rows = read_metrics(run / "metrics.jsonl")
    assert abs(rows[-1]["loss"] - rows[-1]["log_n"]) < 1
    assert all(w.dtype == torch.float32 for w in weights(run).values())


def test_defaults_are_the_papers_numbers():
    c = Config()
    assert (c.encoder.channels, c.encoder.strides, c.autoregressor.hidden) == (512, (5, 4, 2, 2, 2), 256)
    assert (c.data.window_samples, c.audio.sample_rate, c.criterion.num_steps) == (20480, 16000, 12)
    assert (c.optim.name, c.optim.lr, c.batches.num_windows, c.train.num_updates) == (
        "adam",
        2e-4,
        64,
        300_000,
    )


def test_profile_accounts_for_the_update_and_writes_a_trace(corpus, tmp_path, capsys, monkeypatch):
    """The stages add up to what the clock says, dev passes apart, and results do not change."""
    import json
    import re
    import time

    config = tiny_config(corpus)
    config = replace(config, train=replace(config.train, num_updates=30, validate_every=7))
    clock, validating = {}, 0.0
    next_update, pause, go_on = Profile.next_update, Profile.pause, Profile.go_on

    def noting(self):
        clock[self.update] = time.perf_counter()
        return next_update(self)

    def pausing(self):
        pause(self)
        clock["pause"] = time.perf_counter()

    def going_on(self):
        nonlocal validating
        if 5 < self.update <= 25:
            validating += time.perf_counter() - clock["pause"]
        go_on(self)

    monkeypatch.setattr(Profile, "next_update", noting)
    monkeypatch.setattr(Profile, "pause", pausing)
    monkeypatch.setattr(Profile, "go_on", going_on)
    profiled = train(config, tmp_path / "profiled", profile=True)
    printed = capsys.readouterr().err
    for stage in ("data", "encoder", "autoregressor", "predictor", "criterion", "optimiser"):
        assert re.search(rf"^{stage} +\d+\.\d ms", printed, re.M)
    (mean,) = re.findall(r"profile: ([\d.]+) ms an update", printed)
    elapsed = clock[25] - clock[5] - validating  # from one fetched batch to another, 20 updates later
    assert 20 * float(mean) / 1e3 == pytest.approx(elapsed, rel=0.3)
    assert json.loads((profiled / "trace.json").read_text())["traceEvents"]
    plain = train(config, tmp_path / "plain")
    for x, y in zip(weights(profiled).values(), weights(plain).values(), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("stopped_at", [0, 1, 4])
def test_a_run_stopped_before_its_first_checkpoint_starts_anew(corpus, tmp_path, monkeypatch, stopped_at):
    config = tiny_config(corpus, train=TrainConfig(num_updates=6, log_every=1, checkpoint_every=5))
    run = tmp_path / "run"

    def dies(update, *options):
        if update == stopped_at:
            raise RuntimeError("power cut")
        return learning_rate(update, *options)

    monkeypatch.setattr("cpc.train.loop.learning_rate", dies)
    with pytest.raises(RuntimeError, match="power cut"):
        train(config, run)
    monkeypatch.undo()
    assert not (run / "last.pt").exists()
    whole = train(config, tmp_path / "whole")
    train(config, run)
    assert all(torch.equal(x, y) for x, y in zip(weights(run).values(), weights(whole).values(), strict=True))
    assert len(read_metrics(run / "metrics.jsonl")) == len(read_metrics(whole / "metrics.jsonl"))


@pytest.mark.parametrize("missing", [["last.pt"], ["last.pt", "metrics.jsonl"], ["last.pt", "config.toml"]])
def test_what_is_left_of_a_run_without_its_last_checkpoint_is_not_overwritten(corpus, tmp_path, missing):
    """Whoever removed last.pt to save room keeps the weights and the metrics."""
    run, config = tmp_path / "run", tiny_config(corpus)
    train(config, run)
    for name in ("previous.pt", *missing):
        (run / name).unlink()
    kept = {path.name: path.read_bytes() for path in run.iterdir()}
    for start in (train, complete):
        with pytest.raises(
            TrainingError, match=r"best.safetensors.* without last.pt; pass another --out, or remove them"
        ):
            start(config, run)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == kept


def test_a_first_checkpoint_that_failed_is_begun_anew_but_a_finished_run_is_not(corpus, tmp_path):
    """The line of its update is in metrics.jsonl by then, as after a disk that was full."""
    for num_updates in (5, 4):
        run, times = tmp_path / str(num_updates), TrainConfig(num_updates, log_every=1, checkpoint_every=4)
        train(tiny_config(corpus, train=times), run)
        for name in ("last.pt", "previous.pt"):
            (run / name).unlink(missing_ok=True)
        lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
        (run / "metrics.jsonl").write_text("".join(lines[:5]))  # the start, and four updates
        if num_updates == 5:
            train(tiny_config(corpus, train=times), run)
        else:
            with pytest.raises(TrainingError, match=r"best.safetensors.* without last.pt; pass another --out"):
                train(tiny_config(corpus, train=times), run)


def test_a_configuration_of_ones_own_in_the_folder_is_not_overwritten(corpus, tmp_path):
    (tmp_path / "config.toml").write_text("seed = 3\n")
    with pytest.raises(TrainingError, match=r"holds config.toml without last.pt; pass another --out, or remove it"):
        train(tiny_config(corpus), tmp_path)
    assert (tmp_path / "config.toml").read_text() == "seed = 3\n"


@pytest.mark.parametrize("damage", ["cut short", "a flipped bit", "missing"])
def test_a_damaged_last_checkpoint_is_set_aside_and_the_one_before_it_is_used(corpus, tmp_path, capsys, damage):
    config, run = tiny_config(corpus), tmp_path / "run"
    with pytest.raises(Stopped):
        train(config, run, max_hours=0)  # update 1
    with pytest.raises(Stopped):
        train(config, run, resume=True, max_hours=0)  # update 2
    last = run / "last.pt"
    whole = last.read_bytes()
    if damage == "cut short":
        last.write_bytes(whole[: len(whole) // 2])
    elif damage == "a flipped bit":
        last.write_bytes(flip_a_bit(whole, torch.load(last, weights_only=True)["model"]["W.weight"]))
    else:
        last.unlink()
    complete(config, run)
    assert "continuing from the checkpoint before it, of update 1" in capsys.readouterr().err
    assert (run / "last.pt.damaged").exists() == (damage != "missing")
    assert measured(run) == measured(train(config, tmp_path / "whole"))


def flip_a_bit(data: bytes, weight: torch.Tensor) -> bytes:
    """Flip the lowest bit of a weight's first number, where a file holds it."""
    place = data.index(weight.numpy().tobytes())
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def test_no_flipped_bit_of_a_weight_passes_unseen(corpus, tmp_path):
    run = train(tiny_config(corpus), tmp_path / "run")
    whole = (run / BEST).read_bytes()
    (run / BEST).write_bytes(flip_a_bit(whole, weights(run, BEST)["g_ar.rnn.weight_hh_l0"]))
    with pytest.raises(CheckpointError, match=r"best.safetensors: damaged, its content does not have its checksum"):
        cpc.load(run)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda of: of.update(config=[1]), "its config or its model is no table"),
        (lambda of: of.update(model=3), "its config or its model is no table"),
        (lambda of: of["model"].update({"W.weight": 1.0}), "the weight W.weight is no plain tensor"),
        (
            lambda of: of["model"].update({"W.weight": torch.eye(3).to_sparse()}),
            "the weight W.weight is no plain tensor",
        ),
        (lambda of: of.pop("update"), "its state cannot be restored: KeyError: 'update'"),
        (lambda of: of.update(seconds="long"), "its state cannot be restored: ValueError"),
        (lambda of: of.update(optimisers=[]), "its state cannot be restored: ValueError"),
        (lambda of: of.update(optimisers=3), "its state cannot be restored: TypeError"),
        (lambda of: of.update(objective=[3]), "its state cannot be restored: TypeError"),
        (lambda of: of.update(running=[]), "its state cannot be restored: TypeError"),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_a_checkpoint_that_was_tampered_with_is_one_clear_error(corpus, tmp_path, change, says):
    config = tiny_config(corpus, train=TrainConfig(num_updates=2, checkpoint_every=1))
    run = train(config, tmp_path / "run")
    with tampered(run / "last.pt") as payload:
        change(payload)
    with pytest.raises(CheckpointError, match=f"last.pt: .*{says}"):
        train(config, run, resume=True)


def test_a_damaged_last_checkpoint_without_one_before_it_names_the_way_out(corpus, tmp_path):
    run = train(tiny_config(corpus), tmp_path / "run")
    (run / "previous.pt").unlink()
    (run / "last.pt").write_bytes(b"no checkpoint")
    for start in (complete, lambda config, run: resume(run)):
        with pytest.raises(CheckpointError, match=r"there is no checkpoint before it, so remove .* or pass another"):
            start(tiny_config(corpus), run)


def test_a_checkpoint_of_an_earlier_version_is_told(corpus, tmp_path):
    run = train(tiny_config(corpus), tmp_path / "run")
    with tampered(run / "last.pt") as payload:
        payload["optimiser"] = payload.pop("optimisers")
    with pytest.raises(CheckpointError, match=r"last.pt: written by an earlier version, cannot be continued"):
        train(tiny_config(corpus), run, resume=True)


def test_kept_checkpoints_are_the_weights_of_their_update(corpus, tmp_path):
    config = tiny_config(corpus)
    run = train(replace(config, train=replace(config.train, keep_every=5)), tmp_path / "run")
    assert [path.name for path in sorted((run / "kept").iterdir())] == ["0000005.safetensors", "0000010.safetensors"]
    short = replace(config, train=replace(config.train, num_updates=12, checkpoint_every=5, keep_every=10))
    other = train(short, tmp_path / "other")
    last, kept, again = weights(run), *(weights(one / "kept", "0000010.safetensors") for one in (run, other))
    for x, y in zip(kept.values(), again.values(), strict=True):
        assert torch.equal(x, y)
    assert any(not torch.equal(x, y) for x, y in zip(last.values(), kept.values(), strict=True))


def test_the_best_of_a_checkpoint_without_a_gain_is_looked_up_in_the_metrics(corpus, tmp_path):
    """Older checkpoints hold `best_loss`; a run that resumes from one must not take a worse model for the best."""
    config = tiny_config(corpus)
    run = train(replace(config, train=replace(config.train, num_updates=6)), tmp_path / "run")
    with tampered(run / "last.pt") as payload:
        expected = payload.pop("best_gain")
        payload["best_loss"], payload["config"]["train"]["num_updates"] = 1.0, 12
    dev = [row for row in read_metrics(run / "metrics.jsonl") if row["kind"] == "dev"]
    assert expected == max(row["log_n"] - row["loss"] for row in dev)
    train(config, run, resume=True)
    best = read_checkpoint(run / BEST)[1]
    assert best["best_gain"] >= expected


def test_seeds_beyond_32_bits_train(corpus, tmp_path):
    """The seed of drawn negatives is made from the run's seed and the update; it must fit torch's 64 bits."""
    config = tiny_config(corpus, seed=2**40 + 1, criterion=CriterionConfig(num_steps=3, num_negatives=4))
    run = train(config, tmp_path / "run")
    assert read_metrics(run / "metrics.jsonl")[-1]["update"] == 12


def test_completing_a_run_with_other_settings_names_what_differs(corpus, tmp_path):
    run = complete(tiny_config(corpus), tmp_path / "run")
    other = tiny_config(corpus, optim=OptimConfig(lr=0.5))
    with pytest.raises(ConfigError, match=r"holds a run with other settings: optim\.lr was 0\.001, is 0\.5"):
        complete(other, run)


def test_a_log_mel_front_end_trains_and_its_run_loads(corpus, tmp_path):
    """Another g_enc is a file of its own, a name in the configuration and a line in build_model."""
    encoder = EncoderConfig(kind="logmel", channels=16)
    for name in ("adam", "muon"):
        optim = OptimConfig(name=name, lr=1e-3)
        run = train(tiny_config(corpus, encoder=encoder, optim=optim), tmp_path / name)
        model = cpc.load(run)
        z, c = model(torch.randn(2, 4000))
        assert z.shape == (2, 23, 16)
        assert c.shape == (2, 23, 8)
