"""CPC's objective: several sets of negatives, weights of steps, both directions of time, regularisation."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from cpc.config import (
    AugmentConfig,
    AutoregressorConfig,
    BatchConfig,
    ConfigError,
    CriterionConfig,
    DataConfig,
    LossConfig,
    NegativeSet,
    RegulariseConfig,
    check_config,
    config_identity,
    read_config,
    write_config,
)
from cpc.data import Batch, read_manifest
from cpc.features import CPCExtractor, extract_features, extractor_of_run, open_features
from cpc.labels import num_labels
from cpc.runs import build_model, read_metrics
from cpc.train import train
from cpc.train.predictive import Predictive
from cpc.train.regularise import drop, left_or_right, self_expression
from cpc.train.views import Views
from tests import reference
from tests.conftest import tiny_config

SPEAKER, UTTERANCE, FRAMES, START = [0, 0, 1, 1], [0, 1, 2, 2], [9, 9, 9, 6], [0, 0, 0, 2080]
K, HOP = 3, 160
TWO = CriterionConfig(
    num_steps=K,
    scheme="sets",
    negatives=(NegativeSet("current_sequence", weight=3.0), NegativeSet("mixed_speaker_excl", steps=(1, 3))),
)


def network_of(criterion, directions="forward"):
    torch.manual_seed(0)
    config = replace(
        tiny_config("unused.csv", criterion=criterion),
        autoregressor=AutoregressorConfig(hidden=8, directions=directions),
    )
    return build_model(config)


def views_of(network, targets=None, **columns):
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(4, 9, 16, generator=generator)
    batch = Batch(torch.zeros(4, 1), [0] * 4, SPEAKER, UTTERANCE, START, columns, targets)
    return Views(batch.waveforms, z, network.g_ar(z, FRAMES).detach(), FRAMES, batch, seed=5)


def objective_of(criterion, **regularise):
    return Predictive(criterion, RegulariseConfig(**regularise), HOP)


def oracle(network, views, scheme, steps, z=None, predictions=None):
    """The losses of one set by loops, at some steps."""
    z = views.z if z is None else z
    predictions = network.predict(views.c) if predictions is None else predictions
    losses = reference.infonce(z, predictions, scheme, SPEAKER, UTTERANCE, FRAMES)[0]
    return [losses[k - 1].item() for k in steps]


def test_the_loss_is_the_weighted_mean_over_sets_and_each_set_is_logged_apart():
    network = network_of(TWO)
    views = views_of(network)
    result = objective_of(TWO)(network, views)
    own = oracle(network, views, "current_sequence", (1, 2, 3))
    others = oracle(network, views, "mixed_speaker_excl", (1, 3))
    assert result["loss"].item() == pytest.approx(0.75 * sum(own) / 3 + 0.25 * sum(others) / 2, abs=1e-5)
    assert result["current_sequence/loss_k"].tolist() == pytest.approx(own, abs=1e-5)
    assert result["mixed_speaker_excl/loss_k"].tolist() == pytest.approx(others, abs=1e-5)
    at_each_step = [0.75 * own[0] + 0.25 * others[0], own[1], 0.75 * own[2] + 0.25 * others[1]]
    assert result["loss_k"].tolist() == pytest.approx(at_each_step, abs=1e-5)


def test_a_step_that_no_set_scores_is_not_predicted():
    """What is logged by step has an element for each step that is; a guess's loss is weighed as the loss is."""
    one = NegativeSet("current_sequence", weight=3.0, steps=(3, 1))
    criterion = replace(TWO, negatives=(one, NegativeSet("mixed_speaker_excl", steps=(3,))))
    assert criterion.steps == (1, 3)
    network = network_of(criterion)
    views = views_of(network)
    predictions = network.predict(views.c)
    assert len(predictions) == 2
    result = objective_of(criterion)(network, views)
    at_all_steps = torch.stack([predictions[0], torch.zeros_like(predictions[0]), predictions[1]])
    own = oracle(network, views, "current_sequence", (1, 3), predictions=at_all_steps)
    (other,) = oracle(network, views, "mixed_speaker_excl", (3,), predictions=at_all_steps)
    assert result["loss_k"].tolist() == pytest.approx([own[0], 0.75 * own[1] + 0.25 * other], abs=1e-5)
    assert result["loss"].item() == pytest.approx(0.75 * sum(own) / 2 + 0.25 * other, abs=1e-5)
    log_n = [result[f"{name}/log_n_k"].mean().item() for name in ("current_sequence", "mixed_speaker_excl")]
    assert result["log_n"].item() == pytest.approx(0.75 * log_n[0] + 0.25 * log_n[1], abs=1e-6)


