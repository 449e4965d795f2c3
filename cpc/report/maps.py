"""Pictures of what classifiers confuse, and of how frames lie among each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cpc.labels import UNLABELLED, labels_at

if TYPE_CHECKING:
    from cpc.features import Features

BLUE, GREY = "#0072B2", "#666666"
NUM_SPEAKERS, CHUNKS, CHUNK_SECONDS = 10, 60, 1.0  # of the map of speakers; chunks of each
NUM_FRAMES = 1500  # of the map of phones


def confusion_figure(result: Mapping[str, Any]) -> Figure:
    """A phone probe's confusion matrix, each row the shares of what a true phone was taken for."""
    entries, counts = result["per_class"], np.array(result["confusion"], dtype=float)
    order = _order(result)
    shares = counts[np.ix_(order, order)] / np.maximum(1, counts[order].sum(axis=1, keepdims=True))
    names = [entries[i]["name"] for i in order]
    side = max(4.0, 1.6 + 0.17 * len(names))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set(xlabel="heard as", ylabel="spoken")
    figure.colorbar(image, label="% of the spoken phone's frames", shrink=0.8)
    return figure


def classes_figure(result: Mapping[str, Any]) -> Figure:
    """Accuracy of each phone, most frequent manner of articulation together."""
    order = [i for i in _order(result) if result["per_class"][i]["count"]]
    entries = [result["per_class"][i] for i in order]
    figure = Figure(figsize=(8.5, 3.0), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(entries)), [100 * entry["accuracy"] for entry in entries], color=BLUE)
    axes.set_xticks(range(len(entries)), [entry["name"] for entry in entries], rotation=90, fontsize=8)
    axes.set(ylabel="frames right, %", ylim=(0, 100), xlim=(-0.7, len(entries) - 0.3))
    axes.axhline(100 * result["accuracy"], color=GREY, linestyle="--", linewidth=1, label="all frames")
    axes.legend(frameon=False, loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def speakers_figure(features: Features, seed: int = 0) -> Figure:
    """t-SNE of ten speakers: each point the mean over a second of an utterance.

    Source: the paper's figure 2.
    """
    table = features.manifest.table
    speakers = table["speaker"].astype(str).value_counts().index[:NUM_SPEAKERS].sort_values()
    rng = np.random.default_rng(seed)
    points, colours = [], []
    size = round(CHUNK_SECONDS * features.sample_rate / features.hop_samples)
    for number, speaker in enumerate(speakers):
        chunks: list[NDArray[np.float32]] = []
        for utterance in rng.permutation(table.loc[table["speaker"].astype(str) == speaker, "utterance"].astype(str)):
            frames = np.asarray(features.frames(utterance), dtype=np.float32)
            chunks += [frames[i : i + size].mean(axis=0) for i in range(0, len(frames) - size + 1, size)]
            if len(chunks) >= CHUNKS:
                break
        points += chunks[:CHUNKS]
        colours += [number] * len(chunks[:CHUNKS])
    figure = Figure(figsize=(5.6, 5.0), layout="constrained")
    axes = figure.subplots()
    where, of = _tsne(np.stack(points), seed), np.array(colours)
    for number, speaker in enumerate(speakers):
        own = where[of == number]
        axes.scatter(own[:, 0], own[:, 1], s=14, color=f"C{number}", marker=_MARKERS[number % 5], label=speaker)
    axes.legend(
        title="speaker", fontsize=7, title_fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False
    )
    axes.set(xticks=[], yticks=[])
    return figure


def phones_figure(
    features: Features, labels: Mapping[str, NDArray[Any]], names: Mapping[int, str], seed: int = 0
) -> Figure:
    """t-SNE of frames drawn from all utterances with labels; each phone's name stands at the median of its frames."""
    rng = np.random.default_rng(seed)
    utterances = sorted(u for u in features.manifest.table["utterance"].astype(str) if u in labels)
    xs, ys = [], []
    each = -(-NUM_FRAMES // max(1, len(utterances)))
    for utterance in rng.permutation(utterances)[:NUM_FRAMES]:
        y = labels_at(labels[utterance], features.times(features.num_frames(utterance)))
        known = np.flatnonzero(y != UNLABELLED)
        picked = np.sort(rng.choice(known, size=min(each, len(known)), replace=False))
        xs.append(np.asarray(features.frames(utterance)[picked], dtype=np.float32))
        ys.append(y[picked])
    y = np.concatenate(ys)
    where = _tsne(np.concatenate(xs), seed)
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.subplots()
    for number, phone in enumerate(np.unique(y)):
        own = where[y == phone]
        axes.scatter(own[:, 0], own[:, 1], s=5, color=f"C{number % 10}", alpha=0.6)
        if len(own) >= 8:
            x_mid, y_mid = np.median(own, axis=0)
            text = axes.text(x_mid, y_mid, names.get(int(phone), str(phone)), ha="center", va="center", fontsize=9)
            text.set_bbox({"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1})
    axes.set(xticks=[], yticks=[])
    return figure


_MARKERS = "os^Dv"


def _tsne(x: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Two dimensions of standardised rows, (n, 2)."""
    from sklearn.manifold import TSNE

    x = (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-6)
    perplexity = min(30.0, max(2.0, (len(x) - 1) / 3))
    placed: NDArray[np.float32] = TSNE(perplexity=perplexity, random_state=seed, init="pca").fit_transform(x)
    return placed


def _order(result: Mapping[str, Any]) -> list[int]:
    """Phones by manner of articulation where it is known, else as they come."""
    names = [entry["name"] for entry in result["per_class"]]
    if "by_manner" not in result:
        return list(range(len(names)))
    grouped = [name for group in result["by_manner"]["classes"] for name in group["phones"]]
    return [names.index(name) for name in [*grouped, *(name for name in names if name not in grouped)]]
