"""Objectives beside CPC: what they compute, which frames take part, exact resumption, errors in one line."""

import math
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from cpc.config import BatchConfig, ConfigError, DataConfig, LossConfig, OptimConfig, TrainConfig, check_config
from cpc.data import collate, read_manifest
from cpc.devices import Threads
from cpc.features import extract_features, extractor_of_run, open_features
from cpc.labels import FrameGrid, Targets, TargetsError, num_labels, read_labels
from cpc.model import Geometry
from cpc.runs import append_metrics, build_model, load, read_checkpoint, read_metrics
from cpc.train import train
from cpc.train.distributed import Ranks
from cpc.train.objectives import Views, _pairs
from cpc.train.setup import build_data, build_parts
from tests.conftest import make_corpus, tiny_config

PAIRS = BatchConfig(kind="by_utterance", num_windows=4, windows_per_group=2)
NAMES = ["supervised", "nt_xent", "clip", "moco", "sup_con"]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A corpus whose utterances have a label every 10 ms: 10 · (its number of 0.1 s), but for one that has none."""
    root = tmp_path_factory.mktemp("labelled")
    manifest = read_manifest(make_corpus(root))
    lines = []
    unlabelled = manifest.select("train").utterances[1]
    for name, n in zip(manifest.utterances, manifest.num_samples, strict=True):
        if name != unlabelled:
            lines.append(" ".join([name, *(str(i // 10) for i in range(num_labels(n)))]))
    (root / "labels.txt").write_text("\n".join(lines) + "\n")
    return root


def config_of(name, labelled, **changes):
    target = "phone" if name in ("supervised", "sup_con") else "speaker"
    loss = LossConfig(name=name, target=target, labels=str(labelled / "labels.txt"), queue_length=10)
    return tiny_config(labelled / "manifest.csv", **{"loss": loss, "batches": PAIRS, **changes})


def views_of(labelled, loss, *, window_samples=4000, short="skip", rows=6):
    """A network, an objective, the training data, and a batch of the train split with random c."""
    torch.manual_seed(0)
    manifest = labelled / "manifest.csv"
    data_config = DataConfig(manifest=str(manifest), window_samples=window_samples, short=short)
    config = tiny_config(manifest, loss=loss, data=data_config, precision="float32")
    network = build_model(config)
    data = build_data(config, network.g_enc.geometry)
    parts = build_parts(config, network, data, torch.device("cpu"), Ranks(), Threads(1))
    batch = collate([data.train[0, i] for i in range(rows)])
    num_frames = [network.g_enc.geometry.num_complete_frames(n) for n in batch.num_samples]
    z, c = network.represent(batch.waveforms)
    return parts, Views(batch.waveforms, z, torch.randn_like(c).requires_grad_(), num_frames, batch, 0)


def loop_classes(labelled, parts, views):
    """Class of each frame, by looking up each frame's own time in the label file."""
    classes, names = parts.data.classes, parts.data.train.manifest.utterances
    labels = read_labels(labelled / "labels.txt")
    geometry = Geometry.of((5, 4, 2, 2, 2), "none")
    expected = np.full(views.c.shape[:2], -1)
    for b, row in enumerate(views.batch.utterance):
        for i in range(views.num_frames[b]):
            time = (views.batch.start[b] + geometry.centre(i)) / 16000
            label = math.floor((time - 0.0125) / 0.010 + 0.5)
            if names[row] in labels and 0 <= label < len(labels[names[row]]):
                expected[b, i] = classes.index(str(labels[names[row]][label]))
    return expected


@pytest.mark.parametrize(("window_samples", "short"), [(4000, "skip"), (24000, "pad")])
def test_supervised_loss_is_the_mean_over_labelled_whole_frames(labelled, window_samples, short):
    loss = LossConfig(name="supervised", target="phone", labels=str(labelled / "labels.txt"))
    parts, views = views_of(labelled, loss, window_samples=window_samples, short=short)
    objective, expected = parts.objective, loop_classes(labelled, parts, views)
    assert (views.batch.targets.numpy() == expected).all()
    assert (expected == -1).any()
    terms, hits = [], []
    for b, i in zip(*np.nonzero(expected != -1), strict=True):
        logits = objective.classifier(views.c[b, i]).double()
        terms.append(-(logits - logits.logsumexp(0))[expected[b, i]].item())
        hits.append(int(logits.argmax()) == expected[b, i])
    result = objective(None, views)
    assert result["loss"].item() == pytest.approx(np.mean(terms), abs=1e-5)
    assert result["accuracy"].item() == pytest.approx(np.mean(hits), abs=1e-6)
    assert result["log_n"].item() == pytest.approx(math.log(len(parts.data.classes)))
    result["loss"].backward()
    assert (views.c.grad.abs().sum(2).numpy() > 0).tolist() == (expected != -1).tolist()


