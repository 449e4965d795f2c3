"""A picture of the candidates that one prediction is scored against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from numpy.typing import NDArray

from cpc.infonce import Negatives, infonce
from cpc.report.figures import BLUE, GREEN, ORANGE, Figure

_LIGHT = "#eeeeee"  # of latents that are no candidates


def candidates_of(negatives: Negatives, anchor: tuple[int, int], step: int) -> NDArray[np.int8]:
    """Determine which latents of a batch one prediction is scored against.

    The criterion itself is asked: where all latents are equal, the derivative of the anchor's loss is negative at the
    positive, positive at each negative, and zero elsewhere.

    Args:
        negatives: of the batch.
        anchor: (b, t), the window and the frame of the context c.
        step: k.

    Returns:
        (B, T): 1 at the negatives, −1 at the positive (b, t + k), 0 elsewhere.
    """
    b, t = anchor
    shape = (len(negatives.num_frames), max(negatives.num_frames), 1)
    z, predictions = torch.zeros(shape, requires_grad=True), torch.zeros(1, *shape)
    predictions[0, b, t] = 1
    infonce(z, predictions, negatives, (step,)).losses.sum().backward()  # type: ignore[no-untyped-call]
    assert z.grad is not None
    return z.grad[:, :, 0].sign().numpy().astype(np.int8)


def negatives_figure(negatives: Negatives, anchor: tuple[int, int], step: int, names: Sequence[str] = ()) -> Figure:
    """Draw a batch as rows of latents, and mark a context, the latent that it predicts, and the negatives.

    Args:
        negatives: of the batch, B windows of T frames.
        anchor: (b, t), the window and the frame of the context c.
        step: k, how many frames ahead the context predicts.
        names: (B,) names of the windows; by default their numbers.
    """
    kinds = candidates_of(negatives, anchor, step)
    num_windows, num_frames = kinds.shape
    figure = Figure(figsize=(9.0, 1.3 + 0.3 * num_windows), layout="constrained")
    axes = figure.subplots()
    axes.pcolormesh(kinds, cmap=ListedColormap([GREEN, _LIGHT, ORANGE]), vmin=-1, vmax=1, edgecolors="white", lw=0.4)
    b, t = anchor
    axes.plot(t + 0.5, b + 0.5, "o", color=BLUE, markersize=7, label="context c")
    axes.set_ylim(num_windows, 0)
    axes.set_yticks(np.arange(num_windows) + 0.5, names or [f"window {i}" for i in range(num_windows)])
    axes.set(xlabel="frame", xlim=(0, num_frames))
    axes.spines[:].set_visible(False)
    count = int((kinds > 0).sum())
    meanings = [
        (GREEN, f"positive, k = {step} frames ahead"),
        (ORANGE, f"negatives: {count}"),
        (_LIGHT, "not compared"),
    ]
    handles = [axes.lines[0], *(Patch(color=color, label=label) for color, label in meanings)]
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=4, frameon=False)
    return figure
