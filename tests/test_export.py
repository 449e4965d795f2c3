"""Exported networks: equal to the run's own in other runtimes, whole and in blocks, and refusals."""

import json
import sys
from itertools import accumulate

import numpy as np
import pytest
import scipy.signal
import torch

import cpc
from cpc.cli import main
from cpc.config import AudioConfig, AutoregressorConfig, Config, EncoderConfig
from cpc.export import ExportError, export_run, write
from cpc.files import ClaimError
from cpc.runs import CheckpointError, build_model, save_weights

pytestmark = [
    pytest.mark.filterwarnings("ignore:norm = 'batch'"),
    pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:FutureWarning"),  # the format itself is tested
]
GRU, BOTH, LSTM = (
    AutoregressorConfig(hidden=8),
    AutoregressorConfig("gru", 8, 2, "both"),
    AutoregressorConfig("lstm", 8, 2),
)
NETWORKS = {
    "conv, GRU": (EncoderConfig(16), GRU),
    "log-mel, both": (EncoderConfig(16, kind="logmel"), BOTH),
    "CPC_audio's padding, LSTM": (EncoderConfig(16, padding="cpc_audio"), LSTM),
    "same padding, no norm": (EncoderConfig(16, padding="same", norm="none"), GRU),
    "batch norm, both LSTM": (EncoderConfig(16, norm="batch"), AutoregressorConfig("lstm", 8, 1, "both")),
}
STREAMED = {
    "conv, GRU": (EncoderConfig(16), AutoregressorConfig("gru", 8, 2)),
    "conv, LSTM": (EncoderConfig(16), LSTM),
    "log-mel, GRU": (EncoderConfig(16, kind="logmel"), GRU),
}
SHAPES = [(1, 465), (2, 624), (3, 5000), (1, 160_001)]  # batch, samples


def save_run(folder, encoder, autoregressor, **audio):
    torch.manual_seed(0)
    config = Config(encoder=encoder, autoregressor=autoregressor, audio=AudioConfig(**audio))
    folder.mkdir(exist_ok=True)
    save_weights(folder / "best.safetensors", config, build_model(config), update=7)
    return folder