def test_step_weights_weigh_the_steps_of_the_loss_alone():
    criterion = CriterionConfig(num_steps=K, step_weights=(1.0, 0.0, 3.0))
    network = network_of(criterion)
    views = views_of(network)
    result = objective_of(criterion)(network, views)
    losses = oracle(network, views, "mixed_speaker", (1, 2, 3))
    assert result["loss"].item() == pytest.approx((losses[0] + 3 * losses[2]) / 4, abs=1e-5)
    assert result["loss_k"].tolist() == pytest.approx(losses, abs=1e-5)


def test_without_weights_the_loss_is_the_plain_mean_over_steps():
    criterion = CriterionConfig(num_steps=K)
    network = network_of(criterion)
    result = objective_of(criterion)(network, views_of(network))
    assert result["loss"].item() == pytest.approx(result["loss_k"].mean().item(), abs=1e-7)
    assert not [key for key in result if "/" in key]


@pytest.mark.parametrize("scheme", ["current_sequence", "mixed_speaker_excl"])
def test_reading_backwards_is_the_same_task_with_time_reversed(scheme):
    """The loss is the mean of both directions; the second one by loops over windows reversed by hand, padding apart."""
    criterion = CriterionConfig(num_steps=K, scheme=scheme)
    network = network_of(criterion, "both")
    views = views_of(network)
    z_back, c_back = torch.zeros_like(views.z), torch.zeros_like(views.c)
    for b, n in enumerate(FRAMES):
        for t in range(n):
            z_back[b, t], c_back[b, t] = views.z[b, n - 1 - t], views.c[b, n - 1 - t]
    predictions = network.W_back(c_back[..., 8:] / network.tau)
    ahead = oracle(network, views, scheme, (1, 2, 3), predictions=network.W(views.c[..., :8] / network.tau))
    back = oracle(network, views, scheme, (1, 2, 3), z=z_back, predictions=predictions)
    result = objective_of(criterion)(network, views)
    assert result["loss_k"].tolist() == pytest.approx([(a + b) / 2 for a, b in zip(ahead, back, strict=True)], abs=1e-5)


def test_distances_count_down_in_windows_that_are_read_backwards():
    """Both directions leave out as many neighbours: N is the same as by counting."""
    negative_set = NegativeSet("current_sequence", min_distance=2)
    counts = {}
    for directions in ("forward", "both"):
        criterion = CriterionConfig(num_steps=K, scheme="sets", negatives=(negative_set,))
        network = network_of(criterion, directions)
        counts[directions] = objective_of(criterion)(network, views_of(network))["log_n_k"]
    rule_columns = {"speaker": SPEAKER, "utterance": UTTERANCE}
    rule = objective_rule(negative_set)
    first = [s / HOP for s in START]
    for directions, sides in (("forward", (first,)), ("both", (first, backwards(first)))):
        for k in range(1, K + 1):
            logs = [
                math.log(1 + len(reference.negatives_of_rule(rule, rule_columns, FRAMES, side, b, t, k)))
                for side in sides
                for b in range(4)
                for t in range(FRAMES[b] - k)
            ]
            assert counts[directions][k - 1].item() == pytest.approx(sum(logs) / len(logs), abs=1e-5)


def objective_rule(negative_set):
    from cpc.infonce import Rule

    return Rule.of(negative_set)


def backwards(first):
    return [-(position + n - 1) for position, n in zip(first, FRAMES, strict=True)]


@pytest.mark.parametrize("directions", ["forward", "both"])
def test_false_negatives_are_logged_where_labels_are_known(directions):
    criterion = CriterionConfig(num_steps=K, scheme="current_sequence")
    network = network_of(criterion, directions)
    same = objective_of(criterion)(network, views_of(network, torch.zeros(4, 9, dtype=torch.int64)))
    apart = objective_of(criterion)(network, views_of(network, torch.arange(36).view(4, 9)))
    assert same["false_negatives_k"].tolist() == [1, 1, 1]
    assert apart["false_negatives_k"].tolist() == [0, 0, 0]
    assert torch.equal(same["loss"], apart["loss"])
    assert "false_negatives_k" not in objective_of(criterion)(network, views_of(network))


def test_a_rule_goes_by_any_column_of_the_manifest():
    criterion = CriterionConfig(num_steps=K, scheme="sets", negatives=(NegativeSet(different=("room",)),))
    network = network_of(criterion)
    result = objective_of(criterion)(network, views_of(network, room=[0, 1, 0, 0]))
    # Windows 0, 2 and 3 have the 9 frames of window 1 as negatives, and window 1 has their 24.
    expected = [(9 - k + 9 - k + 6 - k) * math.log(1 + 9) + (9 - k) * math.log(1 + 24) for k in (1, 2, 3)]
    anchors = [33 - 4 * k for k in (1, 2, 3)]
    assert result["log_n_k"].tolist() == pytest.approx(
        [e / n for e, n in zip(expected, anchors, strict=True)], abs=1e-5
    )


