"""How much a classifier reads out of frames: of their phone, of their speaker.

Source: van den Oord et al. 2018 (arXiv 1807.03748), section 3.1, tables 1 and 2. The paper does not name its
probe's optimiser; this is multinomial logistic regression (scikit-learn, L-BFGS) on standardised frames.

Conventions:
- Splits are the `split` column of the features' manifest: train, dev, test.
- The scaler sees drawn train frames only, C is chosen by accuracy on drawn dev frames, test is scored once.
- Labels are placed by time (`cpc.alignment`). Frames without a label are in no count but their own.
- A class that no drawn train frame had cannot be predicted: its test frames are wrong, and reported.
- Memory is bounded by `max_frames`: that many train frames, a quarter of it dev frames, one test utterance at
  a time; in bytes about 4 * max_frames * (1.25 * dim + 4 * num_classes). With max_frames = 0 all train frames are
  streamed from disk, BLOCK_FRAMES in memory at a time.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from cpc.files import write_bytes
from cpc.labels import UNLABELLED, labelled_utterances, labels_at
from cpc.probes.classifiers import HIDDEN, Progress, logistic, one_hidden_layer, streamed
from cpc.probes.frames import Census, Evaluate, ProbeError, Targets, blocks, census_of, draw, read, splits_of

if TYPE_CHECKING:
    from cpc.features import Features

MAX_FRAMES = 100_000  # about 17 minutes at 10 ms
CS = (1e-3, 1e-2, 1e-1, 1.0)
MAX_ITER = 200
# Against 1e-4, a tolerance of 1e-3 costs MFCC 0.4 points of phone accuracy and 256-dimensional features 0.2:
# it would flatter the network.
TOL = 3e-4
BLOCK_FRAMES = 100_000  # that streaming holds at a time, and an utterance more
DEV_SHARE = 4  # one dev frame is drawn for this many train frames
NUM_RESAMPLES = 1000  # of the bootstrap
INTERVAL = (2.5, 97.5)  # percentiles
SCALER_ROWS = 8192  # rows that the scaler takes to float64 at a time

Classifier = Literal["linear", "mlp"]


def probe_phones(
    features: "Features",
    labels: Mapping[str, NDArray[Any]],
    *,
    max_frames: int = MAX_FRAMES,
    Cs: Sequence[float] = CS,
    max_iter: int = MAX_ITER,
    tol: float = TOL,
    seed: int = 0,
    evaluate: Evaluate = "test",
    classifier: Classifier = "linear",
    hidden: int = HIDDEN,
    shuffle_labels: bool = False,
    phone_names: Mapping[int, str] | None = None,
    phone_classes: Mapping[str, Mapping[str, str]] | None = None,
    predictions: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Trains and scores a phone classifier of frames.

    Args:
        features: with a manifest that has a `split` column.
        labels: by utterance, integer phones (`alignment.read_labels`).
        max_frames: train frames drawn, uniformly and without replacement, from all labelled ones; 0 takes all of them,
            streamed from disk in mini-batches, however many there are.
        Cs: inverse strengths of regularisation to choose from, on dev.
        max_iter: L-BFGS iterations for each C. Each goes on from where the C before it ended, so a C that
            hardly moves the optimum takes few or none.
        tol: stop below this largest absolute gradient of the mean loss, in nats a frame.
        seed: of the draw.
        evaluate: "dev" leaves the test split untouched while something else is being chosen; its accuracy
            is then optimistic, because C was chosen there.
        classifier: "linear"; or "mlp", one hidden layer (the paper's 72.5).
        hidden: units of that layer.
        shuffle_labels: a control: the train frames get each other's labels, so what is left is no more than how often
            each class comes.
        phone_names: by integer phone, names for the result.
        phone_classes: by name, e.g. {"manner": "stop", "place": "bilabial"} (`alignment.read_phone_classes`), for
            `by_manner` and whatever else there is.
        predictions: file to write with the phone predicted at every frame of the evaluated utterances, labelled or
            not, in the form of a label file: `utterance-id p_0 p_1 …`.
        progress: takes a line of text after each stage.

    Returns:
        What `save` writes; accuracies in [0, 1]. `accuracy_interval` is 95 %, by resampling test utterances:
        it holds for this probe on further utterances, not for another draw or another training run.
        `num_unlabelled_frames` counts the frames beyond the labels in utterances that have some. Where the evaluated
        split shares no speaker with train, the interval resamples speakers.

    Raises:
        ProbeError: no train, dev or test; a split without labels; features that are not finite.
        LabelsError: labels that do not fit the manifest.
    """
    splits = splits_of(features, evaluate)
    labelled = set(labelled_utterances(features.manifest, labels))
    wanted = {split: [u for u in utterances if u in labelled] for split, utterances in splits.items()}
    missing = sorted({u for utterances in splits.values() for u in utterances} - labelled)

    def targets(utterance: str) -> NDArray[np.int64]:
        return labels_at(labels[utterance], features.times(features.num_frames(utterance)))

    fitting = _Fitting(max_frames, tuple(Cs), max_iter, tol, seed, evaluate, classifier, hidden, shuffle_labels)
    probe = _run("phone", features, wanted, targets, phone_names or {}, fitting, progress, predictions)
    result = probe.result | {
        "num_unlabelled_utterances": len(missing),
        "unlabelled_utterances": missing,
        "confusion": probe.confusion.tolist(),  # [true][predicted], both in the order of per_class
    }
    if phone_classes:
        names = [entry["name"] for entry in result["per_class"]]
        for kind in next(iter(phone_classes.values())):
            result[f"by_{kind}"] = _by_class(probe.confusion, names, {n: c[kind] for n, c in phone_classes.items()})
    return result


