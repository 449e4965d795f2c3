"""A model of one's own trains in place of the built one: two calls, and where its frames lie."""

import copy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import cpc
from cpc.config import (
    AudioConfig,
    AugmentConfig,
    BatchConfig,
    ConfigError,
    CriterionConfig,
    LossConfig,
    OptimConfig,
    RegulariseConfig,
)
from cpc.data import read_audio, read_manifest
from cpc.features import ModelExtractor, extract_features, extractor_of_run, open_features
from cpc.infonce import Negatives, infonce
from cpc.model import Autoregressor, Geometry, Predictor
from cpc.probes import Options, probe_speakers
from cpc.report import write_page
from cpc.runs import BEST, CheckpointError, build_model, read_checkpoint, read_metrics
from cpc.train import loop, resume, train
from cpc.train.optim import OptimiserError
from tests.conftest import measured, tiny_config

HOP, WIDTH, STEPS = 160, 12, 3
PAIRS = BatchConfig(kind="by_utterance", num_windows=4, windows_per_group=2)


class Own(nn.Module):
    """One strided convolution, a GRU of torch, and W_k as a list."""

    def __init__(self, steps=STEPS):
        super().__init__()
        self.geometry = Geometry((HOP,), (2 * HOP,), ((0, 0),))
        self.conv = nn.Conv1d(1, WIDTH, 2 * HOP, stride=HOP)
        self.rnn = nn.GRU(WIDTH, 8, batch_first=True)
        self.heads = nn.ModuleList(nn.Linear(8, WIDTH, bias=False) for _ in range(steps))

    def linear_maps(self):
        heads = {f"heads.{k}.weight": 1 for k in range(len(self.heads))}
        return {"conv.weight": 0, "rnn.weight_ih_l0": 3, "rnn.weight_hh_l0": 3, **heads}

    def forward(self, x):
        z = torch.relu(self.conv(x[:, None])).transpose(1, 2)  # (B, T, WIDTH)
        return z, self.rnn(z)[0]

    def predict(self, c):
        return torch.stack([head(c) for head in self.heads])


def own(seed=0, **options):
    torch.manual_seed(seed)
    return Own(**options)


def config_of(corpus, **changes):
    return tiny_config(corpus, precision="float32", **changes)


def test_it_trains_and_its_weights_are_read_by_safetensors(corpus, tmp_path):
    model = own()
    before = copy.deepcopy(model.state_dict())
    run = train(config_of(corpus), tmp_path / "run", model=model)
    weights = load_file(run / BEST)
    assert weights.keys() == before.keys()
    assert all(not torch.equal(weights[name], before[name]) for name in ("conv.weight", "rnn.weight_hh_l0"))
    again = own(1)
    again.load_state_dict(weights)
    for x, y in zip(again(torch.ones(1, 4000)), model(torch.ones(1, 4000)), strict=True):
        torch.testing.assert_close(x, y)


def test_its_loss_is_infonce_of_what_it_returns(corpus, tmp_path, monkeypatch):
    """The first logged loss equals the heart of the README on the same batch."""
    batches, score = [], loop.score
    monkeypatch.setattr(
        loop, "score", lambda parts, r, batch, seed: batches.append(batch) or score(parts, r, batch, seed)
    )
    config = config_of(corpus)
    config = replace(config, train=replace(config.train, num_updates=1, log_every=1, validate_every=1))
    run = train(config, tmp_path / "run", model=own())
    model, batch = own(), batches[0]
    z, c = model(batch.waveforms)
    negatives = Negatives.of("mixed_speaker", [z.shape[1]] * len(z))
    expected = infonce(z, model.predict(c), negatives).losses
    row = read_metrics(run / "metrics.jsonl")[0]
    assert row["loss_k"] == pytest.approx(expected.tolist(), rel=1e-5)


