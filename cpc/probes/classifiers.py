"""What is fitted to frames: logistic regression on drawn frames, the same on all frames by streaming, one hidden layer.

All choose on dev and are scored through `predict`, as scikit-learn's estimators.

Source: van den Oord et al. 2018, section 3.1: linear (64.6 % of phones), and with one hidden layer (72.5).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from torch.nn import functional as F
from tqdm import tqdm

Frames = NDArray[np.float32]  # (n, D), standardised
Classes = NDArray[np.int64]  # (n,)
Progress = Callable[[str], None]

# Of streaming: epochs over all frames, and over few frames as many as make MIN_STEPS; Adam, its rate falling to 0.
EPOCHS, MAX_EPOCHS, MIN_STEPS, STREAM_LR = 4, 60, 4000, 5e-3
MIN_BATCH, MAX_BATCH, BATCHES = 32, 1024, 100  # small sets have smaller batches
# Of the hidden layer: the paper does not say how wide. Training ends when dev has not gained for PATIENCE epochs.
HIDDEN, MLP_EPOCHS, PATIENCE = 256, 50, 4


@dataclass(frozen=True)
class Fit:
    """A classifier and how it came about.

    Attributes:
        model: has `predict`.
        C: inverse strength of its regularisation; None where there is none to choose.
        dev_accuracy: in [0, 1].
        num_iterations: of the optimiser: L-BFGS iterations, or epochs.
        warning: why it may not be the optimum.
    """

    model: Any
    C: float | None
    dev_accuracy: float
    num_iterations: int
    warning: str | None = None


def logistic(
    x: Frames, y: Classes, x_dev: Frames, y_dev: Classes, Cs: Sequence[float], max_iter: int, tol: float, tell: Progress
) -> list[Fit]:
    """A classifier for each C, the strongest regularisation first, each starting where the last one ended."""
    model = LogisticRegression(max_iter=max_iter, tol=tol, warm_start=True)
    fits = []
    for C in sorted(set(Cs)):
        model.set_params(C=C)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            model.fit(x, y)
        convergence = [w for w in caught if issubclass(w.category, ConvergenceWarning)]
        for other in (w for w in caught if w not in convergence):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
        warning = str(convergence[-1].message).splitlines()[0] if convergence else None
        dev_accuracy = float((model.predict(x_dev) == y_dev).mean())
        iterations = int(model.n_iter_.max())
        fits.append(Fit(copy.deepcopy(model), C, dev_accuracy, iterations, warning))
        tell(f"  C {C:g}: dev accuracy {dev_accuracy:.4f} after {iterations} iterations")
    return fits


def streamed(
    blocks: Callable[[int], Iterator[tuple[Frames, Classes]]],
    num_frames: int,
    classes: Classes,
    x_dev: Frames,
    y_dev: Classes,
    Cs: Sequence[float],
    seed: int,
    tell: Progress,
) -> list[Fit]:
    """The optimum of `logistic` on all frames, approached in mini-batches: memory holds a block at a time.

    The classifiers of all Cs learn side by side, so the frames are read once an epoch.

    Args:
        blocks: epoch → all frames, shuffled, in blocks.
        num_frames: in all blocks of an epoch.
        classes: sorted, all that occur.
        x_dev: dev frames.
        y_dev: their classes.
        Cs: inverse strengths of regularisation.
        seed: of nothing but where the weights start: at 0.
        tell: takes a line for each C.
    """
    ordered, dim = sorted(set(Cs)), x_dev.shape[1]
    # Mean loss + |W|² / (2 C n): scikit-learn's objective over n.
    penalty = 1 / (torch.tensor(ordered) * num_frames)
    w = torch.zeros(len(ordered), dim, len(classes), requires_grad=True)
    b = torch.zeros(len(ordered), 1, len(classes), requires_grad=True)
    optimiser = torch.optim.Adam([w, b], lr=STREAM_LR, betas=(0.9, 0.99))
    size = min(MAX_BATCH, max(MIN_BATCH, num_frames // BATCHES))
    epochs = min(MAX_EPOCHS, max(EPOCHS, -(-MIN_STEPS * size // num_frames)))
    lookup = torch.from_numpy(classes)

    def dev_accuracies() -> list[float]:
        with torch.no_grad():
            predicted = lookup[(torch.from_numpy(x_dev) @ w + b).argmax(2)]  # (Cs, n)
        return [float((predicted == torch.from_numpy(y_dev)).float().mean(1)[i]) for i in range(len(ordered))]

    done = 0
    with tqdm(total=epochs * num_frames, unit="frame", unit_scale=True, desc="probe", dynamic_ncols=True) as bar:
        for epoch in range(epochs):
            for x, y in blocks(epoch):
                places = torch.from_numpy(np.searchsorted(classes, y))
                for first in range(0, len(x), size):
                    rows = torch.from_numpy(x[first : first + size])
                    optimiser.param_groups[0]["lr"] = STREAM_LR * max(0.0, 1 - done / (epochs * num_frames))
                    logits = rows @ w + b  # (Cs, batch, classes)
                    wanted = places[first : first + size].expand(len(ordered), -1)
                    loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten()) * len(ordered)
                    loss = loss + (penalty * w.square().sum((1, 2))).sum() / 2
                    optimiser.zero_grad(set_to_none=True)
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
                    done += len(rows)
                bar.update(len(x))
            bar.set_postfix_str(f"dev accuracy {max(dev_accuracies()):.4f}", refresh=False)
    fits = []
    for i, (C, dev_accuracy) in enumerate(zip(ordered, dev_accuracies(), strict=True)):
        model = LogisticRegression(C=C)
        model.classes_, model.n_features_in_ = classes, dim
        model.coef_, model.intercept_ = w[i].detach().T.numpy().copy(), b[i, 0].detach().numpy().copy()
        if len(classes) == 2:  # scikit-learn keeps the difference only
            model.coef_, model.intercept_ = np.diff(model.coef_, axis=0), np.diff(model.intercept_)
        fits.append(Fit(model, C, dev_accuracy, epochs))
        tell(f"  C {C:g}: dev accuracy {dev_accuracy:.4f} after {epochs} epochs over {num_frames} frames")
    return fits


def one_hidden_layer(
    x: Frames, y: Classes, x_dev: Frames, y_dev: Classes, hidden: int, seed: int, tell: Progress
) -> Fit:
    """A ReLU network with one hidden layer (scikit-learn), of the epoch that was best on dev."""
    model = MLPClassifier(
        (hidden,),
        batch_size=min(len(x), 256, max(MIN_BATCH, len(x) // BATCHES)),
        learning_rate_init=1e-3,
        random_state=seed,
    )
    best, best_accuracy, best_epoch, epoch = model, -1.0, 0, 0
    classes = np.unique(y)
    while epoch < MLP_EPOCHS and epoch - best_epoch < PATIENCE:
        epoch += 1
        model.partial_fit(x, y, classes=classes)
        accuracy = float((model.predict(x_dev) == y_dev).mean())
        tell(f"  epoch {epoch}: dev accuracy {accuracy:.4f}")
        if accuracy > best_accuracy:
            best, best_accuracy, best_epoch = copy.deepcopy(model), accuracy, epoch
    warning = f"dev accuracy still rose at epoch {MLP_EPOCHS}" if best_epoch == MLP_EPOCHS else None
    return Fit(best, None, best_accuracy, best_epoch, warning)
