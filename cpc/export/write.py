"""Write a trained network for ONNX or TorchScript, with metadata, and compare it with our own."""

from __future__ import annotations

import io
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cpc.config import Config
from cpc.export.network import Streaming, Whole, recurrent_of
from cpc.files import refuse_foreign, write_bytes
from cpc.model import CPC, Bidirectional
from cpc.runs import Which, checksum, locate_checkpoint, read_model
from cpc.versions import versions

if TYPE_CHECKING:
    from cpc.export import Target

METADATA = "cpc.json"  # extra file of a TorchScript archive
SUFFIXES = {"onnx": ".onnx", "torchscript": ".ts"}
OPSET = 17  # the first with LayerNormalization
_BEGINNINGS = {"onnx": r"(?s)\x08.\x12\x03cpc", "torchscript": rf"(?s)PK.{{0,200}}/extra/{METADATA}"}
# Rounding in float32 leaves a few 1e-6. More is a fault of an exporter or a runtime, which must not go unnoticed.
_MOST_DIFFERENCE = 1e-4
_NAMES = {
    False: (["waveforms"], ["z", "c"]),
    True: (["block", "samples", "hidden"], ["z", "c", "next_samples", "next_hidden"]),
}
_AXES = {
    "waveforms": {0: "batch", 1: "num_samples"},
    "block": {0: "batch", 1: "num_samples"},
    "samples": {0: "batch", 1: "num_kept"},
    "hidden": {1: "batch"},
    "z": {0: "batch", 1: "num_frames"},
    "c": {0: "batch", 1: "num_frames"},
    "next_samples": {0: "batch", 1: "next_num_kept"},
    "next_hidden": {1: "batch"},
}
_EXPECTED_WARNINGS: dict[str, type[Warning]] = {
    "`torch.jit.[a-z]+` is deprecated": FutureWarning,
    "You are using the legacy TorchScript-based ONNX export": DeprecationWarning,
    "The feature will be removed": DeprecationWarning,  # a function that the older exporter calls
    "Exporting a model to ONNX with a batch_size other than 1": UserWarning,
    "Constant folding - Only steps=1": UserWarning,  # padding stays as it is, which is right
}
Call = Callable[[Sequence[Tensor]], list[Tensor]]


class ExportError(ValueError):
    """A network that cannot be exported as asked."""


def export_run(
    run: str | Path, target: Target, out: str | Path | None = None, *, streaming: bool = False, which: Which = "best"
) -> str:
    """Write the network of a run as a file that ONNX runtimes or TorchScript load without this package.

    Args:
        run: run folder, or one of its checkpoints.
        target: "onnx" or "torchscript".
        out: the file; by default model.onnx or model.ts in the run folder, model-streaming.onnx or .ts for streaming.
        streaming: export the network that takes a waveform in blocks, with its state as inputs and outputs.
        which: the checkpoint: "best" or "last".

    Returns:
        A line that says what was written, how far z and c are from the run's own, and how to load it.

    Raises:
        ExportError: the network cannot be streamed, a package is missing, or the file differs from the run.
        CheckpointError: the run cannot be read.
        ClaimError: `out` exists and was not written by this function.
    """
    path = locate_checkpoint(run, which)
    out = Path(out) if out else path.parent / f"model{'-streaming' * streaming}{SUFFIXES[target]}"
    refuse_foreign(out, _BEGINNINGS[target], what=f"a network exported to {target}")
    model, config, content = read_model(path)
    if streaming:
        _refuse_unstreamable(model, config, path)
    metadata = _describe(model, streaming) | {
        "run": f"{path.resolve().parent.name}/{path.name}",
        "update": content.get("update", 0),
        "weights": checksum(model.state_dict()),
    }
    write, load = {"onnx": (_onnx, _in_onnxruntime), "torchscript": (_torchscript, _in_torch)}[target]
    with torch.no_grad(), _without_expected_warnings():
        data = write(torch.jit.script((Streaming if streaming else Whole)(model).eval()), model, metadata)
        call, runtime = load(data)
        difference = _compare(model, call, streaming) if call else 0.0
    if not difference <= _MOST_DIFFERENCE:  # NaN, too
        raise ExportError(
            f"{path}: {runtime}: z or c differs by {difference:.1e}, expected {_MOST_DIFFERENCE:.0e} at most"
        )
    measured = f"z and c differ from the run's by at most {difference:.1e} ({runtime})" if call else runtime
    write_bytes(out, data)
    return f"wrote {out}; {measured}; {_how_to_load(target, out, streaming)}"


def _refuse_unstreamable(model: CPC, config: Config, path: Path) -> None:
    """Refuse to stream what needs the end of a file.

    Raises:
        ExportError: naming the setting.
    """
    way_out = "export it without --streaming"
    if isinstance(model.g_ar, Bidirectional):
        raise ExportError(
            f'{path}: autoregressor.directions = "both" reads whole files from both ends, so c cannot be streamed; '
            f"{way_out}"
        )
    if any(map(any, model.g_enc.geometry.paddings)):
        raise ExportError(
            f'{path}: encoder.padding = "{config.encoder.padding}" pads each layer at both ends of a file, which a '
            f"block does not show; {way_out}"
        )