# --- regularisation


def test_dropout_keeps_the_mean_drops_its_share_and_repeats_with_the_seed():
    x = torch.ones(200, 500)
    dropped = drop(x, 0.3, seed=1)
    assert dropped.unique().tolist() == [0.0, pytest.approx(1 / 0.7)]
    assert (dropped == 0).float().mean() == pytest.approx(0.3, abs=0.01)
    assert torch.equal(dropped, drop(x, 0.3, seed=1))
    assert not torch.equal(dropped, drop(x, 0.3, seed=2))
    assert drop(x, 0.0, seed=1) is x


def test_left_or_right_is_0_where_each_frame_has_a_twin_beside_it():
    generator = torch.Generator().manual_seed(0)
    twins = torch.randn(2, 4, 5, generator=generator).repeat_interleave(2, 1)
    assert left_or_right(twins, [8, 8]).item() == pytest.approx(0, abs=1e-6)
    assert left_or_right(twins[:, :7], [7, 7]) > 0.01  # the last frame has lost its twin


@pytest.mark.parametrize("term", [left_or_right, self_expression])
def test_the_loss_terms_equal_loops_and_ignore_padding(term):
    z = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    frames = [5, 3]

    def apart(x, y):
        return 1 - float(F.cosine_similarity(x, y, dim=0))

    total = 0.0
    for b, n in enumerate(frames):
        for t in range(n):
            if term is left_or_right:
                total += min(apart(z[b, t], z[b, s]) for s in (t - 1, t + 1) if 0 <= s < n)
            else:
                unit = [z[b, s] / z[b, s].norm() for s in range(n)]
                mixture = sum(max(0.0, float(unit[t] @ unit[s])) * unit[s] for s in range(n) if s != t)
                total += apart(unit[t], mixture) if float(mixture.norm()) > 1e-6 else 1.0
    assert term(z, frames).item() == pytest.approx(total / 8, abs=1e-5)
    z[1, 3:] = 1e3
    assert term(z, frames).item() == pytest.approx(total / 8, abs=1e-5)


def test_the_loss_terms_are_added_with_their_weights_and_logged():
    criterion = CriterionConfig(num_steps=K)
    network = network_of(criterion)
    views = views_of(network)
    plain = objective_of(criterion)(network, views)
    result = objective_of(criterion, left_or_right=2.0, self_expression=0.5)(network, views)
    added = 2 * result["left_or_right"] + 0.5 * result["self_expression"]
    assert result["loss"].item() == pytest.approx((plain["loss"] + added).item(), abs=1e-6)


def test_dropout_is_off_in_validation():
    criterion = CriterionConfig(num_steps=K)
    network = network_of(criterion)
    views, objective = views_of(network), objective_of(criterion, dropout_c=0.5)
    training, validating = objective.train()(network, views), objective.eval()(network, views)
    assert torch.equal(validating["loss"], objective_of(criterion)(network, views)["loss"])
    assert not torch.equal(training["loss"], validating["loss"])


# --- whole runs


