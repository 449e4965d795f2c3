"""cpc design: strides for other sample rates and frame rates."""

import contextlib
import itertools
import math
import sys

import pytest
import torch

from cpc.cli import main
from cpc.config import ConfigError, read_config
from cpc.experiments import propose
from cpc.features import open_features
from cpc.probes import Result
from cpc.runs import build_model
from tests.conftest import write_sound


def test_the_papers_encoder_is_what_it_proposes_for_the_papers_rates():
    assert propose(16000, 10, 512).strides == (5, 4, 2, 2, 2)


@pytest.mark.parametrize(
    ("sample_rate", "hop_ms", "strides"),
    [
        (8000, 10, (5, 2, 2, 2, 2)),
        (44100, 10, (7, 7, 3, 3)),
        (48000, 10, (5, 4, 4, 3, 2)),
        (96000, 1, (4, 3, 2, 2, 2)),
        (250000, 1, (5, 5, 5, 2)),
        (384000, 10, (8, 6, 5, 4, 4)),
    ],
)
def test_strides_multiply_to_the_hop_and_the_largest_comes_first(sample_rate, hop_ms, strides):
    design = propose(sample_rate, hop_ms, 16)
    assert design.strides == strides
    assert math.prod(strides) == sample_rate * hop_ms / 1000


def test_every_hop_that_five_strides_up_to_8_can_make_is_proposed():
    """All products of up to five such strides, by brute force."""
    products = {math.prod(strides) for n in range(1, 6) for strides in itertools.product(range(2, 9), repeat=n)}
    proposed = {}
    for hop in [*range(2, 1500), 3840, 4800, 5120, 8**5]:
        with contextlib.suppress(ConfigError):
            proposed[hop] = propose(1000 * hop, 1, 8).strides
    assert set(proposed) == {hop for hop in products if hop < 1500} | {3840, 4800, 5120, 8**5}
    for hop, strides in proposed.items():
        assert math.prod(strides) == hop
        assert len(strides) <= 5
        assert list(strides) == sorted(strides, reverse=True)


def test_a_hop_that_no_strides_make_is_refused_with_the_nearest_one():
    with pytest.raises(ConfigError, match=r"is 220\.5 samples, .*; the nearest is 22\d: --hop-ms 5\.\d+"):
        propose(44100, 5, 16)
    with pytest.raises(ConfigError, match="expected 2 or more"):
        propose(8000, 0.1, 16)


def test_the_cost_is_that_of_the_products_of_the_layers():
    """A second of sound has rate / stride frames a layer, each a product with 2 · stride · width inputs."""
    design = propose(16000, 10, 3)
    frames, total = 16000, 0
    for stride, width in zip((5, 4, 2, 2, 2), (1, 3, 3, 3, 3), strict=True):
        frames //= stride
        total += frames * 2 * stride * width * 3
    assert design.products_per_second == total


def test_the_file_that_it_writes_builds_a_model_with_the_hop(tmp_path, monkeypatch, capsys):
    out = tmp_path / "bats.toml"
    monkeypatch.setattr(sys, "argv", ["cpc", "design", "--sample-rate", "96000", "--hop-ms", "1", "-o", str(out)])
    main()
    printed = capsys.readouterr().out
    assert "hop 96 samples, 1 ms; a frame sees 280 samples" in printed
    config = read_config(out)
    model = build_model(config)
    assert model.g_enc.geometry.hop_samples == 96
    assert model.g_enc.geometry.receptive_field_samples == 280
    assert (model.sample_rate, config.data.window_samples) == (96000, 12288)
    assert model(torch.randn(1, 12288))[0].shape[1] == model.g_enc.geometry.num_frames(12288) == 126


def test_recordings_at_96_khz_become_frames_of_1_ms_and_a_probe_reads_them(tmp_path, monkeypatch):
    """The design's file trains as it stands, frame i of c is centred at sample 96 i + 140, and nothing is resampled."""
    for speaker in range(2):
        for i in range(10):
            write_sound(tmp_path / "bats" / str(speaker) / f"{speaker}-{i}.wav", 0.2, 10 * speaker + i, rate=96000)
    toml, manifest, run, frames = (str(tmp_path / name) for name in ("bats.toml", "bats.csv", "run", "c"))
    small = [
        f"--{key}={n}" for key, n in (("encoder.channels", 8), ("autoregressor.hidden", 8), ("train.num-updates", 4))
    ]
    for words in (
        ["design", "--sample-rate", "96000", "--hop-ms", "1", "-o", toml],
        ["manifest", str(tmp_path / "bats"), "-o", manifest, "--pattern", "{speaker}/*", "--split", "utterance"],
        ["train", toml, "--data.manifest", manifest, "--out", run, "--batches.num-windows", "4", *small],
        ["features", run, "--out", frames, "--layer", "c"],
        ["probe", "speaker", frames, "--pooling", "mean_deviation", "--out", str(tmp_path / "speaker.json")],
    ):
        monkeypatch.setattr(sys, "argv", ["cpc", *words])
        main()
    features = open_features(frames)
    assert (features.sample_rate, features.hop_samples, features.first_centre_samples) == (96000, 96, 139.5)
    assert {features.num_frames(utterance) for utterance in features.manifest.utterances} == {1 + (19200 - 280) // 96}
    result = Result.read(tmp_path / "speaker.json")
    assert (result.pooling, result.num_train_frames, result.features.dim) == ("mean_deviation", 16, 16)