def _describe(model: CPC, streaming: bool) -> dict[str, Any]:
    """Say what the network takes and what its frames are."""
    geometry, inside = model.g_enc.geometry, "in the network: each row is a whole utterance, of any level"
    outside = "before the network: it takes utterances of zero mean and unit variance, or a running estimate of that"
    about = {
        "cpc_version": versions()["cpc"],
        "sample_rate": model.sample_rate,
        "hop_samples": geometry.hop_samples,
        "first_centre_samples": geometry.first_centre_samples,
        "receptive_field_samples": geometry.receptive_field_samples,
        "z_dim": model.g_enc.channels,
        "c_dim": model.g_ar.hidden_dim,
        "normalisation": (outside if streaming else inside) if model.normalise else "none",
        "streaming": streaming,
    }
    if streaming:
        about["hidden_shape"] = [len(_hidden(model, 1)), "batch", model.g_ar.hidden_dim]
    return about


def _hidden(model: CPC, num_waveforms: int) -> Tensor:
    """The hidden states at the start of a file: zeros (L, B, H), (2 L, B, H) for an LSTM."""
    g_ar = model.g_ar
    assert not isinstance(g_ar, Bidirectional)
    return torch.zeros(recurrent_of(g_ar).num_states, num_waveforms, g_ar.hidden_dim)


# --- the formats


def _onnx(network: torch.jit.ScriptModule, model: CPC, metadata: dict[str, Any]) -> bytes:
    """Convert a network to ONNX.

    torch's newer exporter (dynamo=True) unrolls recurrent networks or loops over frames, and fails on a GRU in torch
    2.14; the older one writes the operators GRU and LSTM.
    """
    try:
        import onnx
    except ImportError:
        raise ExportError("exporting to ONNX needs onnx: pip install 'cpc-audio[onnx]'") from None
    inputs, outputs = _NAMES[metadata["streaming"]]
    waveform = torch.randn(2, 4 * model.g_enc.geometry.receptive_field_samples)
    example = (waveform, waveform[:, :1], _hidden(model, 2)) if metadata["streaming"] else (waveform,)
    axes = {name: _AXES[name] for name in (*inputs, *outputs)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            network,
            example,
            path,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
        graph = onnx.load(path)
    graph.producer_name, graph.producer_version = "cpc", metadata["cpc_version"]
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    onnx.helper.set_model_props(graph, texts)
    onnx.checker.check_model(graph)
    return bytes(graph.SerializeToString())


def _torchscript(network: torch.jit.ScriptModule, model: CPC, metadata: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(network, buffer, _extra_files={METADATA: json.dumps(metadata)})
    return buffer.getvalue()


@contextmanager
def _without_expected_warnings() -> Iterator[None]:
    """Silence what torch says about TorchScript and its older exporter.

    Both are deprecated, and neither has a successor that keeps recurrent networks whole. The warning about batch sizes
    is meant for networks whose initial states have a fixed size.
    """
    with warnings.catch_warnings():
        for message, category in _EXPECTED_WARNINGS.items():
            warnings.filterwarnings("ignore", message, category)
        yield


# --- the comparison


def _in_onnxruntime(data: bytes) -> tuple[Call | None, str]:
    try:
        import onnxruntime
    except ImportError:
        return None, "not compared: no onnxruntime here, pip install 'cpc-audio[onnx]'"
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def call(inputs: Sequence[Tensor]) -> list[Tensor]:
        found = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
        return [torch.from_numpy(y) for y in found]

    return call, f"onnxruntime {onnxruntime.__version__}"


def _in_torch(data: bytes) -> tuple[Call | None, str]:
    network = torch.jit.load(io.BytesIO(data))  # type: ignore[no-untyped-call]
    return lambda inputs: list(network(*inputs)), f"torch {torch.__version__}"


def _compare(model: CPC, call: Call, streaming: bool) -> float:
    """Run noise of two lengths and batch sizes through the exported network and the model.

    Returns:
        The largest difference of z and c, relative to their largest value where that is above 1.
    """
    geometry, generator = model.g_enc.geometry, torch.Generator().manual_seed(0)
    differences = []
    for num_waveforms, num_frames in ((1, 1), (3, 40)):
        x = torch.randn(num_waveforms, geometry.min_samples(num_frames) + 7, generator=generator)
        if streaming:
            expected, found = model.represent(x), _stream(call, x, _hidden(model, num_waveforms), geometry.hop_samples)
        else:
            expected, found = model(x), call([x])
        for a, b in zip(found, expected, strict=True):
            differences.append(float((a - b).abs().max() / b.abs().max().clamp_min(1)))
    return max(differences)


def _stream(call: Call, x: Tensor, hidden: Tensor, hop_samples: int) -> list[Tensor]:
    """Represent a waveform in blocks of growing length, of which the first complete no frame."""
    samples, pieces, begin = x[:, :0], [], 0
    while begin < x.shape[1]:
        end = 2 * begin + hop_samples // 2 + 1
        z, c, samples, hidden = call([x[:, begin:end], samples, hidden])
        pieces.append((z, c))
        begin = end
    return [torch.cat(frames, dim=1) for frames in zip(*pieces, strict=True)]


def _how_to_load(target: Target, out: Path, streaming: bool) -> str:
    inputs, outputs = _NAMES[streaming]
    if target == "torchscript":
        return f'load it: {", ".join(outputs)} = torch.jit.load("{out}")({", ".join(inputs)})'
    fed = ", ".join(f'"{name}": {name}' for name in inputs)
    return f'load it: {", ".join(outputs)} = onnxruntime.InferenceSession("{out}").run(None, {{{fed}}})'
