"""Fit classifiers to frames that are in memory: logistic regression, and a network with one hidden layer.

Both are chosen by their dev accuracy and predict as scikit-learn's estimators do. `streaming` fits the same logistic
regression to frames that do not fit in memory.

Source: van den Oord et al. 2018, section 3.1: a linear classifier recognises 64.6 % of phones, one hidden layer 72.5 %.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_info, threadpool_limits

from cpc.probes.frames import Sample
from cpc.probes.logistic import fit_path
from cpc.probes.options import Options
from cpc.processes import FreeCores

Progress = Callable[[str], None]  # takes a line of text

MIN_BATCH, MAX_MLP_BATCH, BATCHES = 32, 256, 100  # a small set has smaller batches: at least BATCHES an epoch
# Training of the hidden layer ends once the dev accuracy has not risen for PATIENCE epochs.
MLP_EPOCHS, PATIENCE = 50, 4


@dataclass(frozen=True)
class Fit:
    """A fitted classifier.

    Attributes:
        model: has `predict`.
        C: inverse regularisation strength; None if the classifier has none.
        dev_accuracy: in [0, 1].
        num_iterations: L-BFGS iterations, or epochs.
        warning: why it may not be the optimum.
    """

    model: Any
    C: float | None
    dev_accuracy: float
    num_iterations: int
    warning: str | None = None


def accuracy(model: Any, sample: Sample) -> float:
    """The share of frames that a model classifies correctly."""
    return float((model.predict(sample.x) == sample.y).mean())


def fit_logistic(train: Sample, dev: Sample, options: Options, tell: Progress) -> list[Fit]:
    """Fit a logistic regression for each C, from the strongest regularisation to the weakest."""
    fits = []
    for C, found in fit_path(train.x, train.y, options.Cs, max_iter=options.max_iter, tol=options.tol):
        warning = f"largest derivative {found.largest_derivative:.1e}, tol {options.tol:g}"
        fit = Fit(
            found.model, C, accuracy(found.model, dev), found.num_iterations, None if found.converged else warning
        )
        tell(f"  C {C:g}: dev accuracy {fit.dev_accuracy:.4f} after {fit.num_iterations} iterations")
        fits.append(fit)
    return fits


def fit_mlp(train: Sample, dev: Sample, options: Options, tell: Progress) -> list[Fit]:
    """Fit a ReLU network with one hidden layer (scikit-learn) and keep the epoch with the highest dev accuracy."""
    model = MLPClassifier(
        (options.hidden,),
        batch_size=min(len(train.x), MAX_MLP_BATCH, max(MIN_BATCH, len(train.x) // BATCHES)),
        learning_rate_init=1e-3,
        random_state=options.seed % 2**32,  # scikit-learn accepts no larger seed
    )
    best, best_accuracy, best_epoch, epoch = model, -1.0, 0, 0
    classes, free = np.unique(train.y), FreeCores(_blas_threads())
    while epoch < MLP_EPOCHS and epoch - best_epoch < PATIENCE:
        epoch += 1
        free.update()
        with threadpool_limits(free.threads, user_api="blas"):
            model.partial_fit(train.x, train.y, classes=classes)
        reached = accuracy(model, dev)
        tell(f"  epoch {epoch}: dev accuracy {reached:.4f}")
        if reached > best_accuracy:
            best, best_accuracy, best_epoch = copy.deepcopy(model), reached, epoch
    warning = f"dev accuracy was still rising at epoch {MLP_EPOCHS}" if best_epoch == MLP_EPOCHS else None
    return [Fit(best, None, best_accuracy, best_epoch, warning)]


def _blas_threads() -> int:
    """Return the number of threads that numpy's products use."""
    return max((library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"), default=1)
