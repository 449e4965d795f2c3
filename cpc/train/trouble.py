"""Losses, gradients and weights that are not finite: which update, which utterances, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cpc.data import Batch, tolerated
from cpc.runs import read_checkpoint, save_checkpoint
from cpc.train.setup import Parts

_NAMED = 8  # utterances in a message; the file names all


class TrainingError(ValueError):
    """A run that cannot start or continue."""


def first_not_finite(trained: torch.nn.Module) -> str:
    """Return the name of the first weight that holds NaN or infinity; empty if there is none."""
    weights = dict(trained.named_parameters())
    finite = torch.stack([weight.isfinite().all() for weight in weights.values()])  # one transfer from a GPU for all
    return "" if finite.all() else list(weights)[int(finite.int().argmin())]


def diverged(run: Path, what: str, advice: str = "lower --optim.lr or set --optim.clip-norm") -> TrainingError:
    """Make the error of a run that is beyond help; its checkpoint is of an update at which all weights were finite."""
    saved = "no checkpoint was written"
    if (run / "last.pt").exists():
        saved = f"last.pt is of update {read_checkpoint(run / 'last.pt')[1]['update']}, when all weights were finite"
    return TrainingError(f"{run}: {what}; {advice}; {saved}")


def leave_out(run: Path, parts: Parts, batches: Sequence[Batch], update: int, num_skipped: int) -> str:
    """Leave out an update whose gradient is not finite, if the run is to.

    Args:
        run: its folder.
        parts: of the run; the weights are those before the update.
        batches: what this process has taken for the update.
        update: its number.
        num_skipped: how many were left out, with this one.

    Returns:
        What happened, in words.

    Raises:
        TrainingError: the run stops at such an update, or too many were left out. The weights and the batches are in
            not_finite.pt.
    """
    contents = [_content(parts, batch) for batch in batches]
    names = list(dict.fromkeys(name for content in contents for name in content["utterances"]))
    shown = ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
    what = f"the gradient of update {update} is not finite, from windows of {shown}"
    skips, limit = parts.config.train.on_not_finite == "skip", tolerated(parts.config.train.num_updates)
    if skips and num_skipped <= limit:
        return f"{what}: left out ({num_skipped} of at most {limit})"
    path = run / ("not_finite.pt" if parts.ranks.size == 1 else f"not_finite.{parts.ranks.rank}.pt")
    save_checkpoint(path, parts.config, parts.network, update=update - 1, batches=contents)
    advice = f"{path.name} holds them and the weights before it; lower --optim.lr, set --optim.clip-norm"
    if skips:
        raise diverged(run, f"{what}, and {num_skipped} updates were left out, more than {limit}", advice)
    raise diverged(run, what, f"{advice}, or leave such updates out by --train.on-not-finite skip")


def _content(parts: Parts, batch: Batch) -> dict[str, Any]:
    """What a checkpoint can hold of a batch."""
    manifest = parts.data.train.manifest
    return {
        "waveforms": batch.waveforms,
        "past": batch.past,
        "utterances": [manifest.utterances[row] for row in batch.utterance],
        "start": batch.start,
        "num_samples": batch.num_samples,
    }
