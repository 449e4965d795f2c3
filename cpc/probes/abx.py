"""ABX: how often a phone's frames are closer to those of another phone than to those of the same phone.

X and A are spoken instances of one phone, B of another. The error is the share of triplets in which X is closer to B
than to A; 0.5 is chance. Within speaker, all three are of one speaker; across speaker, X is of another one than A and
B. In any context, neighbours do not matter; in the same context, all three have the same phone before and after.

An item extends over its phone alone, also in the same context. Numbers for triphone items, such as Libri-light's, are
another measure.

Source: Schatz et al. 2013, "Evaluating speech features with the minimal-pair ABX task"; Hallap, Dupoux and Dunbar 2023
(arXiv 2210.15775) for phones in any and in the same context. Distances, cells and averages are fastabx's
(arXiv 2505.02692): the angle between frames divided by π, averaged along the path of dynamic time warping; triplets are
averaged in each cell, then over contexts, speakers and pairs of phones. The frames' times are our own, since fastabx
takes the first centre to be half a hop.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from cpc.files import write_json
from cpc.labels import PhoneLabels
from cpc.probes.items import Item, frames_of_items, items_of_file, items_of_labels
from cpc.probes.options import CONDITIONS, Evaluate, ProbeError
from cpc.probes.result import Origin
from cpc.versions import versions

if TYPE_CHECKING:
    from cpc.features import Features

MAX_ITEMS = 10  # in each of A, B and X of a cell, as in ZeroSpeech's challenges
MAX_X_SPEAKERS = 5  # speakers of X for each A and B, as there
# The number of cells across speakers grows with its square: 40 phones of 50 speakers form 3.8 million before five
# speakers of X are drawn.
MAX_SPEAKERS = 50
_FEW_CELLS = 100  # a share of 100 has a standard error of up to 5 points
_DISTANCE: Literal["angular"] = "angular"
_CONTEXT = ["previous", "following"]


@dataclass(frozen=True)
class AbxScore:
    """The error in one condition."""

    error: float | None
    """Share of triplets with X closer to B than to A, in [0, 1]; chance is 0.5. None without a cell."""
    num_cells: int
    """Number of combinations of phones, speakers and contexts that have triplets."""

    def __str__(self) -> str:
        """Describe the error in a few words."""
        if self.error is None:
            return "no cell to compare"
        few = ", too few to tell" if self.num_cells < _FEW_CELLS else ""
        return f"{100 * self.error:.2f} % wrong in {self.num_cells} cells{few}"


@dataclass(frozen=True, kw_only=True)
class AbxResult:
    """The result of ABX. The fields are the keys of the JSON file, in its order."""

    task: Literal["abx"] = "abx"
    items: str
    """Where the items come from: "labels", or the name of the item file."""
    evaluate: Evaluate | None
    """The split that the items are of; None for an item file."""
    within_speaker_any_context: AbxScore
    across_speaker_any_context: AbxScore
    within_speaker_same_context: AbxScore
    across_speaker_same_context: AbxScore
    distance: Literal["angular"] = _DISTANCE
    num_items: int
    """Items that took part."""
    num_items_without_frames: int
    """Items that are too short for a frame, or beyond the last one; they are left out."""
    num_phones: int
    num_speakers: int
    num_available_speakers: int
    """Speakers from which these were drawn."""
    max_items: int
    """Most items in each of A, B and X of a cell."""
    max_x_speakers: int
    """Most speakers of X for each A and B."""
    seed: int
    seconds: float
    """Wall-clock time."""
    features: Origin
    versions: dict[str, str]
    """Versions of the packages that compute the errors, of cpc and Python, and the commit."""

    @classmethod
    def read(cls, path: str | Path) -> AbxResult:
        """Read a result that `save` wrote.

        Raises:
            ProbeError: the file is missing or not the result of ABX.
        """
        try:
            return TypeAdapter(cls).validate_json(Path(path).read_bytes())
        except (OSError, ValidationError) as error:
            reason = " ".join(str(error).split())
            raise ProbeError(f"{path}: not the result of `cpc probe abx`: {reason:.200}") from None

    def save(self, path: str | Path) -> None:
        """Write the result as JSON, atomically."""
        write_json(Path(path), dataclasses.asdict(self))

    @property
    def errors(self) -> dict[str, float | None]:
        """The error in each condition, by the name of its field; None if there are too few cells to tell."""
        scores: dict[str, AbxScore] = {name: getattr(self, name) for name in CONDITIONS}
        return {name: score.error if score.num_cells >= _FEW_CELLS else None for name, score in scores.items()}

    def __str__(self) -> str:
        """Describe the result in a few lines for a terminal."""
        lines = [f"abx, {words}: {getattr(self, condition)}" for condition, words in CONDITIONS.items()]
        lines.append(
            f"{self.num_items} items, {self.num_phones} phones, {self.num_speakers} of {self.num_available_speakers} "
            f"speakers, at most {self.max_items} items in A, B and X; {self.seconds:.0f} s"
        )
        if self.num_items_without_frames:
            lines.append(f"left out: {self.num_items_without_frames} items without a frame")
        return "\n".join(lines)


def probe_abx(
    features: Features,
    known: PhoneLabels | Path,
    *,
    evaluate: Evaluate = "test",
    max_items: int = MAX_ITEMS,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> AbxResult:
    """Measure the ABX errors of features, within and across speakers, in any and in the same context.

    In any context, the cost is bounded by the numbers of phones and speakers, not by the length of the corpus: 40
    phones of 50 speakers with 256 dimensions take under 5 minutes on one core and 2.5 GB. In the same context, it grows
    with the number of contexts that recur. The frames of all items are in memory.

    Args:
        features: the frames.
        known: phone labels, whose phones of the evaluated split are the items, or an .item file (`cpc.probes.items`).
        evaluate: the split, for labels; an item file has its own utterances.
        max_items: most items in each of A, B and X of a cell, 2 or more; they are drawn by fastabx.
        seed: seed of the draws of items, and of speakers where there are more than MAX_SPEAKERS.
        progress: takes a line of text after each condition.

    Raises:
        ProbeError: fastabx is not installed, which needs Python 3.12; the item file does not fit; no phone of any
            speaker can be compared.
        LabelsError: the labels do not fit the manifest.
    """
    began, fastabx = time.perf_counter(), _fastabx()
    if max_items < 2:
        raise ProbeError(f"max_items: got {max_items}, expected at least 2, an A and an X")
    listed = (
        items_of_labels(features, known, evaluate) if isinstance(known, PhoneLabels) else items_of_file(known, features)
    )
    speakers = sorted({item.speaker for item in listed})
    drawn = np.random.default_rng(seed).permutation(speakers)[:MAX_SPEAKERS].tolist()
    wanted = [item for item in listed if item.speaker in set(drawn)]
    items, frames, lengths = frames_of_items(features, wanted)
    subsampler = fastabx.Subsampler(max_items, MAX_X_SPEAKERS, seed)
    scores = _scores(_dataset(items, frames, lengths), subsampler, progress)
    if all(score.error is None for score in scores.values()):
        raise ProbeError(f"{features.folder}: {len(items)} items, but no speaker says one phone twice and another once")
    return AbxResult(
        **scores,
        items="labels" if isinstance(known, PhoneLabels) else known.name,
        evaluate=evaluate if isinstance(known, PhoneLabels) else None,
        num_items=len(items),
        num_items_without_frames=len(wanted) - len(items),
        num_phones=len({item.phone for item in items}),
        num_speakers=len(drawn),
        num_available_speakers=len(speakers),
        max_items=max_items,
        max_x_speakers=MAX_X_SPEAKERS,
        seed=seed,
        seconds=round(time.perf_counter() - began, 3),
        features=Origin.of(features),
        versions=versions() | {name: version(name) for name in ("fastabx", "torchdtw", "torch")},
    )


def _dataset(items: Sequence[Item], frames: Any, lengths: Any) -> Any:
    """Hand the items to fastabx, with the frames that we chose for them."""
    import polars
    import torch

    ends = np.cumsum(lengths).tolist()
    bounds = dict(enumerate(zip([0, *ends[:-1]], ends, strict=True)))
    columns = {name: [getattr(item, name) for item in items] for name in ("phone", *_CONTEXT, "speaker")}
    accessor = _fastabx().InMemoryAccessor(bounds, torch.from_numpy(frames), torch.device("cpu"))
    return _fastabx().Dataset(polars.DataFrame(columns), accessor)


def _scores(dataset: Any, subsampler: Any, progress: Callable[[str], None] | None) -> dict[str, Any]:
    """Score all conditions, by the name of their field in the result."""
    scores = {}
    for condition, words in CONDITIONS.items():
        speaker, _, context, _ = condition.split("_")
        scores[condition] = _score(dataset, speaker, _CONTEXT if context == "same" else [], subsampler)
        if progress:
            progress(f"abx, {words}: {scores[condition]}")
    return scores


def _score(dataset: Any, speaker: str, context: list[str], subsampler: Any) -> AbxScore:
    """Score one condition; average over contexts, then speakers, then pairs of phones."""
    fastabx = _fastabx()
    by, across = ([*context, "speaker"], []) if speaker == "within" else (context, ["speaker"])
    try:
        task = fastabx.Task(dataset, on="phone", by=by, across=across, subsampler=subsampler)
    except fastabx.EmptyTaskError:
        return AbxScore(None, 0)
    levels = [*([tuple(context)] if context else []), "speaker"]
    error = fastabx.Score(task, _DISTANCE, progress=False).collapse(levels=levels)
    return AbxScore(float(error), len(task))


def missing_for_abx() -> str:
    """Say what ABX needs that is not installed; empty if nothing is missing."""
    if find_spec("fastabx") is not None:
        return ""
    here = ".".join(map(str, sys.version_info[:3]))
    return f"ABX needs fastabx, which needs Python 3.12 or later (this is {here}): pip install 'cpc-audio[abx]'"


def _fastabx() -> Any:
    if missing := missing_for_abx():
        raise ProbeError(missing)
    import fastabx

    return fastabx
