"""Time the solvers of the probes against the number of frames, on synthetic frames of 40 classes."""

import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, SGDClassifier

from cpc.probes import Options
from cpc.probes.frames import Sample
from cpc.probes.streaming import Stream, fit_streaming
from cpc.probes.training import BLOCK_FRAMES

NUM_CLASSES, NUM_DEV = 40, 20_000
SLOW_ABOVE = 50_000  # frames, beyond which Newton-CG and SAGA take too long to be of interest

Fit = Callable[[Sample, Sample], Any]  # train and dev frames → a model with `predict`


def print_probes(options: Namespace) -> None:
    """Print the time and the accuracy of each solver."""
    draw = _classes(options.channels)
    dev = draw(NUM_DEV)
    for num_frames in options.frames:
        train = draw(num_frames)
        for name, fit in _solvers().items():
            if num_frames > SLOW_ABOVE and name in ("newton-cg", "saga"):
                continue
            began = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model = fit(train, dev)
            taken = time.perf_counter() - began
            accuracy = 100 * (model.predict(dev.x) == dev.y).mean()
            sizes = f"{num_frames:8d} frames x {options.channels}  {name:40s}"
            print(f"{sizes} {taken:7.1f} s  accuracy {accuracy:.2f}", flush=True)


def _classes(dim: int) -> Callable[[int], Sample]:
    """Make a function that draws frames of overlapping classes."""
    rng = np.random.default_rng(0)
    means = 0.14 * rng.standard_normal((NUM_CLASSES, dim))
    # Rotated directions of very different scale make the frames as ill-conditioned as a network's features.
    mixing = np.logspace(0, -2, dim)[:, None] * np.linalg.qr(rng.standard_normal((dim, dim)))[0]

    def draw(count: int) -> Sample:
        y = rng.integers(NUM_CLASSES, size=count)
        x = (means[y] + rng.standard_normal((count, dim))) @ mixing
        return Sample((x / x.std(axis=0)).astype(np.float32), y)

    return draw


def _solvers() -> dict[str, Fit]:
    """Map the name of each solver to a function that fits it."""

    def logistic(**options: Any) -> Fit:
        return lambda train, _: LogisticRegression(C=0.1, **options).fit(*train)

    return {
        "lbfgs": logistic(max_iter=200, tol=Options().tol),
        "newton-cg": logistic(max_iter=50, tol=1e-3, solver="newton-cg"),
        "saga": logistic(max_iter=20, tol=1e-3, solver="saga"),
        "SGD (partial_fit, 5 passes)": lambda train, _: _sgd(*train),
        "streaming (cpc probe --max-frames 0)": _streaming,
    }


def _sgd(x: NDArray[np.float32], y: NDArray[np.int64]) -> SGDClassifier:
    """Fit scikit-learn's stochastic gradient descent in five passes over the frames."""
    model = SGDClassifier("log_loss", alpha=1e-5, average=True, random_state=0)
    for _ in range(5):
        for first in range(0, len(x), 10_000):
            part = slice(first, first + 10_000)
            model.partial_fit(x[part], y[part], classes=np.arange(NUM_CLASSES))
    return model


def _streaming(train: Sample, dev: Sample) -> Any:
    """Fit our streaming solver on shuffled blocks of frames."""

    def read(epoch: int) -> Iterator[Sample]:
        order = np.random.default_rng(epoch).permutation(len(train.x))
        for first in range(0, len(order), BLOCK_FRAMES):
            rows = order[first : first + BLOCK_FRAMES]
            yield Sample(train.x[rows], train.y[rows])

    stream = Stream(read, len(train.x), np.arange(NUM_CLASSES))
    return fit_streaming(stream, dev, Options(Cs=(0.1,)), lambda line: None)[0].model
