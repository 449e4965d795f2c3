"""Fit logistic regression to frames that are in memory, and hold what is fitted.

Classifiers are chosen by their dev accuracy and predict as scikit-learn's estimators do. `streaming` fits the same
logistic regression to frames that do not fit in memory, and `hidden` a network with one hidden layer.

Source: van den Oord et al. 2018, section 3.1: a linear classifier recognises 64.6 % of phones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cpc.probes.frames import Sample
from cpc.probes.logistic import fit_path
from cpc.probes.options import Options

Progress = Callable[[str], None]  # takes a line of text

MIN_BATCH, BATCHES = 32, 100  # a small set has smaller batches: at least BATCHES an epoch


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