@pytest.mark.parametrize("optimiser", ["adam", "muon"])
def test_a_run_that_resumes_equals_one_that_went_through(corpus, tmp_path, optimiser):
    config = config_of(corpus, optim=OptimConfig(name=optimiser, lr=1e-3))
    whole = train(config, tmp_path / "whole", model=own())

    class Fails:
        on_start = on_end = staticmethod(lambda *_: None)

        def on_log(self, row):
            if row["update"] == 8:
                raise RuntimeError

    with pytest.raises(RuntimeError):
        train(config, tmp_path / "cut", model=own(), on_log=Fails())
    assert read_checkpoint(tmp_path / "cut" / "last.pt")[1]["update"] == 5
    cut = train(config, tmp_path / "cut", model=own(7), resume=True)
    assert measured(cut) == measured(whole)
    for x, y in zip(*(load_file(run / BEST).values() for run in (cut, whole)), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("layer", ["z", "c"])
def test_its_frames_are_extracted_and_probed(corpus, tmp_path, layer):
    """Each file's frames are those of the normalised whole, short and long ones alike."""
    config, manifest, model = config_of(corpus), read_manifest(corpus), own()
    extractor = ModelExtractor(model, layer, config)
    features = open_features(extract_features(extractor, manifest, tmp_path / "f", progress=False))
    assert (features.dim, features.hop_samples) == ({"z": WIDTH, "c": 8}[layer], HOP)
    for row in (0, 7):
        x = read_audio(manifest.audio_path(row), sample_rate=16000)
        x = torch.from_numpy((x - x.mean()) / x.std())[None]
        expected = model(x)[["z", "c"].index(layer)][0].detach()
        found = torch.from_numpy(features.frames(manifest.utterances[row]).copy())
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        blocks = list(extractor.frames([x[0, :5000].numpy(), x[0, 5000:].numpy()]))
        torch.testing.assert_close(torch.from_numpy(blocks[0]), expected, atol=1e-6, rtol=0)
    assert probe_speakers(features, Options(max_frames=500)).accuracy > 0
    assert ModelExtractor(own(1), layer, config).identity() != extractor.identity()


def test_without_the_model_its_run_names_it_and_the_way_out(corpus, tmp_path):
    run = train(config_of(corpus), tmp_path / "run", model=own())
    for call in (lambda: cpc.load(run), lambda: extractor_of_run(run, "c"), lambda: resume(run, num_updates=20)):
        with pytest.raises(
            CheckpointError, match=r"trained as train\(…, model=tests\.test_own_model\.Own\(…\)\)"
        ) as error:
            call()
        assert "safetensors.torch.load_file" in str(error.value)
        assert len(str(error.value).splitlines()) == 1


def test_a_loaded_cpc_is_trained_further(corpus, tmp_path):
    """Fine-tuning: the run begins with the given weights, and is loaded like any other."""
    first = train(config_of(corpus), tmp_path / "first")
    model = cpc.load(first)
    with pytest.raises(ConfigError, match=r"^model: CPC has no weight that requires a gradient; call "):
        train(config_of(corpus), tmp_path / "second", model=model)
    second = train(config_of(corpus, optim=OptimConfig(lr=1e-9)), tmp_path / "second", model=model.requires_grad_(True))
    for x, y in zip(cpc.load(second).parameters(), cpc.load(first).parameters(), strict=True):
        torch.testing.assert_close(x, y, atol=1e-6, rtol=1e-5)


def test_a_cpc_of_own_parts_trains(corpus, tmp_path):
    class Convolution(nn.Module):
        channels = WIDTH

        def __init__(self):
            super().__init__()
            self.inner = own()
            self.geometry = self.inner.geometry

        def forward(self, x):
            return self.inner(x)[0]

    model = cpc.CPC(Convolution(), Autoregressor(WIDTH, 8), Predictor(8, WIDTH, STEPS), tau=3.0)
    run = train(config_of(corpus), tmp_path / "run", model=model)
    assert "g_enc.inner.conv.weight" in load_file(run / BEST)


def test_augmented_copies_reach_c_alone(corpus, tmp_path):
    """z, the target, is computed from the clean window, and c from its copy."""
    seen = []

    class Watched(Own):
        def forward(self, x):
            seen.append(x.clone())
            return super().forward(x)

    torch.manual_seed(0)
    train(config_of(corpus, augment=AugmentConfig(noise=1.0)), tmp_path / "run", model=Watched())
    clean, noisy = seen[1], seen[2]  # after the window of zeros that is tried
    assert clean.shape == noisy.shape
    assert not torch.equal(clean, noisy)


class Broken(Own):
    def __init__(self, what):
        super().__init__()
        self.what = what
        if what == "geometry":
            self.geometry = HOP
        if what == "frames":
            self.geometry = Geometry((HOP,), (HOP,), ((0, 0),))

    def forward(self, x):
        z, c = super().forward(x)
        return {"tuple": z, "c": (z, c[:, 1:])}.get(self.what, (z, c))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda: {}, r"^model: dict is no torch\.nn\.Module$"),
        (
            lambda: nn.Linear(2, 2),
            r"^model: Linear: expected z, c = model\(x\), .* model\.geometry, a cpc\.model\.Geometry$",
        ),
        (lambda: Broken("geometry"), r"^model: Broken: expected z, c = model\(x\)"),
        (lambda: Broken("tuple"), r"^model: Broken returns a Tensor, expected z, c = model\(x\)$"),
        (lambda: Broken("frames"), r"z have shape \(2, 24, 12\), expected \(2, 25, 12\) by its geometry"),
        (lambda: Broken("c"), r"c have shape \(2, 23, 8\), expected \(2, 24, 8\)"),
        (lambda: own(steps=5), r"predictions have shape \(5, 2, 24, 12\), expected \(3, 2, 24, 12\)"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused_before_anything_is_written(corpus, tmp_path, model, says):
    with pytest.raises(ConfigError, match=says) as error:
        train(config_of(corpus), tmp_path / "run", model=model())
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"loss": LossConfig(name="nt_xent"), "batches": PAIRS}, r"^loss\.name: needs g_enc and g_ar apart"),
        ({"regularise": RegulariseConfig(dropout_z=0.1)}, r"^regularise\.dropout_z: needs"),
        ({"recompute": 2}, r"^recompute: needs"),
    ],
)
def test_settings_that_need_the_parts_are_refused(corpus, tmp_path, change, says):
    with pytest.raises(ConfigError, match=says):
        train(config_of(corpus, **change), tmp_path / "run", model=own())


