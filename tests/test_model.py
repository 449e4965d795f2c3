"""The model: causality, scores as in the paper, streaming, normalisation."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

import cpc
from cpc.config import AutoregressorConfig, Config, CriterionConfig, EncoderConfig
from cpc.data import read_audio
from cpc.model import Autoregressor, Predictor
from cpc.runs import build_model, save_weights

CONFIG = Config(
    encoder=EncoderConfig(channels=16),
    autoregressor=AutoregressorConfig(hidden=8),
    criterion=CriterionConfig(num_steps=3),
)


def small(**encoder):
    torch.manual_seed(0)
    return build_model(replace(CONFIG, encoder=replace(CONFIG.encoder, **encoder)))


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_c_is_causal(kind):
    """c_t does not change when z after t does, and changes with z_t."""
    g_ar = Autoregressor(6, 5, kind)
    z = torch.randn(2, 20, 6)
    later = z.clone()
    later[:, 11:] += 1
    assert torch.equal(g_ar(z)[:, :11], g_ar(later)[:, :11])
    assert not torch.allclose(g_ar(z)[:, 11], g_ar(later)[:, 11])


def test_c_sees_no_sample_behind_its_frames_field():
    """Perturbing samples after the field of frame t leaves z and c up to t unchanged."""
    model = small()
    x = torch.randn(1, 6000)
    y = x.clone()
    y[:, 3000:] = 0
    t = model.g_enc.geometry.num_complete_frames(3000)
    for a, b in zip(model.represent(x), model.represent(y), strict=True):
        torch.testing.assert_close(a[:, :t], b[:, :t], atol=1e-6, rtol=1e-5)
        assert not torch.allclose(a[:, t], b[:, t], atol=1e-4)


def test_predictions_are_one_matrix_per_step():
    """[k − 1, b, t] = W_k c_{b,t}, with K different matrices."""
    predictor = Predictor(5, 4, num_steps=3)
    c = torch.randn(2, 7, 5)
    predictions = predictor(c)
    for k in range(3):
        w_k = predictor.weight[4 * k : 4 * (k + 1)]
        for b in range(2):
            for t in range(7):
                torch.testing.assert_close(predictions[k, b, t], w_k @ c[b, t], atol=1e-6, rtol=1e-5)


def test_tau_divides_the_scores_and_defaults_to_sqrt_dim():
    model = small()
    assert model.tau == math.sqrt(16)
    c = torch.randn(1, 4, 8)
    torch.testing.assert_close(model.predict(c), model.W(c) / 4, atol=1e-6, rtol=1e-5)


def test_the_first_loss_is_near_log_n():
    """At the start the scores are small: the scale that reference runs needed to leave log N."""
    from cpc.infonce import Negatives, infonce

    model = small()
    z, c = model(torch.randn(4, 8000))
    result = infonce(z, model.predict(c), Negatives.of("mixed_speaker", [z.shape[1]] * 4))
    torch.testing.assert_close(result.losses, result.log_n, atol=0.1, rtol=0)


@pytest.mark.parametrize("padding", ["none", "same", "cpc_audio"])
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_streaming_z_and_c_equals_the_whole_file(padding, kind):
    torch.manual_seed(0)
    model = build_model(
        Config(encoder=EncoderConfig(channels=16, padding=padding), autoregressor=AutoregressorConfig(kind, 8))
    )
    x = torch.randn(1, 5000)
    state, zs, cs = None, [], []
    for i, block in enumerate(x.split([100, 1400, 3000, 500], dim=1)):
        z, c, state = model.represent_block(block, state, i == 3)
        zs.append(z)
        cs.append(c)
    for pieces, whole in zip((zs, cs), model.represent(x), strict=True):
        torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-5, rtol=1e-4)


def test_the_level_of_an_utterance_does_not_matter():
    """Loudness and offset are no shortcut: each utterance is normalised."""
    model = small()
    x = torch.randn(2, 4000)
    for a, b in zip(model(x), model(0.01 * x + 0.3), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


@pytest.fixture
def loaded(tmp_path):
    save_weights(tmp_path / "best.safetensors", CONFIG, small())
    return cpc.load(tmp_path)


def test_a_loaded_model_takes_waveforms_as_people_have_them(loaded):
    """One utterance or several, tensors and arrays, any usual type: the same frames, for each level of the sound."""
    x = (torch.randn(2, 4000, generator=torch.Generator().manual_seed(1)) * 3000).round()
    z, c = loaded(x)
    assert (z.shape, c.shape) == ((2, 23, 16), (2, 23, 8))
    for given in (x.double(), x.numpy(), x.short(), x.short().numpy(), x.int().numpy(), x.numpy()[:, ::-1][:, ::-1]):
        for ours, expected in zip(loaded(given), (z, c), strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    for ours, expected in zip(loaded(x[1].numpy()), (z[1], c[1]), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_a_loaded_model_decodes_and_resamples_a_sound_file(loaded, tmp_path):
    sound = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", np.stack([sound, sound], 1), 32000, subtype="FLOAT")
    z, c = loaded(tmp_path / "a.wav")
    assert (z.shape, c.shape) == ((23, 16), (23, 8))
    expected = loaded(read_audio(tmp_path / "a.wav", sample_rate=16000, resample=True))
    assert torch.equal(z, expected[0])
    assert torch.equal(loaded(str(tmp_path / "a.wav"))[1], c)
    with pytest.raises(ValueError, match=r"b\.wav"):
        loaded(tmp_path / "b.wav")
    with pytest.raises(ValueError, match=r"only a model that cpc\.load returned"):
        small()(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (torch.zeros(2, 1, 4000), r"got shape \(2, 1, 4000\), expected \(S,\) or \(B, S\); drop the axis of channels"),
        (torch.zeros(2, 3, 4, 5), r"got shape \(2, 3, 4, 5\), expected"),
        (torch.zeros(4000, 2), r"looks like \(samples, channels\); pass mono"),
        (torch.full((2, 4000), math.nan), r"row 0 has a value that is not finite"),
        (torch.zeros(2, 4000, dtype=torch.bool), r"got torch\.bool, expected a float type"),
        ([0.0] * 4000, r"got a list, expected a tensor"),
        (torch.zeros(300), r"too short for one frame"),
    ],
)
def test_a_waveform_that_cannot_be_meant_is_refused_in_one_line(loaded, given, says):
    with pytest.raises(ValueError, match=says) as caught:
        loaded(given)
    assert len(str(caught.value).splitlines()) == 1


def test_a_device_that_is_not_there_is_refused_by_name(loaded, tmp_path):
    with pytest.raises(ValueError, match=r"device: got 'cuda:99', available here: auto, "):
        cpc.load(tmp_path, device="cuda:99")


def test_the_package_shows_what_it_has():
    assert {"load", "CPC", "__version__"} <= set(dir(cpc))
    assert re.fullmatch(r"\d+(\.\w+)*(\+.*)?", cpc.__version__)
    assert "sound files" in cpc.load.__doc__
