"""Checkpoints of CPC_audio: equal to an independent network with its names, and refusals."""

import json
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cpc
from cpc.cli import main
from cpc.foreign import import_cpc_audio
from cpc.runs import CheckpointError

STRIDES, KERNELS, PADDINGS = (5, 4, 2, 2, 2), (10, 8, 4, 4, 4), (3, 2, 1, 1, 1)


class ChannelNorm(nn.Module):
    """Divide by the unbiased deviation over the channels of (B, C, T)."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(1, channels, 1) + 0.5)
        self.bias = nn.Parameter(torch.randn(1, channels, 1))

    def forward(self, x):
        mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True)
        return (x - mean) * torch.rsqrt(var + 1e-5) * self.weight + self.bias


class Theirs(nn.Module):
    """Convolutions, norms and a recurrent network, under CPC_audio's names; no line of its code."""

    def __init__(self, channels=12, hidden=10, kind=nn.LSTM, norm=ChannelNorm, layers=1):
        super().__init__()
        self.gEncoder, self.gAR = nn.Module(), nn.Module()
        widths = (1, *[channels] * 5)
        for i in range(5):
            conv = nn.Conv1d(widths[i], channels, KERNELS[i], stride=STRIDES[i], padding=PADDINGS[i])
            setattr(self.gEncoder, f"conv{i}", conv)
            setattr(self.gEncoder, f"batchNorm{i}", norm(channels))
        self.gAR.baseNet = kind(channels, hidden, num_layers=layers, batch_first=True)

    def forward(self, x):  # (B, S)
        x = x[:, None]
        for i in range(5):
            x = F.relu(getattr(self.gEncoder, f"batchNorm{i}")(getattr(self.gEncoder, f"conv{i}")(x)))
        z = x.transpose(1, 2)
        return z, self.gAR.baseNet(z)[0]


def saved(tmp_path, network, *, linear=True, published=False, **settings):
    predictors = {f"wPrediction.predictors.{k}.weight": torch.randn(12, 10) for k in range(3)}
    if not linear:
        predictors = {f"wPrediction.predictors.{k}.0.multihead.Wk.weight": torch.randn(12, 12) for k in range(3)}
    path = tmp_path / "checkpoint_30.pt"
    if published:
        torch.save({"weights": network.state_dict(), "config": settings}, path)
    else:
        torch.save({"gEncoder": network.state_dict(), "cpcCriterion": predictors, "best": None}, path)
        (tmp_path / "checkpoint_args.json").write_text(json.dumps(settings))
    return path, predictors


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize(("kind", "layers"), [(nn.LSTM, 1), (nn.LSTM, 2), (nn.GRU, 1)])
def test_z_and_c_equal_those_of_the_other_network(tmp_path, kind, layers, published):
    torch.manual_seed(0)
    network = Theirs(kind=kind, layers=layers).eval()
    path, _ = saved(tmp_path, network, published=published)
    import_cpc_audio(path, tmp_path / "run")
    x = torch.randn(2, 4800)
    with torch.no_grad():
        for ours, theirs in zip(cpc.load(tmp_path / "run")(x), network(x), strict=True):
            assert ours.shape == theirs.shape == (2, 30, theirs.shape[2])
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("norm", "name"), [(lambda n: nn.Identity(), "ID"), (nn.BatchNorm1d, "batchNorm")])
@pytest.mark.filterwarnings("ignore:norm = 'batch'")
def test_other_norms_are_carried_over(tmp_path, norm, name):
    torch.manual_seed(0)
    network = Theirs(norm=norm)
    network(torch.randn(4, 4800))  # so that running means are not the initial ones
    path, _ = saved(tmp_path, network.eval(), normMode=name)
    import_cpc_audio(path, tmp_path / "run")
    x = torch.randn(2, 4800)
    with torch.no_grad():
        torch.testing.assert_close(cpc.load(tmp_path / "run")(x)[1], network(x)[1], atol=1e-5, rtol=1e-4)


def test_linear_predictors_score_as_means_over_the_latents(tmp_path):
    torch.manual_seed(0)
    path, predictors = saved(tmp_path, Theirs())
    assert "not imported" not in import_cpc_audio(path, tmp_path / "run")
    model = cpc.load(tmp_path / "run")
    z, c = model(torch.randn(1, 4800))
    for k, w in enumerate(predictors.values()):
        theirs = (z * (c @ w.T)).mean(2)
        torch.testing.assert_close((z * model.predict(c)[k]).sum(2), theirs, atol=1e-5, rtol=1e-4)


def test_what_cannot_be_carried_over_is_said(tmp_path, monkeypatch, capsys):
    path, _ = saved(tmp_path, Theirs(), linear=False, cpc_mode="reverse", nPredicts=3)
    monkeypatch.setattr(sys, "argv", ["cpc", "import", str(path), "--out", str(tmp_path / "run")])
    main()
    said = capsys.readouterr().out
    assert "imported: g_enc of 12 channels, lstm of 10 units in 1 layers" in said
    assert "not imported: W_k (its predictors are no linear maps)" in said
    assert "reversed time" in said
    assert cpc.load(tmp_path / "run").W.num_steps == 3


def test_what_is_no_such_checkpoint_is_refused_in_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        import_cpc_audio(tmp_path / "x.pt", tmp_path / "run")
    (tmp_path / "x.pt").write_bytes(b"text")
    with pytest.raises(CheckpointError, match=r"x\.pt: not a checkpoint of tensors"):
        import_cpc_audio(tmp_path / "x.pt", tmp_path / "run")
    torch.save({"model": {}}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"not a checkpoint of CPC_audio"):
        import_cpc_audio(tmp_path / "x.pt", tmp_path / "run")
    path, _ = saved(tmp_path, Theirs(kind=nn.RNN))
    with pytest.raises(CheckpointError, match=r"arMode RNN has no counterpart here; LSTM, GRU have"):
        import_cpc_audio(path, tmp_path / "run")
    path, _ = saved(tmp_path, Theirs(), normMode="instanceNorm")
    with pytest.raises(CheckpointError, match=r"normMode instanceNorm has no counterpart"):
        import_cpc_audio(path, tmp_path / "run")
    network = Theirs()
    network.gEncoder.conv1 = nn.Conv1d(12, 12, 6)
    path, _ = saved(tmp_path, network)
    with pytest.raises(CheckpointError, match=r"not the weights that its settings describe: .*convs\.1\.weight"):
        import_cpc_audio(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()