def test_speaker_targets_hold_for_every_whole_frame(labelled):
    loss = LossConfig(name="supervised", target="speaker")
    parts, views = views_of(labelled, loss, window_samples=24000, short="pad")
    speakers = parts.data.train.manifest.speakers
    for b, row in enumerate(views.batch.utterance):
        valid = views.num_frames[b]
        assert set(views.batch.targets[b, :valid].tolist()) == {parts.data.classes.index(speakers[row])}
        assert set(views.batch.targets[b, valid:].tolist()) <= {-1}


def test_pooled_c_is_the_mean_over_whole_frames(labelled):
    _, views = views_of(labelled, LossConfig(), window_samples=24000, short="pad")
    assert min(views.num_frames) < views.c.shape[1]
    for b, n in enumerate(views.num_frames):
        torch.testing.assert_close(views.pooled()[b], views.c[b, :n].mean(0))


def cosines(x, y):
    x, y = x.detach().double().numpy(), y.detach().double().numpy()
    return (x @ y.T) / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(y, axis=1)


def test_clip_picks_the_other_window_of_the_utterance_both_ways(labelled):
    parts, views = views_of(labelled, LossConfig(name="clip", temperature=0.5))
    utterances = list(dict.fromkeys(views.batch.utterance))
    rows = [[r for r, u in enumerate(views.batch.utterance) if u == utterance][:2] for utterance in utterances]
    first, second = zip(*rows, strict=True)
    s = cosines(views.pooled()[list(first)], views.pooled()[list(second)]) / 0.5
    n = len(first)
    both = [
        [-math.log(math.exp(m[i, i]) / sum(math.exp(m[i, j]) for j in range(n))) for i in range(n)] for m in (s, s.T)
    ]
    result = parts.objective(None, views)
    assert result["loss"].item() == pytest.approx(np.mean(both), abs=1e-5)
    assert result["log_n"].item() == pytest.approx(math.log(n))


def test_sup_con_on_phones_compares_the_labelled_frames(labelled):
    loss = LossConfig(name="sup_con", target="phone", labels=str(labelled / "labels.txt"), temperature=0.5)
    parts, views = views_of(labelled, loss)
    expected = loop_classes(labelled, parts, views)
    x, y = views.c[torch.from_numpy(expected != -1)], expected[expected != -1]
    assert len(y) < 1024  # else frames are drawn
    s = cosines(x, x) / 0.5
    terms = []
    for i in range(len(y)):
        others = [j for j in range(len(y)) if j != i]
        total = sum(math.exp(s[i, j]) for j in others)
        positives = [j for j in others if y[j] == y[i]]
        if positives:
            terms.append(np.mean([-math.log(math.exp(s[i, j]) / total) for j in positives]))
    assert parts.objective(None, views)["loss"].item() == pytest.approx(np.mean(terms), abs=1e-4)


def test_moco_has_the_keys_of_the_slow_copy_against_the_queue(labelled):
    parts, views = views_of(labelled, LossConfig(name="moco", temperature=0.5, momentum=0.75))
    network, objective = parts.network, parts.objective
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1)
    before = {name: value.clone() for name, value in objective.keys.state_dict().items()}
    held = torch.randn(5, 8)
    objective.queue.enqueue(held)
    result = objective(network, views)
    for name, value in objective.keys.state_dict().items():
        ours = dict(network.state_dict())[name]
        torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * ours)
    keys = views.pooled(objective.keys["g_ar"](objective.keys["g_enc"](views.waveforms)))
    first, second = _pairs(views.batch.utterance)
    terms = []
    for a, b in ((first, second), (second, first)):
        positive, negative = cosines(views.pooled()[a], keys[b]) / 0.5, cosines(views.pooled()[a], held) / 0.5
        terms += [
            -math.log(math.exp(positive[i, i]) / (math.exp(positive[i, i]) + np.exp(negative[i]).sum()))
            for i in range(len(a))
        ]
    assert result["loss"].item() == pytest.approx(np.mean(terms), abs=1e-5)
    assert len(objective.queue) == 5 + len(views.waveforms)
    objective.eval()(network, views)
    assert len(objective.queue) == 5 + len(views.waveforms)