def call(path, *inputs):
    """Run an exported file on tensors."""
    if path.suffix == ".ts":
        return torch.jit.load(path)(*inputs)
    session = pytest.importorskip("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    return [torch.from_numpy(y) for y in session.run(None, {n: x.numpy() for n, x in zip(names, inputs, strict=True)})]


@pytest.fixture(params=["onnx", "torchscript"])
def target(request):
    if request.param == "onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    return request.param


@pytest.mark.parametrize("network", NETWORKS)
def test_an_exported_network_equals_the_run_for_any_batch_and_length(tmp_path, network, target):
    """z and c agree to 1e-5, whatever the level of the sound."""
    run, out = (
        save_run(tmp_path / "run", *NETWORKS[network]),
        tmp_path / {"onnx": "a.onnx", "torchscript": "a.ts"}[target],
    )
    said = export_run(run, target, out)
    assert said.startswith(f"wrote {out}; z and c differ from the run's by at most ")
    model, generator = cpc.load(run), torch.Generator().manual_seed(1)
    for num_waveforms, num_samples in SHAPES:
        x = 0.1 * torch.randn(num_waveforms, num_samples, generator=generator) + 0.3
        for found, expected in zip(call(out, x), model(x), strict=True):
            assert found.shape == expected.shape
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("network", ["conv, GRU", "log-mel, both"])
def test_long_recordings_with_bands_of_silence_agree_too(tmp_path, network, target):
    """As decoded MP3 has them: there, float32 rounds the energies and the deviation of a file by more than 1e-5."""
    run = save_run(tmp_path / "run", *NETWORKS[network])
    out = tmp_path / {"onnx": "a.onnx", "torchscript": "a.ts"}[target]
    export_run(run, target, out)
    noise = np.random.default_rng(0).standard_normal(20 * 16000)
    quiet = scipy.signal.sosfilt(scipy.signal.butter(12, 2000, fs=16000, output="sos"), noise)
    x = torch.from_numpy(quiet.astype(np.float32))[None] * torch.linspace(1e-3, 0.3, 20 * 16000)
    for found, expected in zip(call(out, x), cpc.load(run)(x), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("network", STREAMED)
def test_blocks_of_any_length_equal_the_whole_utterance(tmp_path, network, target):
    """Blocks that complete no frame return none and keep the state."""
    run = save_run(tmp_path / "run", *STREAMED[network])
    export_run(run, target, streaming=True)
    out, model = run / {"onnx": "model-streaming.onnx", "torchscript": "model-streaming.ts"}[target], cpc.load(run)
    x = torch.randn(2, 6000, generator=torch.Generator().manual_seed(1))
    shape = about(out)["hidden_shape"]
    samples, hidden, pieces = x[:, :0], torch.zeros([2 if size == "batch" else size for size in shape]), []
    sizes = [1, 399, 65, 100, 60, 1375, 4000]
    for block in x.split(sizes, dim=1):
        z, c, samples, hidden = call(out, block, samples, hidden)
        pieces.append((z, c))
    complete = [model.g_enc.geometry.num_frames(end) for end in accumulate(sizes)]
    assert complete[0] == 0
    assert list(accumulate(z.shape[1] for z, _ in pieces)) == complete
    for blocks, whole in zip(zip(*pieces, strict=True), model.represent(x), strict=True):
        torch.testing.assert_close(torch.cat(blocks, dim=1), whole, atol=1e-5, rtol=1e-5)


def about(path):
    """Read the metadata of an exported file."""
    if path.suffix == ".ts":
        files = {"cpc.json": ""}
        torch.jit.load(path, _extra_files=files)
        return json.loads(files["cpc.json"])
    session = pytest.importorskip("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    props = session.get_modelmeta().custom_metadata_map
    texts = ("cpc_version", "normalisation", "run", "weights")
    return {key: value if key in texts else json.loads(value) for key, value in props.items()}


@pytest.mark.parametrize(
    ("streaming", "normalise", "says"),
    [(False, "utterance", "in the network"), (True, "utterance", "before the network"), (False, "none", "none")],
)
def test_the_metadata_say_what_the_network_takes_and_when_its_frames_are(tmp_path, target, streaming, normalise, says):
    run = save_run(tmp_path / "run", EncoderConfig(16), GRU, sample_rate=8000, normalise=normalise)
    path = tmp_path / {"onnx": "a.onnx", "torchscript": "a.ts"}[target]
    export_run(run, target, path, streaming=streaming)
    found = about(path)
    assert found.pop("normalisation").startswith(says)
    assert len(found.pop("weights")) == 32
    assert found.pop("hidden_shape", None) == ([1, "batch", 8] if streaming else None)
    assert found == {
        "cpc_version": cpc.__version__,
        "run": "run/best.safetensors",
        "update": 7,
        "sample_rate": 8000,
        "hop_samples": 160,
        "first_centre_samples": 232.0,
        "receptive_field_samples": 465,
        "z_dim": 16,
        "c_dim": 8,
        "streaming": streaming,
    }


@pytest.mark.parametrize(("kind", "operator"), [("gru", "GRU"), ("lstm", "LSTM")])
def test_a_recurrent_network_is_one_operator_of_onnx(tmp_path, kind, operator):
    """No loop over frames, which would be slow, and no length is fixed."""
    onnx = pytest.importorskip("onnx")
    run = save_run(tmp_path / "run", EncoderConfig(16), AutoregressorConfig(kind, 8))
    export_run(run, "onnx")
    graph = onnx.load(run / "model.onnx").graph
    operators = [node.op_type for node in graph.node]
    assert operators.count(operator) == 1
    assert not {"Loop", "Scan", "If"} & set(operators)
    named = {x.name: [d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim] for x in graph.input}
    assert named == {"waveforms": ["batch", "num_samples"]}


def test_what_cannot_be_streamed_is_refused_in_one_line(tmp_path):
    run = save_run(tmp_path / "run", *NETWORKS["log-mel, both"])
    with pytest.raises(ExportError, match=r'directions = "both" reads whole files .*; export it without --streaming$'):
        export_run(run, "torchscript", streaming=True)
    run = save_run(tmp_path / "run", *NETWORKS["CPC_audio's padding, LSTM"])
    with pytest.raises(ExportError, match=r'encoder\.padding = "cpc_audio" pads .*; export it without --streaming$'):
        export_run(run, "torchscript", streaming=True)
    assert [path.name for path in run.iterdir()] == ["best.safetensors"]


def test_a_network_that_differs_is_not_written(tmp_path, monkeypatch):
    run = save_run(tmp_path / "run", *NETWORKS["conv, GRU"])
    monkeypatch.setattr(write, "_MOST_DIFFERENCE", -1.0)
    with pytest.raises(
        ExportError, match=r"best\.safetensors: torch .*: z or c differs by .*, expected -1e\+00 at most"
    ):
        export_run(run, "torchscript")
    assert not (run / "model.ts").exists()


def test_files_of_others_stay_and_own_ones_are_replaced(tmp_path, target):
    run = save_run(tmp_path / "run", *NETWORKS["conv, GRU"])
    torch.save({}, run / "last.pt")
    with pytest.raises(ClaimError, match=rf"last\.pt: exists and is not a network exported to {target}"):
        export_run(run, target, run / "last.pt")
    with pytest.raises(ClaimError, match=r"best\.safetensors: exists and is not"):
        export_run(run, target, run / "best.safetensors")
    assert export_run(run, target, tmp_path / "a") == export_run(run, target, tmp_path / "a")


def test_missing_packages_are_named_with_their_extra(tmp_path, monkeypatch):
    run = save_run(tmp_path / "run", *NETWORKS["conv, GRU"])
    pytest.importorskip("onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "; not compared: no onnxruntime here, pip install 'cpc-audio[onnx]'; load it: " in export_run(run, "onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ExportError, match=r"^exporting to ONNX needs onnx: pip install 'cpc-audio\[onnx\]'$"):
        export_run(run, "onnx")


def test_the_command_prints_one_line_that_can_be_run(tmp_path, monkeypatch, capsys):
    run = save_run(tmp_path / "run", *NETWORKS["conv, GRU"])
    monkeypatch.setattr(sys, "argv", ["cpc", "export", "torchscript", str(run)])
    main()
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1
    names = {"torch": torch, "waveforms": torch.randn(1, 4000)}
    exec(said[0].partition("load it: ")[2], names)
    torch.testing.assert_close(names["z"], cpc.load(run)(names["waveforms"])[0], atol=1e-5, rtol=1e-5)


def test_a_run_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such run folder"):
        export_run(tmp_path / "nothing", "onnx")
