"""The result of a probe: what it measured, on what, and how; read from and written to JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter, ValidationError

from cpc.files import write_bytes
from cpc.probes.options import Classifier, Evaluate, Pooling, ProbeError

if TYPE_CHECKING:
    from cpc.features import Features

# Fields that the first version did not write, with the values that they would have had.
_FIRST_VERSION: dict[str, Any] = {
    "classifier": "linear",
    "control": None,
    "interval_clusters": "utterance",
    "num_interval_clusters": None,
    "hidden": None,
}
_FEW_CLUSTERS = 20  # a bootstrap of fewer clusters covers too little: 83 % instead of 95 % with 5
_GROUPING = "by_"  # prefix of the keys under which the groupings are written


def write_result(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write a result as JSON, one key a line, atomically; the first key is the task."""
    lines = [f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in values.items()]
    write_bytes(Path(path), ("{\n" + ",\n".join(lines) + "\n}\n").encode())


@dataclass(frozen=True)
class Origin:
    """The features that were probed."""

    source: str
    """cpc, untrained, mfcc, logmel."""
    layer: str | None
    """z or c; None for spectral features."""
    dim: int
    """D, numbers in a frame."""
    identity: str | None = None
    """What features.json names them: it changes whenever the frames would. None, as below, in files of an earlier
    version."""
    run: str | None = None
    """Run folder or checkpoint whose network made them, as it was given; None for spectral features."""
    run_identity: str | None = None
    """Digest of the run's settings (`cpc.config.config_digest`)."""
    corpus: str | None = None
    """Digest of the utterances that they were made from (`Manifest.digest`)."""

    @classmethod
    def of(cls, features: Features) -> Origin:
        """Name what was probed."""
        made_by = {key: features.meta.get(key) for key in ("identity", "run", "run_identity")}
        return cls(features.source, features.layer, features.dim, **made_by, corpus=features.corpus)


@dataclass(frozen=True)
class ClassScore:
    """The accuracy of one class: a phone, a speaker, or another value of a column."""

    id: int
    """The integer label."""
    name: str
    """Name of the class."""
    seen: bool
    """Whether any train frame had this class."""
    count: int
    """Number of evaluated frames."""
    accuracy: float | None
    """Share of them that were classified correctly; None if there are none."""


@dataclass(frozen=True)
class GroupScore:
    """The accuracy of phones that share a property, such as the plosives."""

    name: str
    """The shared property."""
    count: int
    """Number of evaluated frames."""
    phones: list[str]
    """Names of the phones."""
    accuracy: float | None
    """Share of frames whose predicted phone is in the same group; None if there are no frames."""
    phone_accuracy: float | None
    """Share of frames whose predicted phone is correct; None if there are no frames."""


