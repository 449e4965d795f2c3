"""A run folder: last.pt to continue from, best.safetensors with the lowest dev loss, metrics.jsonl; and the model.

Weights are safetensors, whose header holds the configuration, so they need no other file. What training continues from
is a .pt file of tensors and plain values, read with `weights_only`. Nothing in either can execute. torch is imported on
first use: reading metrics does not need it.
"""

from __future__ import annotations

import io
import json
import math
import pickle
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cpc.config import Config, config_from_dict, config_to_dict
from cpc.files import write_bytes

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cpc.model import CPC

FORMAT = 1
BEST = "best.safetensors"
WEIGHTS = ".safetensors"
_HEADER = "cpc"  # the one entry of the header, because the library does not keep the order of several
Which = Literal["best", "last"]


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of another architecture."""


class MetricsError(ValueError):
    """A metrics file that is missing or damaged."""


# --- the model


def build_model(config: Config, kind: type[CPC] | None = None) -> CPC:
    """Build a model with random weights, a `CPC` or a subclass of it."""
    from cpc.model import CPC, Autoregressor, Bidirectional, Encoder, LogMelEncoder, Predictor

    encoder, autoregressor, criterion = config.encoder, config.autoregressor, config.criterion
    match encoder.kind:
        case "conv":
            g_enc: Encoder | LogMelEncoder = Encoder(
                encoder.channels, encoder.strides, encoder.norm, encoder.padding, encoder.initial
            )
        case "logmel":
            g_enc = LogMelEncoder(encoder.channels, config.audio.sample_rate)

    def build_autoregressor() -> Autoregressor:
        return Autoregressor(encoder.channels, autoregressor.hidden, autoregressor.kind, autoregressor.layers)

    def build_predictor() -> Predictor:
        return Predictor(autoregressor.hidden, encoder.channels, len(criterion.steps))

    # The weights are drawn in this order; one that is needed only in both directions comes last.
    g_ar, predictor = build_autoregressor(), build_predictor()
    both = autoregressor.directions == "both"
    return (kind or CPC)(
        g_enc,
        Bidirectional(g_ar, build_autoregressor()) if both else g_ar,
        predictor,
        build_predictor() if both else None,
        tau=math.sqrt(encoder.channels) if criterion.tau == "sqrt_dim" else criterion.tau,
        sample_rate=config.audio.sample_rate,
        normalise=config.audio.normalise == "utterance",
    )


def load(run: str | Path, which: Which = "best", device: str = "cpu") -> CPC:
    """Load the trained model of a run folder (or of a checkpoint file), ready to represent audio.

    Args:
        run: folder that `cpc train` wrote, or a checkpoint in it.
        which: "best" (lowest dev loss) or "last".
        device: device to put the model on.

    Returns:
        The model in evaluation mode: z, c = model(waveforms).

    Raises:
        CheckpointError: missing, damaged, or of another architecture.
    """
    return read_model(locate_checkpoint(run, which), device)[0]


def read_model(path: Path, device: str = "cpu", kind: type[CPC] | None = None) -> tuple[CPC, Config, dict[str, Any]]:
    """Read a checkpoint as `load` does: the model, a `CPC` or a subclass of it; the configuration; the whole content.

    Raises:
        CheckpointError: missing, damaged, or of another architecture.
    """
    config, payload = read_checkpoint(path, device)
    model = build_model(config, kind).to(device)
    restore_weights(model, payload, path)
    return model.eval().requires_grad_(False), config, payload


def config_of_run(run: str | Path, which: Which = "best") -> Config:
    """Read the configuration inside a checkpoint of a run folder (or a checkpoint file).

    Raises:
        CheckpointError: missing or damaged.
    """
    return read_checkpoint(locate_checkpoint(run, which))[0]


# --- checkpoints


def save_weights(path: Path, config: Config, model: nn.Module, **rest: Any) -> None:
    """Write a model's weights as safetensors, atomically; `rest` are plain values of JSON, for the header."""
    import torch
    from safetensors.torch import save

    weights = {  # each a copy, because the library refuses weights that share memory
        name: torch.clone(weight.detach().cpu(), memory_format=torch.contiguous_format)
        for name, weight in sorted(model.state_dict().items())
    }
    header = {"format": FORMAT, "config": config_to_dict(config), **rest}
    header["checksum"] = checksum({**header, "model": weights})
    write_bytes(path, save(weights, {_HEADER: json.dumps(header)}))


