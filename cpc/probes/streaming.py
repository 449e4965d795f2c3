"""Fit logistic regression to frames that do not fit in memory, in mini-batches of frames streamed from disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from cpc.probes.classifiers import BATCHES, MIN_BATCH, Fit, Progress
from cpc.probes.frames import Sample
from cpc.probes.logistic import as_estimator, penalty_of
from cpc.probes.options import Options

MAX_BATCH = 1024
# Few frames are read in as many epochs as give MIN_STEPS updates, but in no more than MAX_EPOCHS.
EPOCHS, MAX_EPOCHS, MIN_STEPS = 4, 60, 4000
LEARNING_RATE = 5e-3  # of Adam, falling linearly to 0


@dataclass(frozen=True)
class Stream:
    """All train frames, read again in every epoch.

    Attributes:
        read: epoch → all frames in blocks, shuffled.
        num_frames: number of frames in an epoch.
        classes: sorted classes that occur.
    """

    read: Callable[[int], Iterator[Sample]]
    num_frames: int
    classes: NDArray[np.int64]

    def batches(self, epoch: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Read an epoch as mini-batches: frames (n, D), and places in `classes` (n,)."""
        for x, y in self.read(epoch):
            places = torch.from_numpy(np.searchsorted(self.classes, y))
            for first in range(0, len(x), size):
                yield torch.from_numpy(x[first : first + size]), places[first : first + size]


class _Classifiers:
    """The classifiers of all Cs, which learn side by side so that the frames are read once an epoch."""

    def __init__(self, Cs: Sequence[float], dim: int, stream: Stream) -> None:
        self.penalty = torch.tensor([penalty_of(C, stream.num_frames, len(stream.classes)) for C in Cs])
        self.w = torch.zeros(len(Cs), dim, len(stream.classes), requires_grad=True)
        self.b = torch.zeros(len(Cs), 1, len(stream.classes), requires_grad=True)

    def objective(self, x: Tensor, places: Tensor) -> Tensor:
        """The sum of the objectives of all Cs, ()."""
        logits = x @ self.w + self.b  # (Cs, n, classes)
        wanted = places.expand(len(logits), -1)
        loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten()) * len(logits)
        return loss + (self.penalty * self.w.square().sum((1, 2))).sum() / 2

    @torch.no_grad()
    def accuracies(self, sample: Sample, classes: NDArray[np.int64]) -> list[float]:
        """The share of correctly classified frames for each C."""
        predicted = torch.from_numpy(classes)[(torch.from_numpy(sample.x) @ self.w + self.b).argmax(2)]  # (Cs, n)
        shares = (predicted == torch.from_numpy(sample.y)).float().mean(1)
        return [float(share) for share in shares]

    def gradients(self, batches: Iterator[tuple[Tensor, Tensor]], num_frames: int) -> list[float]:
        """The largest absolute derivative of the objective over all frames, for each C."""
        self.w.grad = self.b.grad = None
        for x, places in batches:
            (self.objective(x, places) * (len(x) / num_frames)).backward()  # type: ignore[no-untyped-call]
        largest = [weights.grad.abs().amax((1, 2)) for weights in (self.w, self.b) if weights.grad is not None]
        return [float(value) for value in torch.stack(largest).amax(0)]

    def as_estimator(self, i: int, C: float, classes: NDArray[np.int64]) -> LogisticRegression:
        """One of the classifiers in scikit-learn's form."""
        return as_estimator(self.w[i].detach().numpy(), self.b[i, 0].detach().numpy(), C, classes)


def fit_streaming(stream: Stream, dev: Sample, options: Options, tell: Progress) -> list[Fit]:
    """Approach the optimum of `fit_logistic` on all frames by mini-batches, with one block in memory at a time.

    A last pass over the frames measures the gradient. A classifier counts as converged by the criterion of L-BFGS: its
    largest absolute derivative is at most `options.tol`. Small changes over the last epoch would prove nothing, because
    the learning rate falls to 0.

    Args:
        stream: the train frames. If it permutes the labels anew in every epoch, the gradient includes their noise.
        dev: the dev frames.
        options: Cs and tol.
        tell: takes a line for each C.

    Returns:
        One fit for each C, ascending.
    """
    Cs = sorted(set(options.Cs))
    classifiers = _Classifiers(Cs, dev.x.shape[1], stream)
    optimiser = torch.optim.Adam([classifiers.w, classifiers.b], lr=LEARNING_RATE, betas=(0.9, 0.99))
    size = min(MAX_BATCH, max(MIN_BATCH, stream.num_frames // BATCHES))
    epochs = min(MAX_EPOCHS, max(EPOCHS, -(-MIN_STEPS * size // stream.num_frames)))
    total, done = epochs * stream.num_frames, 0
    with tqdm(total=total, unit="frame", unit_scale=True, desc="probe", dynamic_ncols=True) as bar:
        for epoch in range(epochs):
            for x, places in stream.batches(epoch, size):
                optimiser.param_groups[0]["lr"] = LEARNING_RATE * max(0.0, 1 - done / total)
                optimiser.zero_grad(set_to_none=True)
                classifiers.objective(x, places).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                done += len(x)
                bar.update(len(x))
            reached = classifiers.accuracies(dev, stream.classes)
            bar.set_postfix_str(f"dev accuracy {max(reached):.4f}", refresh=False)
    gradients = classifiers.gradients(stream.batches(epochs, size), stream.num_frames)
    fits = []
    for i, (C, dev_accuracy, gradient) in enumerate(zip(Cs, reached, gradients, strict=True)):
        tell(f"  C {C:g}: dev accuracy {dev_accuracy:.4f} after {epochs} epochs over {stream.num_frames} frames")
        warning = f"largest gradient {gradient:.1e} after {epochs} epochs, tol {options.tol:g}"
        converged = gradient <= options.tol
        model = classifiers.as_estimator(i, C, stream.classes)
        fits.append(Fit(model, C, dev_accuracy, epochs, None if converged else warning))
    return fits
