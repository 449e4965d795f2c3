"""A run folder's checkpoints: last.pt to go on from, best.pt with the lowest dev loss.

A checkpoint holds tensors and plain values only and is read with `weights_only`: nothing in it can execute. The
configuration travels inside, so the weights need no other file.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, Literal

import torch

from cpc import config as configuration
from cpc.config import Config
from cpc.files import write_bytes
from cpc.model import CPC, build

FORMAT = 1
Which = Literal["best", "last"]


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of another architecture."""


def save(path: Path, config: Config, model: CPC, **rest: Any) -> None:
    """Write atomically; `rest` are further tensors and plain values (the optimiser's state, the update)."""
    buffer = io.BytesIO()  # to memory first, so that a full disk shows as an OSError that names the file
    payload = {"format": FORMAT, "config": configuration.to_dict(config), "model": model.state_dict(), **rest}
    torch.save(payload, buffer)
    write_bytes(path, buffer.getbuffer())


def read(path: Path, device: torch.device | str = "cpu") -> tuple[Config, dict[str, Any]]:
    """The configuration inside a checkpoint, and its whole content.

    Raises:
        CheckpointError: missing, damaged, or not one of ours.
    """
    try:
        payload = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint; `cpc train` writes it into its --out folder") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path}: cannot be read as weights ({reason}); it is damaged, or no checkpoint of cpc"
        ) from None
    if not isinstance(payload, dict) or not {"format", "config", "model"} <= payload.keys():
        raise CheckpointError(f"{path}: not a checkpoint of cpc; expected one written by `cpc train`")
    if payload["format"] != FORMAT:
        raise CheckpointError(f"{path}: checkpoint format {payload['format']}, this version reads {FORMAT}")
    return configuration.from_dict(payload["config"], where=str(path)), payload


def restore(model: CPC, payload: dict[str, Any], path: Path) -> None:
    """Put a checkpoint's weights into a model of the same architecture.

    Raises:
        CheckpointError: naming the first weight that differs.
    """
    ours, theirs = model.state_dict(), payload["model"]
    for name in [*ours, *theirs]:
        got = tuple(theirs[name].shape) if name in theirs else "no such weight"
        expected = tuple(ours[name].shape) if name in ours else "no such weight"
        if got != expected:
            raise CheckpointError(
                f"{path}: a checkpoint of another architecture: {name}: got {got}, expected {expected}; use the "
                "configuration it was trained with"
            )
    model.load_state_dict(theirs)


def locate(run: str | Path, which: Which = "best") -> Path:
    """The checkpoint file of a run folder; a path to a file is returned as it is.

    Raises:
        CheckpointError: if it is not there, naming what is.
    """
    run = Path(run)
    if run.is_file():
        return run
    if not run.is_dir():
        raise CheckpointError(f"{run}: no such run folder; `cpc train CONFIG.toml --out {run}` makes it")
    path = run / f"{which}.pt"
    if not path.exists():
        there = ", ".join(sorted(p.name for p in run.glob("*.pt"))) or "none"
        raise CheckpointError(f"{path}: no such checkpoint; in this folder: {there}")
    return path


def load(run: str | Path, which: Which = "best", device: str = "cpu") -> CPC:
    """The trained model of a run folder (or of a checkpoint file), ready to represent audio.

    Args:
        run: folder that `cpc train` wrote, or a .pt file in it.
        which: "best" (lowest dev loss) or "last".
        device: where to put it.

    Returns:
        The model in evaluation mode: z, c = model(waveforms).

    Raises:
        CheckpointError: missing, damaged, or of another architecture.
    """
    path = locate(run, which)
    config, payload = read(path, device)
    model = build(config).to(device)
    restore(model, payload, path)
    return model.eval().requires_grad_(False)
