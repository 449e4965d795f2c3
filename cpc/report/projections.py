"""t-SNE maps of c: how the frames of speakers and of phones cluster."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cpc.labels import UNLABELLED, PhoneLabels
from cpc.report.figures import Figure, ReportError

if TYPE_CHECKING:
    from cpc.features import Features

MAX_SPEAKERS, CHUNKS_PER_SPEAKER, CHUNK_SECONDS = 10, 20, 1.0  # of the map of speakers
NUM_FRAMES = 1500  # of the map of phones
PHONE_SECONDS, PHONE_UTTERANCE_SECONDS = 150.0, 4.0  # sound from which these are drawn, and of each utterance
_MIN_NAMED = 8  # a phone or speaker with fewer points gets no name on the map
_MIN_POINTS = 4  # t-SNE places no fewer
_ITERATIONS = 500  # of t-SNE; twice as many move little and take twice as long
SIDE = 600  # of the square in which points lie, in units of its picture
_MARGIN = 24  # in it


@dataclass(frozen=True)
class Point:
    """A point of a map, and the second of sound that it stands for."""

    x: float
    y: float
    group: int
    """Index into the map's names."""
    utterance: str
    start: float
    """Seconds from the start of the utterance."""


@dataclass(frozen=True)
class Map:
    """Points in a square of SIDE units."""

    names: list[str]
    points: list[Point]

    def labels(self) -> list[tuple[float, float, str]]:
        """Place the name of each group with enough points at their median."""
        placed = []
        for group, name in enumerate(self.names):
            own = [(point.x, point.y) for point in self.points if point.group == group]
            if len(own) >= _MIN_NAMED:
                x, y = np.median(np.array(own), axis=0).tolist()
                placed.append((round(x, 1), round(y, 1), name))
        return placed

    def seconds(self) -> dict[str, float]:
        """Say how much of each utterance the points stand for, from its start."""
        wanted: dict[str, float] = {}
        for point in self.points:
            wanted[point.utterance] = max(wanted.get(point.utterance, 0.0), point.start + CHUNK_SECONDS)
        return wanted


def speaker_map(features: Features, seed: int = 0) -> Map:
    """Map the speakers with the most utterances, up to ten; each point is the mean of one second of an utterance.

    Args:
        features: the frames.
        seed: seed of the random draw of utterances, and of t-SNE.

    Raises:
        ReportError: the utterances have too few whole seconds.

    Source: the paper's figure 2.
    """
    manifest = features.manifest
    speakers = sorted(name for name, _ in Counter(manifest.speakers).most_common(MAX_SPEAKERS))
    rng = np.random.default_rng(seed)
    means: list[NDArray[np.float32]] = []
    places: list[tuple[int, str, float]] = []
    for index, speaker in enumerate(speakers):
        own = [u for u, other in zip(manifest.utterances, manifest.speakers, strict=True) if other == speaker]
        for mean, utterance, start in _chunks(features, rng.permutation(own).tolist()):
            means.append(mean)
            places.append((index, utterance, start))
    if len(means) < _MIN_POINTS:
        raise ReportError(f"No map of speakers: the utterances have {len(means)} whole seconds, too few to place.")
    return _placed(speakers, np.stack(means), places, seed)


def phone_map(features: Features, labels: PhoneLabels, seed: int = 0) -> Map:
    """Map single frames, drawn from the first seconds of some labelled utterances.

    Args:
        features: the frames.
        labels: phone labels of some or all of the utterances.
        seed: seed of the random draw of frames, and of t-SNE.

    Raises:
        ReportError: too few frames have labels.
    """
    rng = np.random.default_rng(seed)
    utterances = rng.permutation(sorted(u for u in features.manifest.utterances if u in labels.of)).tolist()
    utterances = utterances[: round(PHONE_SECONDS / PHONE_UTTERANCE_SECONDS)]
    num_each = -(-NUM_FRAMES // max(1, len(utterances)))
    frames: list[NDArray[np.float32]] = []
    places: list[tuple[int, str, float]] = []
    for utterance in utterances:
        times = features.times_of(utterance)
        phone = labels.at(utterance, times)
        labelled = np.flatnonzero((phone != UNLABELLED) & (times < PHONE_UTTERANCE_SECONDS))
        drawn = np.sort(rng.choice(labelled, size=min(num_each, len(labelled)), replace=False))
        frames.append(np.asarray(features.frames(utterance)[drawn], dtype=np.float32))
        starts = np.maximum(0.0, times[drawn] - CHUNK_SECONDS / 2).tolist()
        places += [(p, utterance, start) for p, start in zip(phone[drawn].tolist(), starts, strict=True)]
    if len(places) < _MIN_POINTS:
        raise ReportError(f"No map of phones: {len(places)} frames have labels, too few to place.")
    phones = sorted({phone for phone, _, _ in places})
    index = {phone: i for i, phone in enumerate(phones)}
    indexed = [(index[phone], utterance, start) for phone, utterance, start in places]
    return _placed([labels.name(phone) for phone in phones], np.concatenate(frames), indexed, seed)


def map_figure(of: Map) -> Figure:
    """Draw a map for a notebook: each group in a colour, with its name where most of its points are."""
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.subplots()
    for group in range(len(of.names)):
        own = [point for point in of.points if point.group == group]
        axes.scatter([p.x for p in own], [-p.y for p in own], s=6, color=f"C{group % 10}", alpha=0.6)
    for x, y, name in of.labels():
        text = axes.text(x, -y, name, ha="center", va="center", fontsize=9)
        text.set_bbox({"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1})
    axes.set(xticks=[], yticks=[])
    return figure


def _chunks(features: Features, utterances: list[str]) -> list[tuple[NDArray[np.float32], str, float]]:
    """Average the frames over each whole chunk of the utterances in turn, up to CHUNKS_PER_SPEAKER chunks.

    Returns:
        Mean, utterance and start in seconds of each chunk.
    """
    size = max(1, round(CHUNK_SECONDS * features.sample_rate / features.hop_samples))  # frames
    chunks: list[tuple[NDArray[np.float32], str, float]] = []
    for utterance in utterances:
        frames = features.frames(utterance)
        for i in range(0, len(frames) - size + 1, size):
            if len(chunks) == CHUNKS_PER_SPEAKER:
                return chunks
            mean = np.asarray(frames[i : i + size], dtype=np.float32).mean(axis=0)
            chunks.append((mean, utterance, i * features.hop_samples / features.sample_rate))
    return chunks


def _placed(names: list[str], x: NDArray[np.float32], places: list[tuple[int, str, float]], seed: int) -> Map:
    """Make a map of rows (n, D) and what they stand for."""
    placed = _tsne(x, seed)
    low, high = placed.min(axis=0), placed.max(axis=0)
    scaled = _MARGIN + (SIDE - 2 * _MARGIN) * (placed - low) / np.maximum(high - low, 1e-9)
    points = [
        Point(round(x, 1), round(y, 1), group, utterance, round(start, 3))
        for (x, y), (group, utterance, start) in zip(scaled.tolist(), places, strict=True)
    ]
    return Map(names, points)


def _tsne(x: NDArray[np.float32], seed: int) -> NDArray[Any]:
    """Project the standardised rows (n, D) to (n, 2)."""
    from sklearn.manifold import TSNE

    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-6)
    perplexity = min(30.0, max(2.0, (len(x) - 1) / 3))
    tsne = TSNE(perplexity=perplexity, random_state=seed, init="pca", max_iter=_ITERATIONS)
    placed: NDArray[np.float32] = tsne.fit_transform(x)
    return placed
