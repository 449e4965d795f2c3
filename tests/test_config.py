"""Configuration: TOML in, checked, TOML out."""

from dataclasses import replace
from typing import get_args

import pytest

from cpc.config import (
    PRESETS,
    AudioConfig,
    Config,
    ConfigError,
    CriterionConfig,
    EncoderConfig,
    config_digest,
    config_identity,
    hop_seconds,
    read_config,
    write_config,
)
from cpc.runs import build_model


@pytest.mark.parametrize("name", sorted(path.stem for path in PRESETS.glob("*.toml")))
def test_presets_are_read_by_name(name):
    assert isinstance(read_config(name), Config)


def test_logmel_is_bidirectional_with_another_front_end_regularised():
    """The criterion differs in the weight of the first set alone."""
    logmel, waveform = read_config("logmel"), read_config("bidirectional")
    same = replace(logmel.criterion.negatives[0], weight=waveform.criterion.negatives[0].weight)
    assert replace(logmel.criterion, negatives=(same, *logmel.criterion.negatives[1:])) == waveform.criterion
    assert replace(logmel.encoder, kind="conv") == waveform.encoder
    assert (logmel.autoregressor, logmel.optim, logmel.batches) == (
        waveform.autoregressor,
        waveform.optim,
        waveform.batches,
    )


def test_the_paper_preset_is_the_papers():
    c = read_config("paper")
    assert (c.encoder.channels, c.autoregressor.kind, c.autoregressor.hidden) == (512, "gru", 256)
    assert (c.optim.name, c.optim.lr, c.optim.schedule, c.train.num_updates) == (
        "adam",
        2e-4,
        "constant",
        300_000,
    )


def test_written_configuration_reads_back_equal(tmp_path):
    config = Config(seed=3, encoder=EncoderConfig(channels=7), criterion=CriterionConfig(tau=2.5), device="cpu")
    write_config(config, tmp_path / "c.toml")
    assert read_config(tmp_path / "c.toml") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[optim]\nlearning_rate = 1e-3\n",
            r"unknown key optim\.learning_rate; allowed in \[optim\]: name, lr",
        ),
        ("[optimiser]\nlr = 1e-3\n", r"unknown key optimiser; allowed: seed, device"),
        ("encoder = 3\n", r"encoder: got 3, expected a table \[encoder\]"),
        ("recompute = 2\n[encoder]\nnorm = 'batch'\n", r"recompute: got 2, but encoder\.norm = 'batch'"),
        ("recompute = -1\n", r"recompute: got -1, expected greater than or equal to 0"),
        ("[encoder]\nnorm = 'layer'\n", r"encoder\.norm: got 'layer', expected 'channel', 'none' or 'batch'"),
        ("[encoder]\nchannels = 'many'\n", r"encoder\.channels: got 'many'"),
        ("[optim]\nlr = -1\n", r"optim\.lr: got -1, expected greater than 0"),
        ("[criterion]\ntau = 0\n", r"criterion\.tau: got 0, expected greater than 0"),
        ("[criterion]\nnum_negatives = -1\n", r"criterion\.num_negatives: got -1, expected greater than or equal to 0"),
        ("seed = \n", "not TOML"),
    ],
)
def test_a_wrong_configuration_is_one_line_that_says_what_is_allowed(tmp_path, text, message):
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        read_config(tmp_path / "c.toml")
    assert str(tmp_path / "c.toml") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_configuration_names_the_presets(tmp_path):
    with pytest.raises(
        ConfigError, match="no such configuration; give a TOML file or a preset: bidirectional, logmel, paper, small"
    ):
        read_config(tmp_path / "none.toml")


def test_the_choices_are_those_of_the_modules_that_they_choose_from():
    """config.py repeats them, so that `cpc --help` need not load torch."""
    from cpc import config
    from cpc.config import AutoregressorConfig, BatchConfig, DataConfig, EncoderConfig, OptimConfig
    from cpc.data.batches import Kind as Composition
    from cpc.data.windows import Short
    from cpc.model.autoregressor import Kind
    from cpc.model.encoder import Norm, Padding
    from cpc.train.optim import Name, Schedule

    for field, choices in [
        (EncoderConfig.__annotations__["norm"], Norm),
        (EncoderConfig.__annotations__["padding"], Padding),
        (AutoregressorConfig.__annotations__["kind"], Kind),
        (BatchConfig.__annotations__["kind"], Composition),
        (DataConfig.__annotations__["short"], Short),
        (OptimConfig.__annotations__["name"], Name),
        (OptimConfig.__annotations__["schedule"], Schedule),
    ]:
        given = eval(field, vars(config)) if isinstance(field, str) else field
        assert get_args(given) == get_args(choices)


def test_identity_ignores_where_a_run_is_made_and_nothing_else():
    base = read_config("small")
    elsewhere = replace(
        base,
        device="cuda",
        data=replace(base.data, manifest="elsewhere.csv", workers=3, cache="cache"),
        loss=replace(base.loss, labels="labels.txt"),
    )
    assert config_identity(elsewhere) == config_identity(base)
    for other in (
        replace(base, seed=1),
        replace(base, data=replace(base.data, window_samples=10240)),
        replace(base, optim=replace(base.optim, lr=1e-3)),
    ):
        assert config_identity(other) != config_identity(base)


@pytest.mark.parametrize("scheme", ["same_speaker", "same_speaker_excl"])
@pytest.mark.parametrize(
    "batches", ["kind = 'mixed'", "kind = 'by_utterance'", "kind = 'by_speaker'\nwindows_per_group = 1"]
)
def test_negatives_of_the_same_speaker_need_several_windows_of_each_speaker(tmp_path, scheme, batches):
    """In other batches most speakers are alone, and same_speaker would silently equal current_sequence."""
    (tmp_path / "c.toml").write_text(f"[criterion]\nscheme = '{scheme}'\n[batches]\n{batches}\n")
    with pytest.raises(ConfigError, match=f"{scheme} needs several windows of each speaker in a batch; set"):
        read_config(tmp_path / "c.toml")
    (tmp_path / "c.toml").write_text(f"[criterion]\nscheme = '{scheme}'\n[batches]\nkind = 'by_speaker'\n")
    assert read_config(tmp_path / "c.toml").criterion.scheme == scheme


def test_a_configuration_that_is_nested_too_deeply_is_refused_in_one_line(tmp_path):
    (tmp_path / "deep.toml").write_text("a = " + "[" * 5000 + "]" * 5000)
    with pytest.raises(ConfigError, match=r"deep.toml: not a configuration: its values are nested too deeply"):
        read_config(tmp_path / "deep.toml")


@pytest.mark.parametrize(("rate", "kind"), [(16_000, "conv"), (96_000, "conv"), (16_000, "logmel"), (22_050, "logmel")])
def test_the_time_between_frames_is_that_of_the_network(rate, kind):
    config = Config(audio=AudioConfig(sample_rate=rate), encoder=EncoderConfig(channels=4, kind=kind))
    assert hop_seconds(config) == build_model(config).g_enc.geometry.hop_samples / rate


def test_a_run_keeps_its_digest_when_it_moves_or_trains_longer_and_another_seed_or_network_has_another():
    base = read_config("small")
    longer = replace(base, train=replace(base.train, num_updates=9), data=replace(base.data, manifest="elsewhere.csv"))
    assert config_digest(longer) == config_digest(base)
    others = [replace(base, seed=1), replace(base, encoder=replace(base.encoder, channels=4))]
    assert len({config_digest(config) for config in (base, *others)}) == 3