def save_checkpoint(path: Path, config: Config, model: nn.Module, **rest: Any) -> None:
    """Write a checkpoint atomically; `rest` are further tensors and plain values (optimiser states, the update)."""
    import torch

    buffer = io.BytesIO()  # write to memory first, so that a full disk shows as an OSError that names the file
    payload = {"format": FORMAT, "config": config_to_dict(config), "model": model.state_dict(), **rest}
    torch.save({**payload, "checksum": checksum(payload)}, buffer)
    write_bytes(path, buffer.getbuffer())


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> tuple[Config, dict[str, Any]]:
    """Read a checkpoint, or weights: the configuration, and the whole content.

    Raises:
        CheckpointError: missing, damaged, or not written by cpc.
    """
    import torch
    from safetensors import SafetensorError

    try:
        if path.suffix == WEIGHTS:
            payload = _read_weights(path, device)
        else:
            payload = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint; `cpc train` writes it into its --out folder") from None
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path}: cannot be read as weights ({reason}); it is damaged, or no checkpoint of cpc"
        ) from None
    if not isinstance(payload, dict) or not {"format", "config", "model"} <= payload.keys():
        raise CheckpointError(f"{path}: not a checkpoint of cpc; expected one written by `cpc train`")
    model = payload["model"]
    if not isinstance(payload["config"], dict) or not isinstance(model, dict):
        raise CheckpointError(f"{path}: damaged, its config or its model is no table of values")
    odd = [name for name, weight in model.items() if not isinstance(weight, torch.Tensor) or weight.is_sparse]
    if odd:
        raise CheckpointError(f"{path}: damaged, the weight {odd[0]} is no plain tensor")
    if not isinstance(payload["format"], int) or payload["format"] != FORMAT:
        raise CheckpointError(f"{path}: checkpoint format {str(payload['format'])[:20]}, this version reads {FORMAT}")
    if payload.pop("checksum", None) not in (None, checksum(payload)):  # those of earlier versions have none
        raise CheckpointError(f"{path}: damaged, its content does not have its checksum; use a copy of it")
    return config_from_dict(payload["config"], where=str(path)), payload


def _read_weights(path: Path, device: torch.device | str) -> dict[str, Any]:
    """Read a safetensors file as `read_checkpoint` wants it; one that is not of cpc lacks the configuration."""
    from safetensors import safe_open

    with safe_open(path, framework="pt", device=str(device)) as f:
        header = json.loads((f.metadata() or {}).get(_HEADER, "{}"))
        weights = {name: f.get_tensor(name) for name in sorted(f.keys())}
    return {**header, "model": weights} if isinstance(header, dict) else {}


def checksum(value: Any) -> str:
    """Compute a digest of nested tensors and plain values; a flipped bit gives another one."""
    digest = blake2b(digest_size=16)
    for text, data in _leaves(value):
        digest.update(f"{text}\n".encode())
        digest.update(data)
    return digest.hexdigest()


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, bytes | memoryview]]:
    """Yield the name, type and value of each leaf of nested dictionaries and lists, and the bytes of tensors."""
    import torch

    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}/{key!r}")
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _leaves(inner, f"{name}/{i}")
    elif isinstance(value, torch.Tensor):
        flat = value.detach().cpu().contiguous().flatten()
        yield f"{name} {value.dtype} {tuple(value.shape)}", flat.view(torch.uint8).numpy().data  # no copy
    else:
        yield f"{name} {value!r}", b""


