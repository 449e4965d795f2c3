"""The model: causality, scores as in the paper, streaming, normalisation."""

import math

import pytest
import torch

from cpc.config import AutoregressorConfig, Config, CriterionConfig, EncoderConfig
from cpc.model import Autoregressor, Predictor
from cpc.runs import build_model


def small(**encoder):
    torch.manual_seed(0)
    return build_model(
        Config(
            encoder=EncoderConfig(channels=16, **encoder),
            autoregressor=AutoregressorConfig(hidden=8),
            criterion=CriterionConfig(num_steps=3),
        )
    )


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
    cpc = small()
    x = torch.randn(1, 6000)
    y = x.clone()
    y[:, 3000:] = 0
    t = cpc.g_enc.geometry.num_complete_frames(3000)
    for a, b in zip(cpc.represent(x), cpc.represent(y), strict=True):
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
    cpc = small()
    assert cpc.tau == math.sqrt(16)
    c = torch.randn(1, 4, 8)
    torch.testing.assert_close(cpc.predict(c), cpc.W(c) / 4, atol=1e-6, rtol=1e-5)


def test_the_first_loss_is_near_log_n():
    """At the start the scores are small: the scale that reference runs needed to leave log N."""
    from cpc.infonce import Negatives, infonce

    cpc = small()
    z, c = cpc(torch.randn(4, 8000))
    result = infonce(z, cpc.predict(c), Negatives.of("mixed_speaker", [0] * 4, range(4), [z.shape[1]] * 4))
    torch.testing.assert_close(result.losses, result.log_n, atol=0.1, rtol=0)


@pytest.mark.parametrize("padding", ["none", "same", "cpc_audio"])
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_streaming_z_and_c_equals_the_whole_file(padding, kind):
    torch.manual_seed(0)
    cpc = build_model(
        Config(encoder=EncoderConfig(channels=16, padding=padding), autoregressor=AutoregressorConfig(kind, 8))
    )
    x = torch.randn(1, 5000)
    state, zs, cs = None, [], []
    for i, block in enumerate(x.split([100, 1400, 3000, 500], dim=1)):
        z, c, state = cpc.stream(block, state, last=i == 3)
        zs.append(z)
        cs.append(c)
    for pieces, whole in zip((zs, cs), cpc.represent(x), strict=True):
        torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-5, rtol=1e-4)


def test_the_level_of_an_utterance_does_not_matter():
    """Loudness and offset are no shortcut: each utterance is normalised."""
    cpc = small()
    x = torch.randn(2, 4000)
    for a, b in zip(cpc(x), cpc(0.01 * x + 0.3), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