def test_a_cpc_of_another_sample_rate_is_refused(corpus, tmp_path):
    model = build_model(config_of(corpus, audio=AudioConfig(sample_rate=8000)))
    with pytest.raises(ConfigError, match=r"is of 8000 Hz, but audio\.sample_rate is 16000"):
        train(config_of(corpus), tmp_path / "run", model=model)
    with pytest.raises(ConfigError, match=r"predictions have shape \(3, 2, .* expected \(2, 2, "):
        train(
            config_of(corpus, criterion=CriterionConfig(num_steps=2)),
            tmp_path / "run",
            model=build_model(config_of(corpus)),
        )


@pytest.mark.parametrize(
    ("maps", "says"),
    [
        ({}, r"muon does not know the weight 0\.conv\.weight"),
        ({"kernel": 1}, r"^Declared\.linear_maps: kernel is no weight of this module$"),
        ({"conv.weight": 1}, r"conv\.weight \(12, 1, 320\) does not stack 1 matrices"),
        ({"conv.weight": 0, "rnn.weight_ih_l0": 5}, r"rnn\.weight_ih_l0 \(24, 12\) does not stack 5 matrices"),
    ],
)
def test_muon_wants_true_declarations(corpus, tmp_path, maps, says):
    class Declared(Own):
        def linear_maps(self):
            return maps

    with pytest.raises(OptimiserError, match=says):
        train(config_of(corpus, optim=OptimConfig(name="muon", lr=1e-3)), tmp_path / "run", model=Declared())


def test_weights_that_share_memory_are_saved(corpus, tmp_path):
    class Tied(Own):
        def __init__(self):
            super().__init__()
            self.heads[1].weight = self.heads[0].weight

    run = train(config_of(corpus), tmp_path / "run", model=Tied())
    weights = load_file(run / BEST)
    assert torch.equal(weights["heads.0.weight"], weights["heads.1.weight"])


def test_a_cpc_that_the_settings_would_rebuild_with_another_padding_or_tau_is_refused(corpus, tmp_path):
    """The run would be loaded with other frames, or other scores, than it was trained with."""
    config = config_of(corpus)
    padded = build_model(replace(config, encoder=replace(config.encoder, padding="cpc_audio")))
    with pytest.raises(ConfigError, match=r"CPC has Geometry.*but encoder gives"):
        train(config, tmp_path / "run", model=padded)
    scaled = build_model(replace(config, criterion=replace(config.criterion, tau=1.0)))
    with pytest.raises(ConfigError, match=r"CPC has 1\.0, but criterion.tau gives"):
        train(config, tmp_path / "run", model=scaled)
    assert not (tmp_path / "run").exists()


def test_the_page_names_a_model_of_the_users(corpus, tmp_path):
    run = train(config_of(corpus), tmp_path / "run", model=own())
    write_page(run, tmp_path / "page.html")
    assert "The network is tests.test_own_model." in (tmp_path / "page.html").read_text()
