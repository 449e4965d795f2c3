"""Draw or stream the train frames, standardise them, and fit classifiers to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from cpc.probes.classifiers import Fit, Progress, fit_logistic
from cpc.probes.frames import Census, Sample, Targets, blocks, draw
from cpc.probes.options import DEV_SHARE, Options, ProbeError

if TYPE_CHECKING:
    from cpc.features import Features

BLOCK_FRAMES = 100_000  # held in memory while streaming, and at most one utterance more
SCALER_ROWS = 8192  # rows that the scaler converts to float64 at a time


@dataclass(frozen=True)
class Task:
    """What a probe recognises, in which frames."""

    name: str  # "phone", or a column of the manifest
    features: Features
    splits: Mapping[str, list[str]]  # utterances with labels
    targets: Targets
    class_name: Callable[[int], str]
    unlabelled: list[str] = field(default_factory=list)  # utterances without labels
    by_utterance: bool = True  # whether all frames of an utterance have one class


@dataclass(frozen=True)
class Trained:
    """A classifier for each C, and the one with the highest dev accuracy."""

    scaler: StandardScaler
    fits: list[Fit]
    frequency: NDArray[np.int64]  # train frames of each class
    num_dev_frames: int

    @property
    def chosen(self) -> Fit:
        """The fit with the highest dev accuracy; among equals the first, which has the smallest C."""
        return max(self.fits, key=lambda fit: fit.dev_accuracy)


def fit_classifiers(task: Task, censuses: Mapping[str, Census], options: Options, tell: Progress) -> Trained:
    """Draw frames, standardise them and fit classifiers to them."""
    features, targets, census = task.features, task.targets, censuses["train"]
    dev_frames = (options.max_frames or Options.max_frames) // DEV_SHARE
    dev = draw(features, censuses["dev"], targets, dev_frames, (options.seed, 1))
    train = draw(features, census, targets, options.max_frames, (options.seed, 0)) if options.max_frames else None
    frequency = census.frequency if train is None else np.bincount(train.y)
    num_seen = int((frequency > 0).sum())
    if num_seen < 2:
        raise ProbeError(
            f"{features.folder}: only one {task.name} among {frequency.sum()} train frames; a probe needs two or more"
        )
    tell(f"{task.name} probe: {frequency.sum()} train and {len(dev.y)} dev frames, {num_seen} classes")
    if train is None:
        scaler, fits = _fit_stream(task, census, dev, options, tell)
    else:
        scaler, fits = _fit_drawn(train, dev, options, tell)
    return Trained(scaler, fits, frequency, len(dev.y))


def _fit_drawn(train: Sample, dev: Sample, options: Options, tell: Progress) -> tuple[StandardScaler, list[Fit]]:
    """Fit classifiers to the drawn frames, which are standardised in place."""
    scaler = _scaler_of([train.x])
    y = np.random.default_rng((options.seed, 3)).permutation(train.y) if options.shuffle_labels else train.y
    samples = Sample(scaler.transform(train.x), y), Sample(scaler.transform(dev.x), dev.y)
    if options.classifier == "linear":
        return scaler, fit_logistic(*samples, options, tell)
    from cpc.probes.hidden import fit_hidden_layer  # which imports torch

    fits = fit_hidden_layer(*samples, options, tell)
    return scaler, fits


def _fit_stream(
    task: Task, census: Census, dev: Sample, options: Options, tell: Progress
) -> tuple[StandardScaler, list[Fit]]:
    """Fit classifiers to all train frames, read from disk once an epoch."""
    from cpc.probes.streaming import Stream, fit_streaming  # here because it loads torch

    def read(*epoch: int) -> Iterator[Sample]:
        return blocks(task.features, census, task.targets, BLOCK_FRAMES, (options.seed, 4, *epoch))

    scaler = _scaler_of(x for x, _ in read())
    shuffling = np.random.default_rng((options.seed, 3))

    def read_standardised(epoch: int) -> Iterator[Sample]:
        for x, y in read(epoch):
            yield Sample(scaler.transform(x), shuffling.permutation(y) if options.shuffle_labels else y)

    stream = Stream(read_standardised, census.total, np.flatnonzero(census.frequency))
    return scaler, fit_streaming(stream, Sample(scaler.transform(dev.x), dev.y), options, tell)


def _scaler_of(frames: Iterable[NDArray[np.float32]]) -> StandardScaler:
    """Fit a scaler to blocks of frames; it transforms in place."""
    scaler = StandardScaler(copy=False)
    for block in frames:
        for first in range(0, len(block), SCALER_ROWS):
            scaler.partial_fit(block[first : first + SCALER_ROWS].astype(np.float64))
    return scaler
