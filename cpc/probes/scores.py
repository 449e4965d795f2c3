"""Score a classifier on a split: frames, utterances, confusions, and how far chance could move the accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from cpc.probes.frames import Census, Targets, labelled
from cpc.probes.result import Grouping, GroupScore

if TYPE_CHECKING:
    from cpc.features import Features

NUM_RESAMPLES = 1000  # of the bootstrap
INTERVAL = (2.5, 97.5)  # percentiles


@dataclass(frozen=True)
class Scores:
    """The counts from which all accuracies follow; U utterances have labelled frames."""

    correct: NDArray[np.int64]  # (U,) correct frames
    total: NDArray[np.int64]  # (U,) frames
    truths: NDArray[np.int64]  # (U,) most frequent class, as an index into the classes
    guesses: NDArray[np.int64]  # (U,) class with the largest mean log-probability, likewise
    confusion: NDArray[np.int64]  # (num_classes, num_classes) frames: [true][predicted]
    auc: float | None  # of two classes, by frame
    utterance_auc: float | None  # likewise, by the mean over an utterance

    @property
    def utterance_confusion(self) -> NDArray[np.int64]:
        """Utterances [true][predicted], (num_classes, num_classes)."""
        confusion = np.zeros_like(self.confusion)
        np.add.at(confusion, (self.truths, self.guesses), 1)
        return confusion


def score(
    features: Features,
    utterances: Sequence[str],
    targets: Targets,
    scaler: StandardScaler,
    model: Any,
    classes: NDArray[np.int64],
) -> Scores:
    """Score every labelled frame of a split, one utterance in memory at a time.

    The class of an utterance is the one with the largest mean log-probability over its frames.

    Args:
        features: the features folder.
        utterances: the utterances of the split.
        targets: the class of each frame.
        scaler: fitted on train.
        model: has `predict`, and for two classes `decision_function` or, with a hidden layer, `predict_proba`.
        classes: sorted classes of train and of this split.
    """
    n = len(classes)
    confusion = np.zeros((n, n), dtype=np.int64)
    rows, margins, truths = [], [], []
    for utterance in utterances:
        x, y = labelled(features, utterance, targets)
        if not len(y):
            continue
        x = scaler.transform(x)
        true = np.searchsorted(classes, y)
        predicted = np.searchsorted(classes, model.predict(x))
        confusion += np.bincount(true * n + predicted, minlength=n * n).reshape(n, n)
        guess = np.searchsorted(classes, _over_frames(model, x))
        rows.append((int((true == predicted).sum()), len(y), int(np.bincount(true).argmax()), int(guess)))
        if n == len(model.classes_) == 2:
            margins.append(_margins(model, x))
            truths.append(true)
    correct, total, truth_of, guess_of = np.array(rows, dtype=np.int64).T
    means = np.array([of.mean() for of in margins])
    return Scores(
        correct,
        total,
        truth_of,
        guess_of,
        confusion,
        auc=_auc(np.concatenate(truths), np.concatenate(margins)) if margins else None,
        utterance_auc=_auc(truth_of, means) if margins else None,
    )


def _auc(truths: NDArray[np.int64], margins: NDArray[np.float64]) -> float | None:
    """Compute the area under the receiver operating characteristic; None if only one class occurs."""
    return float(roc_auc_score(truths, margins)) if len(np.unique(truths)) == 2 else None


def balanced_accuracy(confusion: NDArray[np.int64]) -> float:
    """Average the recall over the classes that occur (unweighted average recall, UAR)."""
    counts = confusion.sum(axis=1)
    return float((np.diag(confusion)[counts > 0] / counts[counts > 0]).mean())


def macro_f1(confusion: NDArray[np.int64]) -> float:
    """Average F1 over the classes that occur or are predicted."""
    both = confusion.sum(axis=0) + confusion.sum(axis=1)
    return float((2 * np.diag(confusion)[both > 0] / both[both > 0]).mean())


def _margins(model: Any, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return by how much the log-probability of the second class is above that of the first, (T,); always finite."""
    if isinstance(model, MLPClassifier):
        log_p = _log_probabilities(model, x)
        return log_p[:, 1] - log_p[:, 0]
    return np.asarray(model.decision_function(x), np.float64)