def probe_speakers(
    features: "Features",
    *,
    max_frames: int = MAX_FRAMES,
    Cs: Sequence[float] = CS,
    max_iter: int = MAX_ITER,
    tol: float = TOL,
    seed: int = 0,
    evaluate: Evaluate = "test",
    classifier: Classifier = "linear",
    hidden: int = HIDDEN,
    shuffle_labels: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Trains and scores a speaker classifier, by frame and by utterance.

    An utterance goes to the speaker of its mean feature: for the linear classifier, the one with the largest mean logit
    over its frames.

    The arguments are those of `phone`; C is chosen by frame accuracy.

    Returns:
        As `phone`, and `utterance_accuracy` with its interval.

    Raises:
        ProbeError: as `phone`; and a speaker who is in dev or test but not in train.
    """
    splits = splits_of(features, evaluate)
    table = features.manifest.table
    of = dict(zip(table["utterance"].astype(str), table["speaker"].astype(str), strict=True))
    speakers = sorted({of[u] for u in splits["train"]})
    for split, utterances in splits.items():
        here = {of[u] for u in utterances}
        unseen = sorted(here.difference(speakers))
        if unseen:
            raise ProbeError(
                f"{features.folder}: {len(unseen)} of {len(here)} speakers of {split} (e.g. {unseen[0]}) are "
                "not in train; the probe is closed-set: `cpc manifest --split utterance` shares speakers out"
            )
    index = {name: i for i, name in enumerate(speakers)}

    def targets(utterance: str) -> NDArray[np.int64]:
        return np.full(features.num_frames(utterance), index[of[utterance]], dtype=np.int64)

    fitting = _Fitting(max_frames, tuple(Cs), max_iter, tol, seed, evaluate, classifier, hidden, shuffle_labels)
    return _run("speaker", features, splits, targets, dict(enumerate(speakers)), fitting, progress, None).result


def summary(result: Mapping[str, Any]) -> str:
    """A result in a few lines, for a terminal; what should make its reader careful is among them."""
    lines = []
    for measure, unit in (("accuracy", "frames"), ("utterance_accuracy", "utterances")):
        if measure in result:
            low, high = result[f"{measure}_interval"]
            lines.append(
                f"{result['task']}: {100 * result[measure]:.1f} % of {result['evaluate']} {unit} right "
                f"(95 % interval {100 * low:.1f} to {100 * high:.1f}; "
                f"majority class {100 * result['majority'][measure]:.1f})"
            )
    lines.append(
        f"{result['num_classes']} classes; {result['num_evaluated_frames']} {result['evaluate']} frames; "
        f"{result['num_train_frames']} of {result['num_available_train_frames']} train frames; "
        f"{result['classifier']}, "
        + (
            f"C {result['C']:g}"
            if result["C"]
            else f"{result['hidden']} hidden units, epoch {result['num_iterations']}"
        )
        + f", chosen on {result['num_dev_frames']} dev frames; {result['seconds']:.0f} s"
    )
    if result["control"]:
        lines.append(f"control: {result['control']}: what is above the majority class here, labels did not teach")
    if result["interval_clusters"] == "speaker":
        lines.append(f"the interval resamples {result['num_interval_clusters']} speakers, none of them in train")
    if result["warning"]:
        lines.append(f"not converged within max_iter {result['max_iter']}: {result['warning']}")
    if result["num_unlabelled_utterances"] or result["num_unlabelled_frames"]:
        lines.append(
            f"left out: {result['num_unlabelled_utterances']} utterances without labels, and "
            f"{result['num_unlabelled_frames']} frames beyond the labels of the others"
        )
    if result["num_unseen_class_frames"]:
        lines.append(f"{result['num_unseen_class_frames']} frames of classes without a train frame, counted as wrong")
    return "\n".join(lines)


def save(result: Mapping[str, Any], path: str | Path) -> None:
    """Writes a result as JSON, a key a line, whole or not at all."""
    lines = (f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in result.items())
    write_bytes(Path(path), ("{\n" + ",\n".join(lines) + "\n}\n").encode())


@dataclass(frozen=True)
class _Fitting:
    max_frames: int
    Cs: tuple[float, ...]
    max_iter: int
    tol: float
    seed: int
    evaluate: Evaluate
    classifier: Classifier
    hidden: int
    shuffle_labels: bool

    def __post_init__(self) -> None:
        if self.max_frames < DEV_SHARE and self.max_frames != 0:
            raise ProbeError(f"max_frames: got {self.max_frames}, expected at least {DEV_SHARE}, or 0 for all")
        if self.max_frames == 0 and self.classifier != "linear":
            raise ProbeError("max_frames: got 0, all frames, which only the linear classifier takes; pass a number")
        if self.classifier not in get_args(Classifier):
            raise ProbeError(f"classifier: got {self.classifier!r}, allowed: {', '.join(get_args(Classifier))}")
        if self.hidden < 1:
            raise ProbeError(f"hidden: got {self.hidden}, expected 1 or more")
        if not self.Cs or min(self.Cs) <= 0:
            raise ProbeError(f"Cs: got {self.Cs}, expected one or more positive numbers")


@dataclass(frozen=True)
class _Probe:
    result: dict[str, Any]
    confusion: NDArray[np.int64]  # (num_classes, num_classes)


@dataclass(frozen=True)
class _Scores:
    correct: NDArray[np.int64]  # (U,) frames
    total: NDArray[np.int64]  # (U,) frames
    utterance_correct: NDArray[np.int64]  # (U,) 0 or 1
    truths: NDArray[np.int64]  # (U,) each utterance's most frequent class, as an index
    confusion: NDArray[np.int64]  # (num_classes, num_classes)


def _run(
    task: str,
    features: "Features",
    splits: Mapping[str, list[str]],
    targets: Targets,
    names: Mapping[int, str],
    fitting: _Fitting,
    progress: Progress | None,
    predictions: Path | None,
) -> _Probe:
    """Draw, standardise, choose on dev, score: both probes from here on."""
    began = time.perf_counter()
    tell = progress or (lambda line: None)
    evaluate = fitting.evaluate

    censuses = {split: census_of(features, split, utterances, targets) for split, utterances in splits.items()}
    x_dev, y_dev = draw(
        features, censuses["dev"], targets, (fitting.max_frames or MAX_FRAMES) // DEV_SHARE, (fitting.seed, 1)
    )
    if fitting.max_frames:
        x, y = draw(features, censuses["train"], targets, fitting.max_frames, (fitting.seed, 0))
        frequency = np.bincount(y)
    else:
        frequency = np.zeros(max(censuses["train"].classes) + 1, dtype=np.int64)
        for utterance in censuses["train"].utterances:
            labels = targets(utterance)
            frequency += np.bincount(labels[labels != UNLABELLED], minlength=len(frequency))
    num_train, num_seen = int(frequency.sum()), int((frequency > 0).sum())
    if num_seen < 2:
        raise ProbeError(f"{features.folder}: one {task} only among {num_train} train frames; nothing to tell apart")
    tell(f"{task} probe: {num_train} train and {len(y_dev)} dev frames, {num_seen} classes")

    shuffling = np.random.default_rng((fitting.seed, 3))
    scaler = StandardScaler(copy=False)
    if fitting.max_frames:
        for first in range(0, len(x), SCALER_ROWS):
            scaler.partial_fit(x[first : first + SCALER_ROWS].astype(np.float64))
        x, x_dev = scaler.transform(x), scaler.transform(x_dev)
        y = shuffling.permutation(y) if fitting.shuffle_labels else y
        if fitting.classifier == "mlp":
            fits = [one_hidden_layer(x, y, x_dev, y_dev, fitting.hidden, fitting.seed, tell)]
        else:
            fits = logistic(x, y, x_dev, y_dev, fitting.Cs, fitting.max_iter, fitting.tol, tell)
    else:

        def of_epoch(epoch: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
            for block, its in blocks(features, censuses["train"], targets, BLOCK_FRAMES, (fitting.seed, 4, epoch)):
                yield scaler.transform(block), shuffling.permutation(its) if fitting.shuffle_labels else its

        for block, _ in blocks(features, censuses["train"], targets, BLOCK_FRAMES, (fitting.seed, 4)):
            for first in range(0, len(block), SCALER_ROWS):
                scaler.partial_fit(block[first : first + SCALER_ROWS].astype(np.float64))
        x_dev = scaler.transform(x_dev)
        seen_classes = np.flatnonzero(frequency)
        fits = streamed(of_epoch, num_train, seen_classes, x_dev, y_dev, fitting.Cs, fitting.seed, tell)
    chosen = max(fits, key=lambda fit: fit.dev_accuracy)  # the first, so the smallest C, among equals

    train_classes = np.flatnonzero(frequency)
    classes = np.array(sorted({*train_classes.tolist()} | censuses[evaluate].classes), dtype=np.int64)
    scores = _score(features, censuses[evaluate].utterances, targets, scaler, chosen.model, classes)
    if predictions is not None:
        _write_predictions(features, censuses[evaluate].utterances, scaler, chosen.model, predictions)
    counts = scores.confusion.sum(axis=1)
    majority = int(np.searchsorted(classes, frequency.argmax()))
    accuracy = float(scores.correct.sum() / scores.total.sum())
    tell(f"{task} probe: accuracy {accuracy:.4f} on {scores.total.sum()} {evaluate} frames")

    clusters = _clusters(features, censuses, evaluate, targets)
    result: dict[str, Any] = {
        "task": task,
        "evaluate": evaluate,
        "classifier": fitting.classifier,
        "control": "shuffled labels" if fitting.shuffle_labels else None,
        "interval_clusters": "utterance" if len(set(clusters)) == len(clusters) else "speaker",
        "num_interval_clusters": len(set(clusters)),
        "accuracy": accuracy,
        "accuracy_interval": _bootstrap(scores.correct, scores.total, fitting.seed, clusters),
        "majority": {"accuracy": float(counts[majority] / counts.sum())},
    }
    if task == "speaker":
        ones = np.ones_like(scores.utterance_correct)
        result["utterance_accuracy"] = float(scores.utterance_correct.mean())
        result["utterance_accuracy_interval"] = _bootstrap(scores.utterance_correct, ones, fitting.seed, clusters)
        result["majority"]["utterance_accuracy"] = float((scores.truths == majority).mean())
    seen = np.isin(classes, train_classes)
    result |= {
        "C": chosen.C,
        "dev_accuracy": {f"{fit.C:g}" if fit.C else "mlp": fit.dev_accuracy for fit in fits},
        "hidden": fitting.hidden if fitting.classifier == "mlp" else None,
        "converged": chosen.warning is None,
        "num_iterations": chosen.num_iterations,
        "warning": chosen.warning,
        "num_train_frames": num_train,
        "num_dev_frames": len(y_dev),
        "num_test_frames": int(scores.total.sum()) if evaluate == "test" else 0,
        "num_evaluated_frames": int(scores.total.sum()),
        "num_available_train_frames": int(censuses["train"].num_labelled.sum()),
        "num_classes": len(classes),
        "num_unlabelled_frames": sum(census.num_unlabelled for census in censuses.values()),
        "num_unlabelled_utterances": 0,
        "num_unseen_class_frames": int(counts[~seen].sum()),
        "max_frames": fitting.max_frames,
        "seed": fitting.seed,
        "max_iter": fitting.max_iter,
        "tol": fitting.tol,
        "seconds": round(time.perf_counter() - began, 3),
        "features": {"source": features.source, "layer": features.layer, "dim": features.dim},
        "per_class": [
            {
                "id": int(label),
                "name": names.get(int(label), str(label)),
                "seen": bool(seen[i]),
                "count": int(counts[i]),
                "accuracy": float(scores.confusion[i, i] / counts[i]) if counts[i] else None,
            }
            for i, label in enumerate(classes)
        ],
    }
    return _Probe(result, scores.confusion)


def _score(
    features: "Features",
    utterances: list[str],
    targets: Targets,
    scaler: StandardScaler,
    model: Any,
    classes: NDArray[np.int64],
) -> _Scores:
    """Scores every labelled frame of a split, one utterance in memory at a time."""
    n = len(classes)
    confusion = np.zeros((n, n), dtype=np.int64)
    rows = []
    for utterance in utterances:
        labels = targets(utterance)
        frames = np.flatnonzero(labels != UNLABELLED)
        if not len(frames):
            continue
        x = scaler.transform(read(features, utterance, frames))
        true = np.searchsorted(classes, labels[frames])
        predicted = np.searchsorted(classes, model.predict(x))
        confusion += np.bincount(true * n + predicted, minlength=n * n).reshape(n, n)
        truth = int(np.bincount(true).argmax())
        by_mean = model.predict(x.mean(axis=0, dtype=np.float64, keepdims=True))[0]
        rows.append((int((true == predicted).sum()), len(frames), int(by_mean == classes[truth]), truth))
    correct, total, utterance_correct, truths = np.array(rows, dtype=np.int64).T
    return _Scores(correct, total, utterance_correct, truths, confusion)


def _write_predictions(
    features: "Features", utterances: list[str], scaler: StandardScaler, model: Any, path: Path
) -> None:
    """Write the class predicted at every frame, an utterance a line."""
    lines = []
    for utterance in utterances:
        x = scaler.transform(read(features, utterance, np.arange(features.num_frames(utterance))))
        lines.append(" ".join([utterance, *map(str, model.predict(x).tolist())]) + "\n")
    write_bytes(path, "".join(lines).encode())


def _by_class(confusion: NDArray[np.int64], names: Sequence[str], of: Mapping[str, str]) -> dict[str, Any]:
    """Phones put together by what they share: how often the phone, and how often its class, is right."""
    classes = list(dict.fromkeys(of[name] for name in names if name in of))
    place = np.array([classes.index(of[name]) if name in of else -1 for name in names])
    merged = np.zeros((len(classes), len(classes)), dtype=np.int64)
    known = place >= 0
    np.add.at(merged, (place[known][:, None], place[known][None]), confusion[np.ix_(known, known)])
    entries = []
    for i, name in enumerate(classes):
        members = np.flatnonzero(place == i)
        count = int(confusion[members].sum())
        right, phone_right = int(merged[i, i]), int(confusion[members, members].sum())
        entries.append({
            "name": name, "count": count, "phones": [names[int(m)] for m in members],
            "accuracy": right / count if count else None, "phone_accuracy": phone_right / count if count else None,
        })  # fmt: skip
    return {"classes": entries, "confusion": merged.tolist(), "unclassed": [n for n in names if n not in of]}


def _clusters(features: "Features", censuses: Mapping[str, Census], evaluate: Evaluate, targets: Targets) -> list[str]:
    """What is drawn together, for each scored utterance: itself; or its speaker, of several, if none is in train."""
    table = features.manifest.table
    of = dict(zip(table["utterance"].astype(str), table["speaker"].astype(str), strict=True))
    scored = [u for u, n in zip(censuses[evaluate].utterances, censuses[evaluate].num_labelled, strict=True) if n]
    shared = {of[u] for u in censuses["train"].utterances} & {of[u] for u in scored}
    return scored if shared or len({of[u] for u in scored}) < 2 else [of[u] for u in scored]


def _bootstrap(
    correct: NDArray[np.int64], total: NDArray[np.int64], seed: int, clusters: Sequence[str] | None = None
) -> list[float]:
    """95 % interval of an accuracy, drawing clusters of utterances with replacement: they are not independent.

    Args:
        correct: (U,) frames of each utterance.
        total: (U,).
        seed: of the draw.
        clusters: (U,) to which cluster each utterance belongs; by default each is its own.
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
    return [float(value) for value in np.percentile(means, INTERVAL)]
