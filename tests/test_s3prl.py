"""recipes/s3prl: an upstream with s3prl's interface, whose frames are those of the run."""

from pathlib import Path

import pytest
import torch

import cpc
from cpc.config import AudioConfig, AutoregressorConfig, Config, EncoderConfig
from cpc.runs import build_model, save_weights
from tests.conftest import load_script

UpstreamExpert = load_script(Path(__file__).resolve().parents[1] / "recipes" / "s3prl" / "expert.py").UpstreamExpert


def save_run(folder, *, sample_rate=16000, directions="forward", **encoder):
    torch.manual_seed(0)
    config = Config(
        audio=AudioConfig(sample_rate=sample_rate),
        encoder=EncoderConfig(16, **encoder),
        autoregressor=AutoregressorConfig(hidden=8, directions=directions),
    )
    save_weights(folder / "best.safetensors", config, build_model(config))
    return folder


@pytest.mark.parametrize("encoder", [{}, {"padding": "cpc_audio"}, {"kind": "logmel"}])
@pytest.mark.parametrize("directions", ["forward", "both"])
def test_each_row_has_the_frames_of_its_utterance(tmp_path, encoder, directions):
    """Whatever else is in the batch; the last frame is repeated up to one frame a hop, as s3prl counts them."""
    upstream = UpstreamExpert(save_run(tmp_path, directions=directions, **encoder), refresh=False).eval()
    wavs = [torch.randn(size, generator=torch.Generator().manual_seed(size)) for size in (16000, 4801, 800)]
    found = upstream(wavs)
    hop = upstream.get_downsample_rates("hidden_states")
    assert hop == 160
    model = cpc.load(tmp_path)
    for name, states, own in zip("zc", found["hidden_states"], zip(*map(model, wavs), strict=True), strict=True):
        assert states is found[name][0]
        assert states.shape == (3, 100, own[0].shape[1])
        for row, expected, wav in zip(states, own, wavs, strict=True):
            torch.testing.assert_close(row[: len(expected)], expected, atol=1e-6, rtol=1e-5)
            assert 0 <= -(-len(wav) // hop) - len(expected) <= 3
            assert torch.equal(row[len(expected) :], row[len(expected) - 1].expand(100 - len(expected), -1))


def test_one_layer_can_be_the_only_hidden_state(tmp_path):
    """s3prl's featurizer refuses layers of different widths."""
    wavs, run = [torch.randn(4000)], save_run(tmp_path)
    (states,) = UpstreamExpert(run, layers="c").eval()(wavs)["hidden_states"]
    assert torch.equal(states, UpstreamExpert(run).eval()(wavs)["c"][0])
    with pytest.raises(ValueError, match=r"^layers: got 'x', expected one of both, z, c$"):
        UpstreamExpert(run, layers="x")


def test_the_upstream_can_be_trained(tmp_path):
    upstream = UpstreamExpert(save_run(tmp_path))
    upstream([torch.randn(4000), torch.randn(3000)])["hidden_states"][1].sum().backward()
    assert upstream.model.g_enc.convs[0].weight.grad.abs().sum() > 0


def test_a_run_of_another_rate_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r": a run at 8000 Hz, expected 16000 Hz as s3prl has it$"):
        UpstreamExpert(save_run(tmp_path, sample_rate=8000))
