"""Choose the frames that a probe learns from and is scored on, and read them from disk one utterance at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cpc.labels import UNLABELLED
from cpc.probes.options import Evaluate, ProbeError

if TYPE_CHECKING:
    from cpc.features import Features

Targets = Callable[[str], NDArray[np.int64]]  # utterance → (T,) class of each frame, or UNLABELLED


class Sample(NamedTuple):
    """Some frames and their classes."""

    x: NDArray[np.float32]  # (n, D)
    y: NDArray[np.int64]  # (n,)


@dataclass(frozen=True)
class Census:
    """The usable frames of a split, counted from labels and file headers before any frame is read."""

    utterances: list[str]
    num_labelled: NDArray[np.int64]  # (U,) labelled frames of each utterance
    frequency: NDArray[np.int64]  # (largest class + 1,) frames of each class
    num_unlabelled: int

    @property
    def total(self) -> int:
        """Number of labelled frames."""
        return int(self.num_labelled.sum())


def splits_of(features: Features, evaluate: Evaluate) -> dict[str, list[str]]:
    """List the utterances of train, dev and the evaluated split.

    Returns:
        Utterances by split, sorted, so that the order of the manifest does not matter.

    Raises:
        ProbeError: a split has no utterances.
    """
    manifest = features.manifest
    found = sorted(set(manifest.splits) - {""})
    result = {}
    for split in dict.fromkeys(("train", "dev", evaluate)):
        if split not in found:
            raise ProbeError(
                f"{features.folder}: no {split} utterances in the manifest "
                f"(splits: {', '.join(found) or 'none'}); make them with `cpc manifest --split` "
                "and extract the features again"
            )
        result[split] = sorted(manifest.select(split).utterances)
    return result


def census_of(features: Features, split: str, utterances: list[str], targets: Targets) -> Census:
    """Count the labelled frames of a split.

    Raises:
        ProbeError: there are none.
    """
    num_labelled = np.zeros(len(utterances), dtype=np.int64)
    frequency = np.zeros(0, dtype=np.int64)
    num_unlabelled = 0
    for i, utterance in enumerate(utterances):
        y = targets(utterance)
        known = y[y != UNLABELLED]
        num_labelled[i] = len(known)
        num_unlabelled += len(y) - len(known)
        counts = np.bincount(known, minlength=len(frequency))
        counts[: len(frequency)] += frequency
        frequency = counts
    if not num_labelled.sum():
        raise ProbeError(f"{features.folder}: no labelled frame in {split}; each split needs some")
    return Census(utterances, num_labelled, frequency, num_unlabelled)


def draw(features: Features, census: Census, targets: Targets, max_frames: int, seed: tuple[int, ...]) -> Sample:
    """Draw up to `max_frames` labelled frames uniformly without replacement.

    The draw depends on the seed, the sorted utterances and their numbers of labelled frames alone.

    Returns:
        The frames and their classes in the order of the utterances.
    """
    total = census.total
    if total > max_frames:
        drawn = np.random.default_rng(seed).choice(total, size=max_frames, replace=False, shuffle=False)
        drawn.sort()
    else:
        drawn = np.arange(total)
    x = np.empty((len(drawn), features.dim), dtype=np.float32)
    y = np.empty(len(drawn), dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(census.num_labelled)])
    bounds = np.searchsorted(drawn, starts)
    for i, utterance in enumerate(census.utterances):
        begin, end = bounds[i], bounds[i + 1]
        if begin == end:
            continue
        labels = targets(utterance)
        frames = np.flatnonzero(labels != UNLABELLED)[drawn[begin:end] - starts[i]]
        x[begin:end] = read_frames(features, utterance, frames)
        y[begin:end] = labels[frames]
    return Sample(x, y)


def labelled(features: Features, utterance: str, targets: Targets) -> Sample:
    """Read all labelled frames of an utterance."""
    labels = targets(utterance)
    frames = np.flatnonzero(labels != UNLABELLED)
    return Sample(read_frames(features, utterance, frames), labels[frames])


def read_frames(features: Features, utterance: str, frames: NDArray[np.int64]) -> NDArray[np.float32]:
    """Read some frames of an utterance.

    Args:
        features: the features folder.
        utterance: its name.
        frames: (n,) indices.

    Returns:
        (n, D) frames.

    Raises:
        ProbeError: a value is not finite.
    """
    x = np.asarray(features.frames(utterance)[frames], dtype=np.float32)
    if not np.isfinite(x).all():
        bad = int(frames[~np.isfinite(x).all(axis=1)][0])
        raise ProbeError(f"{features.folder}: {utterance}, frame {bad}: NaN or infinite; expected finite features")
    return x


def blocks(
    features: Features, census: Census, targets: Targets, block_frames: int, seed: tuple[int, ...]
) -> Iterator[Sample]:
    """Read all labelled frames in an order that depends on the seed.

    The utterances are shuffled, and so are the frames within a block. A block consists of whole utterances, so it
    exceeds `block_frames` by less than one utterance.
    """
    rng = np.random.default_rng(seed)
    waiting: list[Sample] = []
    order = rng.permutation(len(census.utterances))
    for position, i in enumerate(order):
        sample = labelled(features, census.utterances[i], targets)
        if len(sample.y):
            waiting.append(sample)
        is_last = position == len(order) - 1
        size = sum(len(sample.y) for sample in waiting)
        if size and (is_last or size >= block_frames):
            shuffled = rng.permutation(size)
            xs, ys = zip(*waiting, strict=True)
            yield Sample(np.concatenate(xs)[shuffled], np.concatenate(ys)[shuffled])
            waiting = []