@dataclass(frozen=True)
class Grouping:
    """Phones grouped by one property, such as their manner of articulation."""

    classes: list[GroupScore]
    """One score a group."""
    confusion: list[list[int]]
    """Frame counts [true][predicted], in the order of `classes`."""
    unclassed: list[str]
    """Phones whose group is unknown; they are not counted."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a probe. Accuracies are in [0, 1].

    The fields are the keys of the JSON file, in its order. Those with a default may be missing there.
    """

    task: str
    """"phone", or the column of the manifest that was probed, such as "speaker"."""
    evaluate: Evaluate
    classifier: Classifier
    control: str | None
    """"shuffled labels" for the control; else None."""
    interval_clusters: Literal["utterance", "speaker"]
    """What the bootstrap resamples."""
    num_interval_clusters: int | None
    """Number of these; None in files of the first version."""
    accuracy: float
    """Share of evaluated frames that were classified correctly."""
    accuracy_interval: tuple[float, float]
    """95 % bootstrap interval. It holds for this probe on other utterances, not for another draw or training run."""
    majority: dict[str, float]
    """The accuracies of always answering with the most frequent train class."""
    balanced_accuracy: float | None = None
    """Mean recall over the classes that occur in the evaluated frames (unweighted average recall, UAR)."""
    macro_f1: float | None = None
    """Mean F1 over the classes that occur or are predicted."""
    auc: float | None = None
    """Area under the receiver operating characteristic, of two classes."""
    utterance_accuracy: float | None = None
    """Share of evaluated utterances whose class was recognised from the mean log-probability."""
    utterance_accuracy_interval: tuple[float, float] | None = None
    """95 % bootstrap interval."""
    utterance_balanced_accuracy: float | None = None
    utterance_macro_f1: float | None = None
    utterance_auc: float | None = None
    C: float | None
    """The chosen inverse regularisation strength; None for mlp."""
    dev_accuracy: dict[str, float]
    """Dev accuracy of each C, or of "mlp"."""
    hidden: int | None
    """Units of the hidden layer; None for linear."""
    converged: bool
    num_iterations: int
    """L-BFGS iterations for the chosen C, or epochs."""
    warning: str | None
    """Why the classifier may not have converged."""
    num_train_frames: int
    num_dev_frames: int
    num_test_frames: int
    """0 if another split was evaluated."""
    num_evaluated_frames: int
    num_available_train_frames: int
    """Labelled train frames from which the train frames were drawn."""
    num_classes: int
    """Classes that occur in the train frames or in the evaluated split."""
    num_unlabelled_frames: int
    """Frames beyond the labels, in utterances that have labels."""
    num_unlabelled_utterances: int
    num_unseen_class_frames: int
    """Evaluated frames of classes without a train frame; they count as wrong."""
    max_frames: int
    seed: int
    max_iter: int
    tol: float
    seconds: float
    """Wall-clock time."""
    features: Origin
    per_class: list[ClassScore]
    unlabelled_utterances: list[str] | None = None
    """Utterances without labels, sorted."""
    confusion: list[list[int]] | None = None
    """Frame counts [true][predicted], in the order of `per_class` (not for speakers)."""
    utterance_confusion: list[list[int]] | None = None
    """Utterance counts likewise (other columns than the speaker)."""
    pooling: Pooling | None = None
    """How the frames of an utterance were pooled; a frame in the other fields is then the vector of an utterance."""
    num_left_out_utterances: int | None = None
    """Utterances that the caller left out of the manifest beforehand."""
    versions: dict[str, str] | None = None
    """Versions of cpc, torch and Python, and the commit (`cpc.versions`); None in files of an earlier version."""
    by: dict[str, Grouping] = field(default_factory=dict)
    """Phones grouped by each known property: by["manner"] is the key by_manner of the file."""

    @classmethod
    def read(cls, path: str | Path) -> Result:
        """Read a result that this version or an older one saved.

        Raises:
            ProbeError: the file is missing or not the result of a probe; the message names the first wrong field.
        """
        path = Path(path)
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ProbeError(f"{path}: no such result; `cpc probe … --out {path}` makes it") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ProbeError(f"{path}: not the result of a probe: not JSON ({error})") from None
        if not isinstance(saved, dict):
            raise ProbeError(f"{path}: not the result of a probe: got a {type(saved).__name__}, expected an object")
        groupings = {key for key in saved if key.startswith(_GROUPING)}
        values = _FIRST_VERSION | {key: value for key, value in saved.items() if key not in groupings}
        values["by"] = {key.removeprefix(_GROUPING): saved[key] for key in saved if key in groupings}
        if unknown := set(values).difference(f.name for f in dataclasses.fields(cls)):
            raise ProbeError(f"{path}: not the result of a probe: {min(unknown)}: unknown field")
        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key, problem = ".".join(map(str, first["loc"])), first["msg"].lower().replace("input should be", "expected")
            got = "" if first["type"] == "missing" else f"got {first['input']!r:.60}, "
            raise ProbeError(f"{path}: not the result of a probe: {key}: {got}{problem}") from None

    def save(self, path: str | Path) -> None:
        """Write the result as JSON, one key a line, atomically."""
        values = dataclasses.asdict(self)
        values |= {_GROUPING + kind: grouping for kind, grouping in values.pop("by").items()}
        optional = {f.name for f in dataclasses.fields(self) if f.default is None}
        write_result(path, {k: value for k, value in values.items() if value is not None or k not in optional})

    def __str__(self) -> str:
        """Describe the result in a few lines for a terminal, with every reason to read it with caution."""
        is_pooled = self.pooling is not None
        lines, units = [], "utterances" if is_pooled else "frames"
        if not is_pooled:
            lines.append(self._accuracy_line("accuracy", "frames", self.accuracy, self.accuracy_interval))
        if self.utterance_accuracy is not None and self.utterance_accuracy_interval is not None:
            interval = self.utterance_accuracy_interval
            lines.append(self._accuracy_line("utterance_accuracy", "utterances", self.utterance_accuracy, interval))
        lines += filter(None, ["" if is_pooled else self._other_measures("frame"), self._other_measures("utterance")])
        chosen = f"{self.hidden} hidden units, epoch {self.num_iterations}" if self.C is None else f"C {self.C:g}"
        lines.append(
            f"{self.num_classes} classes; {self.num_evaluated_frames} {self.evaluate} {units}; "
            f"{self.num_train_frames} of {self.num_available_train_frames} train {units}; "
            f"{self.classifier}, {chosen}, chosen on {self.num_dev_frames} dev {units}; {self.seconds:.0f} s"
        )
        if self.control:
            lines.append(f"control with {self.control}: accuracy above the majority class does not come from labels")
        if self.interval_clusters == "speaker":
            lines.append(f"the interval resamples {self.num_interval_clusters} speakers, none of them in train")
        if self.num_interval_clusters is not None and self.num_interval_clusters < _FEW_CLUSTERS:
            lines.append(
                f"the interval is too narrow: it resamples only {self.num_interval_clusters} {self.interval_clusters}s "
                "(from 5, a 95 % interval covers 83 %)"
            )
        if self.warning:
            limit = f" within max_iter {self.max_iter}" if self.classifier == "linear" and self.max_frames else ""
            lines.append(f"not converged{limit}: {self.warning}")
        if self.num_unlabelled_utterances or self.num_unlabelled_frames:
            lines.append(
                f"left out: {self.num_unlabelled_utterances} utterances without labels, and "
                f"{self.num_unlabelled_frames} frames beyond the labels of the others"
            )
        if self.num_unseen_class_frames:
            lines.append(f"{self.num_unseen_class_frames} frames of classes without a train frame count as wrong")
        return "\n".join(lines)

    def _other_measures(self, unit: Literal["frame", "utterance"]) -> str:
        """Name what else was measured by frame or by utterance; "" if nothing was."""
        prefix = "" if unit == "frame" else "utterance_"
        names = {"balanced_accuracy": "balanced accuracy (UAR)", "macro_f1": "macro F1", "auc": "AUC"}
        values = {name: getattr(self, prefix + key) for key, name in names.items()}
        found = [f"{name} {100 * value:.1f}" for name, value in values.items() if value is not None]
        return f"by {unit}: {', '.join(found)}" if found else ""

    def _accuracy_line(self, measure: str, unit: str, accuracy: float, interval: tuple[float, float]) -> str:
        low, high = (100 * bound for bound in interval)
        return (
            f"{self.task}: {100 * accuracy:.1f} % of {self.evaluate} {unit} right (95 % interval {low:.1f} to "
            f"{high:.1f}; majority class {100 * self.majority[measure]:.1f})"
        )
