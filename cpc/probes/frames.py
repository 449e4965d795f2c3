"""Which frames a probe learns from and is scored on: splits, labels, draws; from disk, an utterance at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from cpc.labels import UNLABELLED

if TYPE_CHECKING:
    from cpc.features import Features

Evaluate = Literal["test", "dev"]
Targets = Callable[[str], NDArray[np.int64]]  # utterance -> (T,) class of each frame, or UNLABELLED


class ProbeError(ValueError):
    """Features, splits or labels on which a probe cannot be trained or scored."""


@dataclass(frozen=True)
class Census:
    """How many frames of a split can be used; from labels and file headers, before any feature is read."""

    utterances: list[str]
    num_labelled: NDArray[np.int64]  # (U,)
    num_unlabelled: int
    classes: set[int]


def splits_of(features: Features, evaluate: Evaluate) -> dict[str, list[str]]:
    """Train, dev and the evaluated split's utterances, sorted: the manifest's order must not matter."""
    table = features.manifest.table
    found = sorted(set(table["split"].dropna().astype(str)) - {""}) if "split" in table.columns else []
    result = {}
    for split in dict.fromkeys(("train", "dev", evaluate)):
        if split not in found:
            raise ProbeError(
                f"{features.folder}: no {split} utterances in the manifest "
                f"(splits: {', '.join(found) or 'none'}); make them with `cpc manifest --split` "
                "and extract the features again"
            )
        result[split] = sorted(table.loc[table["split"].astype(str) == split, "utterance"].astype(str))
    return result


def census_of(features: Features, split: str, utterances: list[str], targets: Targets) -> Census:
    num_labelled = np.zeros(len(utterances), dtype=np.int64)
    num_unlabelled = 0
    classes: set[int] = set()
    for i, utterance in enumerate(utterances):
        y = targets(utterance)
        known = y[y != UNLABELLED]
        num_labelled[i] = len(known)
        num_unlabelled += len(y) - len(known)
        classes.update(np.unique(known).tolist())
    if not num_labelled.sum():
        raise ProbeError(f"{features.folder}: no labelled frame in {split}")
    return Census(utterances, num_labelled, num_unlabelled, classes)


def draw(
    features: Features, census: Census, targets: Targets, max_frames: int, seed: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """At most max_frames labelled frames, uniform without replacement: x (n, D), y (n,), in utterance order.

    What is drawn depends on the seed, the sorted utterances and how many labelled frames each has; no more.
    """
    total = int(census.num_labelled.sum())
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
        x[begin:end] = read(features, utterance, frames)
        y[begin:end] = labels[frames]
    return x, y


def read(features: Features, utterance: str, frames: NDArray[np.int64]) -> NDArray[np.float32]:
    """Some frames of an utterance, (len(frames), D)."""
    x = np.asarray(features.frames(utterance)[frames], dtype=np.float32)
    if not np.isfinite(x).all():
        bad = int(frames[~np.isfinite(x).all(axis=1)][0])
        raise ProbeError(f"{features.folder}: {utterance}, frame {bad}: NaN or infinite; expected finite features")
    return x


def blocks(
    features: Features, census: Census, targets: Targets, block_frames: int, seed: tuple[int, ...]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """All labelled frames, in an order of its own for each seed: blocks x (n, D), y (n,).

    Utterances are shuffled, and the frames of the utterances that share a block; a block has the frames of whole
    utterances, so `block_frames` and one utterance more at most.
    """
    rng = np.random.default_rng(seed)
    xs: list[NDArray[np.float32]] = []
    ys: list[NDArray[np.int64]] = []
    order = rng.permutation(len(census.utterances))
    for position, i in enumerate(order):
        labels = targets(census.utterances[i])
        frames = np.flatnonzero(labels != UNLABELLED)
        if len(frames):
            xs.append(read(features, census.utterances[i], frames))
            ys.append(labels[frames])
        is_last = position == len(order) - 1
        if ys and (is_last or sum(map(len, ys)) >= block_frames):
            shuffled = rng.permutation(sum(map(len, ys)))
            yield np.concatenate(xs)[shuffled], np.concatenate(ys)[shuffled]
            xs, ys = [], []