def restore_weights(model: nn.Module, payload: dict[str, Any], path: Path) -> None:
    """Copy a checkpoint's weights into a model of the same architecture.

    Raises:
        CheckpointError: naming the first weight that differs, or that holds NaN or infinity.
    """
    ours, theirs = model.state_dict(), payload["model"]
    for name in [*ours, *theirs]:
        got = tuple(theirs[name].shape) if name in theirs else "no such weight"
        expected = tuple(ours[name].shape) if name in ours else "no such weight"
        if got != expected:
            raise CheckpointError(
                f"{path}: a checkpoint of another architecture: {name}: got {got}, expected {expected}; "
                f"{_way_out(payload, path)}"
            )
        if theirs[name].is_floating_point() and not theirs[name].isfinite().all():
            raise CheckpointError(f"{path}: {name}: holds NaN or infinity; the run diverged, or the file is damaged")
    model.load_state_dict(theirs)


def _way_out(payload: dict[str, Any], path: Path) -> str:
    """Say what a checkpoint's weights fit."""
    if "model_class" not in payload:
        return "use the configuration it was trained with"
    return (
        f"it was trained as train(…, model={payload['model_class']}(…)), which is passed again to resume; elsewhere, "
        f"model.load_state_dict(safetensors.torch.load_file({str(path.with_name(BEST))!r})) reads the weights"
    )


def locate_checkpoint(run: str | Path, which: Which = "best") -> Path:
    """Return the checkpoint file of a run folder; return the path of a file unchanged.

    Raises:
        CheckpointError: no such checkpoint; the message lists those that there are.
    """
    run = Path(run)
    if run.is_file():
        return run
    if not run.is_dir():
        raise CheckpointError(f"{run}: no such run folder; `cpc train CONFIG.toml --out {run}` makes it")
    path = best_weights(run) if which == "best" else run / "last.pt"
    if not path.exists():
        there = ", ".join(sorted(p.name for p in run.iterdir() if p.suffix in (WEIGHTS, ".pt"))) or "none"
        raise CheckpointError(f"{path}: no such checkpoint; in this folder: {there}")
    return path


def best_weights(run: Path) -> Path:
    """Return the file that holds, or will hold, the weights with the lowest dev loss."""
    before = run / "best.pt"  # earlier versions wrote this one
    return before if before.exists() and not (run / BEST).exists() else run / BEST


# --- metrics


def append_metrics(path: Path, line: dict[str, Any]) -> None:
    """Append a line. A crash of the machine may lose or tear it, which `read_metrics` allows for."""
    with path.open("a", encoding="utf-8") as f:
        f.write(json.dumps(line) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read all measurements, of kind "train" and "dev", except a last line that a crash tore.

    Raises:
        MetricsError: missing file, or a line before the last that is not JSON.
    """
    return [line for line in _read_lines(path) if line["kind"] != "start"]


def read_starts(path: Path) -> list[dict[str, Any]]:
    """Read where the run computed: the first line, and others of updates from which it went on elsewhere.

    Raises:
        MetricsError: as `read_metrics`.
    """
    return [line for line in _read_lines(path) if line["kind"] == "start"]


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise MetricsError(f"{path}: no such file; `cpc train --out {path.parent}` writes it") from None
    rows = []
    for i, line in enumerate(lines):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            if i < len(lines) - 1:
                raise MetricsError(f"{path}: line {i + 1} is not JSON") from None
            continue
        needed = (
            {"kind", "update"} if isinstance(row, dict) and row.get("kind") == "start" else {"kind", "update", "loss"}
        )
        if not isinstance(row, dict) or not needed <= row.keys():
            raise MetricsError(f"{path}: line {i + 1} is no line of a run's metrics: it lacks kind, update or loss")
        rows.append(row)
    return rows


def steps_of(line: dict[str, Any]) -> list[int]:
    """Return the steps k to which the values by step of a line of metrics.jsonl belong."""
    return line.get("steps") or list(range(1, len(line["loss_k"]) + 1))


def gain(line: dict[str, Any]) -> float:
    """Return log N − loss of a line of metrics.jsonl: how far the loss is below a guess's, in nats."""
    return float(line["log_n"] - line["loss"])


def keep_metrics_until(path: Path, update: int) -> None:
    """Drop the lines after `update`, which a resumed run will write again."""
    if path.exists():
        rows = [row for row in _read_lines(path) if row["update"] <= update]
        write_bytes(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
