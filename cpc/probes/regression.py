"""Measure how well a linear map of frames recovers a number that an utterance has, such as an age or a weight.

Conventions are those of the classifiers (`linear`): standardised frames of the train split, the strength of the
regularisation chosen on dev, one look at the evaluated split. An utterance's prediction is the mean over its frames.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from cpc.probes.frames import Census, Targets, census_of, draw, labelled, splits_of
from cpc.probes.options import DEV_SHARE, Evaluate, Options, Pooling, ProbeError
from cpc.probes.pooling import pooled
from cpc.probes.result import Origin, write_result
from cpc.probes.scores import INTERVAL, NUM_RESAMPLES, clusters_of, describe_clusters
from cpc.versions import versions

if TYPE_CHECKING:  # the page reads results without torch
    from cpc.features import Features
    from cpc.probes.classifiers import Progress

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Regression:
    """The result of a regression. The fields are the keys of the JSON file, in its order."""

    task: str
    """The column."""
    evaluate: Evaluate
    control: str | None
    """"shuffled labels" for the control; else None."""
    r2: float
    """Share of the variance among evaluated frames that the predictions explain; negative if the mean is better."""
    r2_interval: tuple[float, float]
    """95 % bootstrap interval."""
    mae: float
    """Mean absolute error of frames, in the column's unit."""
    utterance_r2: float
    """The same of utterances' mean predictions."""
    utterance_r2_interval: tuple[float, float]
    utterance_mae: float
    mean_mae: float
    """Mean absolute error of utterances if the prediction is always the mean of train."""
    interval_clusters: Literal["utterance", "speaker"]
    """What the bootstrap resamples."""
    num_interval_clusters: int
    C: float
    """The chosen inverse regularisation strength."""
    dev_r2: dict[str, float]
    """R² of dev frames for each C."""
    num_train_frames: int
    num_evaluated_frames: int
    num_evaluated_utterances: int
    unlabelled_utterances: list[str]
    """Utterances without a number, which are left out."""
    max_frames: int
    seed: int
    seconds: float
    """Wall-clock time."""
    features: Origin
    versions: dict[str, str] | None = None
    """As in `Result`."""
    pooling: Pooling | None = None
    """How the frames of an utterance were pooled; a frame in the other fields is then the vector of an utterance."""

    @classmethod
    def read(cls, path: str | Path) -> Regression:
        """Read a result that was saved.

        Raises:
            ProbeError: the file is missing or not the result of a regression.
        """
        try:
            return TypeAdapter(cls).validate_json(Path(path).read_bytes())
        except (OSError, ValidationError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ProbeError(f"{path}: not the result of a regression: {reason}") from None

    def save(self, path: str | Path) -> None:
        """Write the result as JSON, one key a line, atomically."""
        write_result(path, dataclasses.asdict(self))

    def __str__(self) -> str:
        """Describe the result in a few lines for a terminal."""
        is_pooled = self.pooling is not None
        units = "utterances" if is_pooled else "frames"
        lines = [
            f"{self.task}: R² {r2:.3f} by {unit} (95 % interval {low:.3f} to {high:.3f}), mean absolute error {mae:.4g}"
            for unit, r2, (low, high), mae in (
                ("frame", self.r2, self.r2_interval, self.mae),
                ("utterance", self.utterance_r2, self.utterance_r2_interval, self.utterance_mae),
            )[is_pooled:]
        ]
        lines.append(
            f"{self.num_evaluated_utterances} {self.evaluate} utterances; the mean of train is off by "
            f"{self.mean_mae:.4g}; {self.num_train_frames} train {units}; C {self.C:g}; {self.seconds:.0f} s"
        )
        if self.control:
            lines.append(f"control with {self.control}: an R² above 0 does not come from labels")
        if self.unlabelled_utterances:
            lines.append(f"left out: {len(self.unlabelled_utterances)} utterances without a number")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Errors:
    """The squared and absolute errors of U utterances, from which all measures follow."""

    truths: Array  # (U,) numbers
    means: Array  # (U,) mean predictions
    num_frames: Array  # (U,)
    squared: Array  # (U,) sums over frames
    absolute: Array  # (U,)

    def r2(self, rows: NDArray[np.int64]) -> tuple[float, float]:
        """Compute R² of the frames and of the means of some utterances; a row may occur several times."""
        truths, n = self.truths[rows], self.num_frames[rows]
        around = (n * (truths - np.average(truths, weights=n)) ** 2).sum()
        between = ((truths - truths.mean()) ** 2).sum()
        squared, of_means = self.squared[rows].sum(), ((self.means[rows] - truths) ** 2).sum()
        return _share(squared, around), _share(of_means, between)


def _share(left: float, total: float) -> float:
    return float(1 - left / total) if total > 0 else math.nan


def probe_number(features: Features, column: str, options: Options, *, progress: Progress | None = None) -> Regression:
    """Fit and score a ridge regression of a column of the manifest that holds numbers, by frame and by utterance.

    Args:
        features: the frames, with a manifest that has the column and a `split` column.
        column: the numbers; utterances with an empty value are left out.
        options: what is fitted and scored; only a linear model of drawn frames.
        progress: takes a line of text after each stage.

    Raises:
        ProbeError: a value is no number; train, dev or test is missing or has none; the options ask for another model.
        ManifestError: the manifest has no such column.
    """
    began, tell = time.perf_counter(), progress or (lambda line: None)
    if options.classifier != "linear" or not options.max_frames:
        raise ProbeError(
            f"{column}: a regression is linear and draws its frames; pass no --classifier, no --max-frames 0"
        )
    features = pooled(features, options.pooling)
    splits = splits_of(features, options.evaluate)
    value_of = _numbers(features, column, {u for utterances in splits.values() for u in utterances})
    if len({value_of[u] for u in splits[options.evaluate] if u in value_of}) == 1:
        raise ProbeError(f"{column}: all {options.evaluate} utterances have one value, which leaves nothing to explain")
    names = sorted(value_of)
    values, index = np.array([value_of[name] for name in names]), {name: i for i, name in enumerate(names)}

    def targets(utterance: str) -> NDArray[np.int64]:  # an utterance is a class of its own, whose number is known
        return np.full(features.num_frames(utterance), index[utterance], dtype=np.int64)

    censuses = {
        split: census_of(features, split, [u for u in utterances if u in index], targets)
        for split, utterances in splits.items()
    }
    scaler, fits, dev_r2 = _fit(features, censuses, targets, values, options, tell)
    chosen = max(dev_r2, key=dev_r2.__getitem__)
    evaluated = censuses[options.evaluate]
    errors = _errors(features, evaluated, value_of, scaler, fits[chosen])
    of_train = np.average([value_of[u] for u in censuses["train"].utterances], weights=censuses["train"].num_labelled)
    return Regression(
        task=column,
        evaluate=options.evaluate,
        control="shuffled labels" if options.shuffle_labels else None,
        mean_mae=float(np.abs(errors.truths - of_train).mean()),
        **_measures(errors, clusters_of(features, censuses["train"], evaluated), options.seed),
        C=chosen,
        dev_r2={f"{C:g}": r2 for C, r2 in dev_r2.items()},
        num_train_frames=min(options.max_frames, censuses["train"].total),
        num_evaluated_frames=int(errors.num_frames.sum()),
        num_evaluated_utterances=len(errors.truths),
        unlabelled_utterances=sorted({u for us in splits.values() for u in us} - set(index)),
        max_frames=options.max_frames,
        seed=options.seed,
        seconds=round(time.perf_counter() - began, 3),
        features=Origin.of(features),
        versions=versions(),
        pooling=options.pooling,
    )


def _fit(
    features: Features,
    censuses: Mapping[str, Census],
    targets: Targets,
    values: Array,
    options: Options,
    tell: Progress,
) -> tuple[StandardScaler, dict[float, Ridge], dict[float, float]]:
    """Fit a model for each C to drawn train frames; return the scaler, the models and their R² on drawn dev frames."""
    train = draw(features, censuses["train"], targets, options.max_frames, (options.seed, 0))
    dev = draw(features, censuses["dev"], targets, options.max_frames // DEV_SHARE, (options.seed, 1))
    scaler = StandardScaler().fit(train.x)
    y = values[train.y]
    if options.shuffle_labels:
        y = np.random.default_rng((options.seed, 3)).permutation(y)
    x, x_dev, fits, dev_r2 = scaler.transform(train.x), scaler.transform(dev.x), {}, {}
    for C in sorted(set(options.Cs)):
        fits[C] = Ridge(alpha=1 / C).fit(x, y)
        dev_r2[C] = float(fits[C].score(x_dev, values[dev.y]))
        tell(f"C {C:g}: dev R² {dev_r2[C]:.4f}")
    return scaler, fits, dev_r2


def _numbers(features: Features, column: str, used: set[str]) -> dict[str, float]:
    """Read the number of each of the used utterances that has one."""
    numbers = {}
    for utterance, text in zip(features.manifest.utterances, features.manifest.column(column), strict=True):
        if not text or utterance not in used:
            continue
        try:
            numbers[utterance] = float(text)
        except ValueError:
            numbers[utterance] = math.nan
        if not math.isfinite(numbers[utterance]):
            raise ProbeError(
                f"{column}: {utterance} has {text!r}, expected a number; without --regression it is a class"
            )
    return numbers


def _errors(
    features: Features, evaluated: Census, value_of: Mapping[str, float], scaler: StandardScaler, model: Ridge
) -> _Errors:
    """Predict the evaluated utterances, one in memory at a time."""
    rows = []
    for utterance in evaluated.utterances:
        x, _ = labelled(features, utterance, lambda u: np.zeros(features.num_frames(u), dtype=np.int64))
        if len(x):
            predicted, truth = model.predict(scaler.transform(x)), value_of[utterance]
            off = predicted - truth
            rows.append((truth, predicted.mean(), len(x), (off**2).sum(), np.abs(off).sum()))
    return _Errors(*np.array(rows, dtype=np.float64).T)


def _measures(errors: _Errors, clusters: list[str], seed: int) -> dict[str, Any]:
    """Compute the fields of the result that follow from the errors."""
    r2, intervals = errors.r2(np.arange(len(errors.truths))), _intervals(errors, clusters, seed)
    return {
        "r2": r2[0],
        "r2_interval": intervals[0],
        "mae": float(errors.absolute.sum() / errors.num_frames.sum()),
        "utterance_r2": r2[1],
        "utterance_r2_interval": intervals[1],
        "utterance_mae": float(np.abs(errors.means - errors.truths).mean()),
        **describe_clusters(clusters),
    }


def _intervals(errors: _Errors, clusters: list[str], seed: int) -> list[tuple[float, float]]:
    """Estimate the 95 % intervals of both R² by drawing clusters of utterances with replacement."""
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    members = [np.flatnonzero(index == i) for i in range(index.max() + 1)]
    rng = np.random.default_rng((seed, 2))
    draws = [
        errors.r2(np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))]))
        for _ in range(NUM_RESAMPLES)
    ]
    bounds = np.nanpercentile(np.array(draws), INTERVAL, axis=0)  # (2, 2); a draw of one value alone has no R²
    return [(float(low), float(high)) for low, high in bounds.T]