def everything(corpus, tmp_path):
    """A configuration with all that this file tests."""
    manifest = read_manifest(corpus)
    lines = [f"{u} " + " ".join(["0", "1"] * (num_labels(n) // 2) + ["0"] * (num_labels(n) % 2))
             for u, n in zip(manifest.utterances, manifest.num_samples, strict=True)]  # fmt: skip
    (tmp_path / "labels.txt").write_text("\n".join(lines) + "\n")
    sets = (
        NegativeSet("current_sequence", number=4, min_distance=2),
        NegativeSet(different=("chapter",), steps=(1, 3)),
    )
    return tiny_config(
        corpus,
        batches=BatchConfig(num_windows=8, accumulate=2),  # enough for several chapters in each
        autoregressor=AutoregressorConfig(hidden=8, directions="both"),
        criterion=CriterionConfig(num_steps=3, scheme="sets", negatives=sets, step_weights=(1.0, 2.0, 1.0)),
        regularise=RegulariseConfig(dropout_z=0.1, dropout_c=0.1, left_or_right=0.1),
        augment=AugmentConfig(noise=0.5, reverb=0.5),
        loss=LossConfig(labels=str(tmp_path / "labels.txt")),
    )


def test_a_run_with_everything_resumes_bitwise_and_logs_each_set(corpus, tmp_path, monkeypatch):
    config = everything(corpus, tmp_path)
    whole = train(config, tmp_path / "whole")
    import cpc.train.loop as loop

    step, calls = loop.step, []

    def stop(*args, **kwargs):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    monkeypatch.setattr(loop, "step", stop)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "cut")
    monkeypatch.setattr(loop, "step", step)
    from cpc.train import resume

    resume(tmp_path / "cut")
    states = [torch.load(tmp_path / name / "last.pt", weights_only=True)["model"] for name in ("whole", "cut")]
    assert all(torch.equal(x, y) for x, y in zip(states[0].values(), states[1].values(), strict=True))
    line = read_metrics(whole / "metrics.jsonl")[-1]
    assert line["bound_kind"] == "none"
    assert line["current_sequence_from_2/bound_kind"] == "none"
    assert line["different_chapter/bound_kind"] == "conditional"
    assert len(line["different_chapter/bound_k"]) == 2
    assert 0 < line["current_sequence_from_2/false_negatives"] < 1
    assert line["loss"] != pytest.approx(sum(line["loss_k"]) / 3, abs=1e-6)  # steps are weighted
    json.dumps(line, allow_nan=False)


def test_a_configuration_with_sets_survives_its_file(corpus, tmp_path):
    config = everything(corpus, tmp_path)
    write_config(config, tmp_path / "c.toml")
    assert read_config(tmp_path / "c.toml") == config


def test_what_is_off_leaves_the_identity_of_earlier_runs(corpus):
    identity = config_identity(tiny_config(corpus))
    assert not {"augment", "regularise"} & set(identity)
    assert not {"negatives", "step_weights"} & set(identity["criterion"])
    assert "directions" not in identity["autoregressor"]
    assert (
        "directions"
        in config_identity(tiny_config(corpus, autoregressor=AutoregressorConfig(directions="both")))["autoregressor"]
    )


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        (CriterionConfig(scheme="sets"), r"criterion\.negatives: got none"),
        (CriterionConfig(step_weights=(1.0,)), r"criterion\.step_weights: got 1 numbers.*expected num_steps = 12"),
        (CriterionConfig(2, step_weights=(0.0, 0.0)), r"criterion\.step_weights.*not all 0"),
        ((NegativeSet("mixed_speaker", same=("room",)),), r"set 1: got scheme mixed_speaker beside same"),
        ((NegativeSet("mixed_speaker"), NegativeSet(steps=(13,))), r"set 2: steps: got \[13\], expected.*up to 12"),
        ((NegativeSet(min_distance=5, max_distance=3),), r"max_distance: got 3, expected at least 5"),
        ((NegativeSet("mixed_speaker_excl", min_distance=5),), r"min_distance: got 5, but the set leaves out"),
        ((NegativeSet(same=("speaker",)),), r"same speaker needs several windows of each speaker"),
    ],
)
def test_sets_that_cannot_work_are_refused_in_one_line(criterion, message):
    if isinstance(criterion, tuple):
        criterion = CriterionConfig(scheme="sets", negatives=criterion)
    with pytest.raises(ConfigError, match=message):
        check_config(tiny_config("m.csv", criterion=criterion))


def test_a_column_that_the_manifest_lacks_is_refused_before_training(corpus, tmp_path):
    criterion = CriterionConfig(3, scheme="sets", negatives=(NegativeSet(different=("room",)),))
    with pytest.raises(ConfigError, match=r"criterion\.negatives: got the column room; the manifest has .*chapter"):
        train(tiny_config(corpus, criterion=criterion), tmp_path / "run")


def test_padded_windows_train_in_both_directions(corpus, tmp_path):
    config = tiny_config(
        corpus,
        data=DataConfig(manifest=str(corpus), window_samples=30000, short="pad"),
        autoregressor=AutoregressorConfig(hidden=8, directions="both"),
    )
    assert math.isfinite(read_metrics(train(config, tmp_path / "run") / "metrics.jsonl")[-1]["loss"])


def test_contexts_of_both_directions_are_the_same_one_by_one_side_by_side_and_in_blocks(corpus, tmp_path):
    config = tiny_config(corpus, autoregressor=AutoregressorConfig(hidden=8, directions="both"))
    run = train(config, tmp_path / "run")
    manifest = read_manifest(corpus)
    features = open_features(extract_features(extractor_of_run(run, "c"), manifest, tmp_path / "c", progress=False))
    extractor = extractor_of_run(run, "c")
    assert features.dim == 16
    for utterance, row in zip(manifest.utterances[:3], range(3), strict=True):
        from cpc.data import audio_statistics, read_audio

        path = manifest.audio_path(row)
        mean, std = audio_statistics(path, sample_rate=16000, resample=False)
        x = ((read_audio(path, sample_rate=16000) - mean) / std).astype("float32")
        alone = extractor.model.represent(torch.from_numpy(x)[None])[1][0].detach()
        blocks = torch.from_numpy(next(iter(extractor.frames([x[:5000], x[5000:9000], x[9000:]]))))
        written = torch.from_numpy(features.frames(utterance).copy())
        torch.testing.assert_close(written, alone, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(blocks, alone, atol=2e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="c cannot be streamed"):
        extractor.model.represent_block(torch.zeros(1, 5000), None, False)
    assert isinstance(extractor, CPCExtractor)
