"""Measure how well a classifier recognises the phone, the speaker or another label of frames.

Source: van den Oord et al. 2018 (arXiv 1807.03748), section 3.1, tables 1 and 2. The paper does not name its
probe's optimiser; this is scikit-learn's multinomial logistic regression, fitted by L-BFGS to standardised
frames (`logistic`).

Conventions:
- The splits are the `split` column of the features' manifest: train, dev, test.
- The scaler is fitted on the drawn train frames alone, C is chosen by the accuracy on drawn dev frames, and test is
  scored once.
- With pooling, an utterance has one frame: its vector.
- Labels are matched to frames by time (`PhoneLabels.at`). Frames without a label are only counted.
- A class without a drawn train frame cannot be predicted: its test frames are wrong, and reported.
- Memory is bounded by `max_frames`: it holds at most that many train frames, a quarter as many dev frames, and one test
  utterance at a time, about 4 * max_frames * (2.25 * dim + 4 * num_classes) bytes. With max_frames = 0, all train
  frames are streamed from disk, about 100 000 in memory at a time.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from cpc.labels import PhoneLabels, write_labels
from cpc.probes.classifiers import Progress
from cpc.probes.frames import Census, census_of, read_frames, splits_of
from cpc.probes.options import Options, ProbeError
from cpc.probes.pooling import pooled
from cpc.probes.result import ClassScore, Origin, Result
from cpc.probes.scores import (
    Scores,
    balanced_accuracy,
    bootstrap,
    clusters_of,
    describe_clusters,
    group,
    macro_f1,
    score,
)
from cpc.probes.training import Task, Trained, fit_classifiers
from cpc.versions import versions

if TYPE_CHECKING:
    from cpc.features import Features

DEFAULTS = Options()


def probe_phones(
    features: Features,
    labels: PhoneLabels,
    options: Options = DEFAULTS,
    *,
    predictions: Path | None = None,
    progress: Progress | None = None,
) -> Result:
    """Train and score a phone classifier of frames.

    Args:
        features: the frames, with a manifest that has a `split` column.
        labels: phone labels of the utterances. Their names appear in the result, and their classes group it, e.g. by
            manner of articulation.
        options: what is trained and scored.
        predictions: label file to write with the phone predicted at every frame of the evaluated utterances, labelled
            or not: `utterance-id p_0 p_1 …`.
        progress: takes a line of text after each stage.

    Returns:
        The result, with the confusion matrix. Where the evaluated split shares no speaker with train, the interval
        resamples speakers instead of utterances.

    Raises:
        ProbeError: train, dev or test is missing; a split has no labels; a feature is not finite; the options pool.
        LabelsError: the labels do not fit the manifest.
    """
    if options.pooling is not None:
        raise ProbeError(f"pooling: got {options.pooling}, but an utterance has many phones; pass no --pooling")
    splits = splits_of(features, options.evaluate)
    known = set(labels.utterances_of(features.manifest))

    def targets(utterance: str) -> NDArray[np.int64]:
        return labels.at(utterance, features.times_of(utterance))

    task = Task(
        name="phone",
        features=features,
        splits={split: [u for u in utterances if u in known] for split, utterances in splits.items()},
        targets=targets,
        class_name=labels.name,
        by_utterance=False,
        unlabelled=sorted({u for utterances in splits.values() for u in utterances} - known),
    )
    result, scores = _run(task, options, progress or _silent, predictions)
    confusion = scores.confusion
    names = [entry.name for entry in result.per_class]
    kinds = next(iter(labels.classes.values()), {})
    by = {kind: group(confusion, names, {n: of[kind] for n, of in labels.classes.items()}) for kind in kinds}
    return dataclasses.replace(
        result,
        unlabelled_utterances=task.unlabelled,
        confusion=confusion.tolist(),
        by=by,
    )


def probe_speakers(features: Features, options: Options = DEFAULTS, *, progress: Progress | None = None) -> Result:
    """Train and score a speaker classifier, by frame and by utterance.

    An utterance is assigned the speaker with the largest mean log-probability over its frames, which for the linear
    classifier is that of the mean frame. C is chosen by frame accuracy.

    Args:
        features: the frames, with a manifest that has a `split` column.
        options: what is trained and scored.
        progress: takes a line of text after each stage.

    Raises:
        ProbeError: train, dev or test is missing; a feature is not finite; a speaker of dev or test is not in train.
    """
    features = pooled(features, options.pooling)
    splits = splits_of(features, options.evaluate)
    speaker_of = features.manifest.speaker_of
    speakers = sorted({speaker_of[u] for u in splits["train"]})
    for split, utterances in splits.items():
        here = {speaker_of[u] for u in utterances}
        unseen = sorted(here.difference(speakers))
        if unseen:
            raise ProbeError(
                f"{features.folder}: {len(unseen)} of {len(here)} speakers of {split} (e.g. {unseen[0]}) are not in "
                "train, but the probe is closed-set; `cpc manifest --split utterance` shares speakers between splits"
            )
    return _run(_task_of_column(features, "speaker", splits), options, progress or _silent)[0]


def probe_column(
    features: Features, column: str, options: Options = DEFAULTS, *, progress: Progress | None = None
) -> Result:
    """Train and score a classifier of a column of the manifest, by frame and by utterance.

    An utterance is assigned the class with the largest mean log-probability over its frames. Utterances with an empty
    value are left out. A class that does not occur in train cannot be predicted, and its frames count as wrong.

    Args:
        features: the frames, with a manifest that has the column and a `split` column.
        column: whose values are the classes.
        options: what is trained and scored.
        progress: takes a line of text after each stage.

    Returns:
        The result, with the confusion matrices of frames and of utterances.

    Raises:
        ProbeError: train, dev or test is missing or has no value; a feature is not finite.
        ManifestError: the manifest has no such column.
    """
    features = pooled(features, options.pooling)
    task = _task_of_column(features, column, splits_of(features, options.evaluate))
    result, scores = _run(task, options, progress or _silent)
    return dataclasses.replace(
        result,
        unlabelled_utterances=task.unlabelled,
        confusion=scores.confusion.tolist(),
        utterance_confusion=scores.utterance_confusion.tolist(),
    )


def _task_of_column(features: Features, column: str, splits: Mapping[str, list[str]]) -> Task:
    """Take the values of a column as classes; empty ones are no labels."""
    value_of = dict(zip(features.manifest.utterances, features.manifest.column(column), strict=True))
    used = {u for utterances in splits.values() for u in utterances}
    names = sorted({value_of[u] for u in used} - {""})
    index = {name: i for i, name in enumerate(names)}

    def targets(utterance: str) -> NDArray[np.int64]:
        return np.full(features.num_frames(utterance), index[value_of[utterance]], dtype=np.int64)

    return Task(
        name=column,
        features=features,
        splits={split: [u for u in utterances if value_of[u]] for split, utterances in splits.items()},
        targets=targets,
        class_name=names.__getitem__,
        unlabelled=sorted(u for u in used if not value_of[u]),
    )


def _silent(line: str) -> None:
    """Show no progress."""


def _run(task: Task, options: Options, tell: Progress, predictions: Path | None = None) -> tuple[Result, Scores]:
    """Train, choose and score a classifier."""
    began = time.perf_counter()
    features = task.features
    censuses = {split: census_of(features, split, names, task.targets) for split, names in task.splits.items()}
    trained = fit_classifiers(task, censuses, options, tell)
    model, evaluated = trained.chosen.model, censuses[options.evaluate]
    classes = np.union1d(np.flatnonzero(trained.frequency), np.flatnonzero(evaluated.frequency))
    scores = score(features, evaluated.utterances, task.targets, trained.scaler, model, classes)
    if predictions is not None:
        write_labels(predictions, _predictions(features, evaluated.utterances, trained.scaler, model))
    result = _result(task, options, censuses, trained, scores, classes, time.perf_counter() - began)
    tell(f"{task.name} probe: accuracy {result.accuracy:.4f} on {result.num_evaluated_frames} {result.evaluate} frames")
    return result, scores


def _predictions(
    features: Features, utterances: list[str], scaler: StandardScaler, model: Any
) -> dict[str, NDArray[np.int64]]:
    """Predict the class of every frame, labelled or not."""
    predicted = {}
    for utterance in utterances:
        x = scaler.transform(read_frames(features, utterance, np.arange(features.num_frames(utterance))))
        predicted[utterance] = model.predict(x)
    return predicted


def _result(
    task: Task,
    options: Options,
    censuses: Mapping[str, Census],
    trained: Trained,
    scores: Scores,
    classes: NDArray[np.int64],
    seconds: float,
) -> Result:
    """Assemble the result; `probe_phones` adds what only phones have."""
    chosen, total = trained.chosen, int(scores.total.sum())
    counts, seen = scores.confusion.sum(axis=1), np.isin(classes, np.flatnonzero(trained.frequency))
    clusters = clusters_of(task.features, censuses["train"], censuses[options.evaluate])
    return Result(
        task=task.name,
        evaluate=options.evaluate,
        classifier=options.classifier,
        pooling=options.pooling,
        control="shuffled labels" if options.shuffle_labels else None,
        **describe_clusters(clusters),
        **_accuracies(task, scores, int(np.searchsorted(classes, trained.frequency.argmax())), clusters, options.seed),
        C=chosen.C,
        dev_accuracy={"mlp" if fit.C is None else f"{fit.C:g}": fit.dev_accuracy for fit in trained.fits},
        hidden=options.hidden if options.classifier == "mlp" else None,
        converged=chosen.warning is None,
        num_iterations=chosen.num_iterations,
        warning=chosen.warning,
        num_train_frames=int(trained.frequency.sum()),
        num_dev_frames=trained.num_dev_frames,
        num_test_frames=total if options.evaluate == "test" else 0,
        num_evaluated_frames=total,
        num_available_train_frames=censuses["train"].total,
        num_classes=len(classes),
        num_unlabelled_frames=sum(census.num_unlabelled for census in censuses.values()),
        num_unlabelled_utterances=len(task.unlabelled),
        num_unseen_class_frames=int(counts[~seen].sum()),
        max_frames=options.max_frames,
        seed=options.seed,
        max_iter=options.max_iter,
        tol=options.tol,
        seconds=round(seconds, 3),
        features=Origin.of(task.features),
        versions=versions(),
        per_class=_per_class(task, classes, seen, scores.confusion),
    )


def _accuracies(task: Task, scores: Scores, majority: int, clusters: list[str], seed: int) -> dict[str, Any]:
    """Compute the fields of the result that are accuracies, by frame, and by utterance where it has one class."""
    counts = scores.confusion.sum(axis=1)
    measures: dict[str, Any] = {
        "accuracy": float(scores.correct.sum() / scores.total.sum()),
        "accuracy_interval": bootstrap(scores.correct, scores.total, seed, clusters),
        "balanced_accuracy": balanced_accuracy(scores.confusion),
        "macro_f1": macro_f1(scores.confusion),
        "auc": scores.auc,
        "majority": {"accuracy": float(counts[majority] / counts.sum())},
    }
    if not task.by_utterance:
        return measures
    right = (scores.guesses == scores.truths).astype(np.int64)
    measures["majority"]["utterance_accuracy"] = float((scores.truths == majority).mean())
    return measures | {
        "utterance_accuracy": float(right.mean()),
        "utterance_accuracy_interval": bootstrap(right, np.ones_like(right), seed, clusters),
        "utterance_balanced_accuracy": balanced_accuracy(scores.utterance_confusion),
        "utterance_macro_f1": macro_f1(scores.utterance_confusion),
        "utterance_auc": scores.utterance_auc,
    }


def _per_class(
    task: Task, classes: NDArray[np.int64], seen: NDArray[np.bool_], confusion: NDArray[np.int64]
) -> list[ClassScore]:
    """Score each class by itself."""
    return [
        ClassScore(
            id=int(label),
            name=task.class_name(int(label)),
            seen=bool(seen[i]),
            count=int(count),
            accuracy=float(confusion[i, i] / count) if count else None,
        )
        for i, (label, count) in enumerate(zip(classes, confusion.sum(axis=1), strict=True))
    ]