def _log_probabilities(model: MLPClassifier, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Compute log-probabilities (T, classes); one that rounds to 0 counts as the smallest number."""
    return np.asarray(np.log(np.maximum(model.predict_proba(x), np.finfo(np.float32).tiny)), np.float64)


def _over_frames(model: Any, x: NDArray[np.float32]) -> Any:
    """Return the class with the largest mean log-probability over the frames x (T, D)."""
    if isinstance(model, MLPClassifier):
        return model.classes_[_log_probabilities(model, x).mean(axis=0).argmax()]
    # Of a linear model it is the class of the mean frame, because log-probabilities differ from logits by a number that
    # all classes share, and logits are linear in x.
    return model.predict(x.mean(axis=0, dtype=np.float64, keepdims=True))[0]


def clusters_of(features: Features, train: Census, evaluated: Census) -> list[str]:
    """Name the cluster that the bootstrap draws each scored utterance with.

    Returns:
        (U,) the utterances themselves; or their speakers, if there are several and none of them is in train.
    """
    speaker_of = features.manifest.speaker_of
    scored = [u for u, n in zip(evaluated.utterances, evaluated.num_labelled, strict=True) if n]
    speakers = [speaker_of[u] for u in scored]
    is_shared = not set(speakers).isdisjoint(speaker_of[u] for u in train.utterances)
    return scored if is_shared or len(set(speakers)) < 2 else speakers


def describe_clusters(clusters: Sequence[str]) -> dict[str, Any]:
    """Name what `clusters_of` found, and count it, as the fields of a result."""
    number = len(set(clusters))
    return {
        "interval_clusters": "utterance" if number == len(clusters) else "speaker",
        "num_interval_clusters": number,
    }


def bootstrap(
    correct: NDArray[np.int64], total: NDArray[np.int64], seed: int, clusters: Sequence[str] | None = None
) -> tuple[float, float]:
    """Estimate the 95 % interval of an accuracy by drawing clusters of utterances with replacement.

    Frames of an utterance are not independent of each other, nor are utterances of a speaker.

    Args:
        correct: (U,) correct frames of each utterance.
        total: (U,) frames of each utterance.
        seed: seed of the draws.
        clusters: (U,) cluster of each utterance; by default, each utterance is a cluster.
    """
    if clusters is not None:
        _, index = np.unique(np.asarray(clusters), return_inverse=True)
        correct, total = (np.bincount(index, weights=x).astype(np.int64) for x in (correct, total))
    rng = np.random.default_rng((seed, 2))
    n = len(total)
    means = np.empty(NUM_RESAMPLES)
    for i in range(NUM_RESAMPLES):
        pick = rng.integers(n, size=n)
        means[i] = correct[pick].sum() / total[pick].sum()
    low, high = np.percentile(means, INTERVAL)
    return float(low), float(high)


def group(confusion: NDArray[np.int64], names: Sequence[str], group_of: Mapping[str, str]) -> Grouping:
    """Merge phones that share a property, and count how often the group and the phone are predicted correctly.

    Args:
        confusion: (num_phones, num_phones) frames: [true][predicted].
        names: (num_phones,) names of the phones.
        group_of: group of each phone, by name.
    """
    groups = list(dict.fromkeys(group_of[name] for name in names if name in group_of))
    place = np.array([groups.index(group_of[name]) if name in group_of else -1 for name in names])
    merged = np.zeros((len(groups), len(groups)), dtype=np.int64)
    known = place >= 0
    np.add.at(merged, (place[known][:, None], place[known][None]), confusion[np.ix_(known, known)])
    scores = []
    for i, name in enumerate(groups):
        members = np.flatnonzero(place == i)
        count = int(confusion[members].sum())
        correct, phone_correct = int(merged[i, i]), int(confusion[members, members].sum())
        scores.append(
            GroupScore(
                name=name,
                count=count,
                phones=[names[int(member)] for member in members],
                accuracy=correct / count if count else None,
                phone_accuracy=phone_correct / count if count else None,
            )
        )
    return Grouping(scores, merged.tolist(), [name for name in names if name not in group_of])