@pytest.mark.parametrize("name", NAMES)
def test_each_trains_and_its_run_is_probed_like_any_other(name, labelled, tmp_path):
    run = train(config_of(name, labelled), tmp_path / "run")
    lines = read_metrics(run / "metrics.jsonl")
    assert {"loss", "accuracy", "log_n"} <= lines[-1].keys()
    assert all(math.isfinite(line["loss"]) for line in lines)
    torch.manual_seed(0)
    untrained = build_model(config_of(name, labelled)).state_dict()
    trained = load(run, "last").state_dict()
    assert any(not torch.equal(trained[key], untrained[key]) for key in untrained if key.startswith("g_enc"))
    torch.testing.assert_close(trained["W.weight"], untrained["W.weight"], rtol=0, atol=0)
    manifest = read_manifest(labelled / "manifest.csv")
    opened = open_features(extract_features(extractor_of_run(run, "c"), manifest, tmp_path / "c", progress=False))
    assert opened.dim == 8


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_is_bitwise_that_of_an_uninterrupted_one(name, labelled, tmp_path):
    """The classifier, the queue and the slow copy go on from where they were, as the network does."""
    config = config_of(name, labelled)
    whole = train(config, tmp_path / "whole")
    original = append_metrics

    def stop_at_four(path, line):
        original(path, line)
        if line["update"] == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cpc.train.metrics.append_metrics", stop_at_four)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "halved")
    resumed = train(config, tmp_path / "halved", resume=True)
    a, b = (read_checkpoint(run / "last.pt")[1] for run in (whole, resumed))
    for part in ("model", "objective"):
        assert a[part].keys() == b[part].keys()
        for key in a[part]:
            same = a[part][key] == b[part][key]  # a tensor, or the names of classes
            assert bool(torch.as_tensor(same).all()), key


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (LossConfig(name="supervised", target="phone"), r"loss.labels: got none, a phone target needs labels"),
        (LossConfig(name="supervised", target="colour"), r"loss.target: got 'colour', allowed: phone, or a column"),
        (LossConfig(name="sup_con", target="utterance"), r"values of utterance in dev \(e.g. .*\) are not in train"),
        (LossConfig(name="supervised", target="sample_rate"), r"sample_rate has only one class in train"),
    ],
)
def test_targets_that_cannot_work_are_one_line_before_anything_is_written(labelled, tmp_path, loss, says):
    with pytest.raises((ConfigError, TargetsError), match=says):
        train(tiny_config(labelled / "manifest.csv", loss=loss), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["nt_xent", "clip", "moco"])
def test_windows_of_one_utterance_are_asked_for(labelled, name):
    config = tiny_config(labelled / "manifest.csv", loss=LossConfig(name=name))
    with pytest.raises(ConfigError, match=r'set batches.kind = "by_utterance" and batches.windows_per_group = 2'):
        check_config(config)
    check_config(replace(config, batches=PAIRS))
    with pytest.raises(ConfigError, match=r"loss.temperature: got 0"):
        check_config(replace(config, batches=PAIRS, loss=LossConfig(name=name, temperature=0)))


def test_a_phone_that_train_lacks_takes_no_part(labelled):
    loss = LossConfig(name="supervised", target="phone", labels=str(labelled / "labels.txt"))
    parts, views = views_of(labelled, loss)
    train_manifest, dev_manifest = parts.data.train.manifest, parts.data.dev.manifest
    grid = FrameGrid(16000, 160, 232.0, 23, lambda num_samples: 23)
    targets = Targets("phone", loss.labels, train_manifest, dev_manifest, grid)
    row, start = next(
        (row, start) for row, start in zip(views.batch.utterance, views.batch.start, strict=True)
        if (targets.in_split(train_manifest)(row, start, 4000) >= 0).all()
    )  # fmt: skip
    before = targets.in_split(train_manifest)(row, start, 4000)
    gone = targets._index.pop(targets.classes[before[0]])
    after = targets.in_split(train_manifest)(row, start, 4000)
    assert (after[before == gone] == -1).all()
    assert (after[before != gone] == before[before != gone]).all()


def test_a_run_does_not_continue_with_other_classes(labelled):
    """The same number of classes with other names would silently be taken for each other."""
    parts, _ = views_of(labelled, LossConfig(name="supervised", target="speaker"))
    state = parts.objective.state_dict()
    parts.objective.classes = parts.objective.classes[::-1]
    with pytest.raises(ConfigError, match=r"the checkpoint has 1, 2, 3"):
        parts.objective.load_state_dict(state)


def test_utterances_without_labels_are_noted(labelled):
    loss = LossConfig(name="supervised", target="phone", labels=str(labelled / "labels.txt"))
    parts, _ = views_of(labelled, loss)
    missing = parts.data.train.manifest.utterances[1]
    assert parts.data.notes[0] == f"train: 1 utterances have no labels, their frames take no part: {missing}"


def test_a_batch_of_unlabelled_windows_has_loss_0(labelled):
    loss = LossConfig(name="supervised", target="phone", labels=str(labelled / "labels.txt"))
    parts, views = views_of(labelled, loss)
    views.batch.targets.fill_(-1)
    assert parts.objective(None, views)["loss"].item() == 0


def test_mocos_best_model_is_judged_against_the_queue_it_had(labelled, tmp_path):
    """While the queue fills, log N and with it the dev loss grow: the lowest loss would always be the first one."""
    loss = LossConfig(name="moco", queue_length=64, temperature=0.5)
    optim, steps = OptimConfig(lr=3e-3), TrainConfig(num_updates=30, validate_every=5, validate_batches=1)
    run = train(config_of("moco", labelled, loss=loss, optim=optim, train=steps), tmp_path / "run")
    dev = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "dev"]
    assert dev[0]["log_n"] < dev[-1]["log_n"]
    assert min(dev, key=lambda line: line["loss"]) is dev[0]
    best = max(dev, key=lambda line: line["log_n"] - line["loss"])
    assert best is not dev[0]
    assert read_checkpoint(run / "best.safetensors")[1]["update"] == best["update"]
