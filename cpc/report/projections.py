"""t-SNE maps of c: how the frames of speakers and of phones cluster."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from cpc.labels import UNLABELLED, PhoneLabels, labels_at
from cpc.report.figures import Figure, ReportError

if TYPE_CHECKING:
    from cpc.features import Features

NUM_SPEAKERS, CHUNKS_PER_SPEAKER, CHUNK_SECONDS = 10, 60, 1.0  # of the map of speakers
NUM_FRAMES = 1500  # of the map of phones
_MIN_NAMED_FRAMES = 8  # a phone with fewer frames gets no name on the map
_MIN_POINTS = 4  # t-SNE places no fewer
_ITERATIONS = 500  # of t-SNE; twice as many move little and take twice as long
_MARKERS = "os^Dv"


def speaker_map_figure(features: Features, seed: int = 0) -> Figure:
    """Map the ten speakers with the most utterances; each point is the mean of one second of an utterance.

    Args:
        features: the frames.
        seed: seed of the random draw of utterances, and of t-SNE.

    Raises:
        ReportError: the utterances have too few whole seconds.

    Source: the paper's figure 2.
    """
    manifest = features.manifest
    speakers = sorted(name for name, _ in Counter(manifest.speakers).most_common(NUM_SPEAKERS))
    rng = np.random.default_rng(seed)
    points: list[NDArray[np.float32]] = []
    indices: list[int] = []  # each point's index into speakers
    for index, speaker in enumerate(speakers):
        own = [u for u, other in zip(manifest.utterances, manifest.speakers, strict=True) if other == speaker]
        chunks = _chunk_means(features, rng.permutation(own))
        points += chunks
        indices += [index] * len(chunks)
    if len(points) < _MIN_POINTS:
        raise ReportError(f"No map of speakers: the utterances have {len(points)} whole seconds, too few to place.")
    figure, axes = _empty_map(5.6, 5.0)
    placed, speaker_of = _tsne(np.stack(points), seed), np.array(indices)
    for index, speaker in enumerate(speakers):
        x, y = placed[speaker_of == index].T
        axes.scatter(x, y, s=14, color=f"C{index}", marker=_MARKERS[index % len(_MARKERS)], label=speaker)
    legend = axes.legend(title="speaker", fontsize=7, title_fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    legend.set_frame_on(False)
    return figure


def phone_map_figure(features: Features, labels: PhoneLabels, seed: int = 0) -> Figure:
    """Map single frames, drawn from all labelled utterances; each phone's name is at the median of its frames.

    Args:
        features: the frames.
        labels: phone labels of some or all of the utterances.
        seed: seed of the random draw of frames, and of t-SNE.

    Raises:
        ReportError: too few frames have labels.
    """
    rng = np.random.default_rng(seed)
    utterances = sorted(u for u in features.manifest.utterances if u in labels.of)
    frames, phones = [], []
    num_each = -(-NUM_FRAMES // max(1, len(utterances)))
    for utterance in rng.permutation(utterances)[:NUM_FRAMES]:
        phone = labels_at(labels.of[utterance], features.times_of(utterance))
        labelled = np.flatnonzero(phone != UNLABELLED)
        drawn = np.sort(rng.choice(labelled, size=min(num_each, len(labelled)), replace=False))
        frames.append(np.asarray(features.frames(utterance)[drawn], dtype=np.float32))
        phones.append(phone[drawn])
    if sum(map(len, phones)) < _MIN_POINTS:
        raise ReportError(f"No map of phones: {sum(map(len, phones))} frames have labels, too few to place.")
    phone_of = np.concatenate(phones)
    placed = _tsne(np.concatenate(frames), seed)
    figure, axes = _empty_map(6.4, 5.6)
    for index, phone in enumerate(np.unique(phone_of)):
        own = placed[phone_of == phone]
        axes.scatter(own[:, 0], own[:, 1], s=5, color=f"C{index % 10}", alpha=0.6)
        if len(own) >= _MIN_NAMED_FRAMES:
            x, y = np.median(own, axis=0)
            text = axes.text(x, y, labels.name(int(phone)), ha="center", va="center", fontsize=9)
            text.set_bbox({"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1})
    return figure


def _chunk_means(features: Features, utterances: NDArray[Any]) -> list[NDArray[np.float32]]:
    """Average the frames over each whole chunk of the utterances in turn, up to CHUNKS_PER_SPEAKER chunks."""
    size = round(CHUNK_SECONDS * features.sample_rate / features.hop_samples)  # frames
    means: list[NDArray[np.float32]] = []
    for utterance in utterances:
        frames = np.asarray(features.frames(utterance), dtype=np.float32)
        means += [frames[i : i + size].mean(axis=0) for i in range(0, len(frames) - size + 1, size)]
        if len(means) >= CHUNKS_PER_SPEAKER:
            break
    return means[:CHUNKS_PER_SPEAKER]


def _empty_map(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set(xticks=[], yticks=[])
    return figure, axes


def _tsne(x: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Project the standardised rows (n, D) to (n, 2)."""
    from sklearn.manifold import TSNE

    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-6)
    perplexity = min(30.0, max(2.0, (len(x) - 1) / 3))
    tsne = TSNE(perplexity=perplexity, random_state=seed, init="pca", max_iter=_ITERATIONS)
    placed: NDArray[np.float32] = tsne.fit_transform(x)
    return placed
