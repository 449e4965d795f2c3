"""Probes whose results are files: each runs once, several run side by side, and their results are rows of a table."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from cpc.data import Manifest, read_manifest
from cpc.experiments.parallel import run_side_by_side
from cpc.features import open_features
from cpc.labels import PhoneLabels
from cpc.probes import AbxResult, Options, Result, probe_abx, probe_phones, probe_speakers

Task = Literal["phone", "speaker"]
TASKS: tuple[Task, ...] = ("phone", "speaker")

SUMMARY = (  # the fields of a result that a table of results keeps; its file has all of them
    "classifier",
    "accuracy",
    "accuracy_interval",
    "utterance_accuracy",
    "utterance_accuracy_interval",
    "C",
    "num_train_frames",
    "converged",
    "warning",
    "features",
    "majority",
    "versions",
)


@dataclass(frozen=True)
class Probe:
    """A probe of some frames, and the file of its result."""

    task: Task | Literal["abx"]
    row: str
    """Row of the table in which the result stands; with a hidden layer, `cpc.report.row_key` of it."""
    frames: Path
    """Features folder."""
    result: Path
    """JSON file to write."""
    options: Options = field(default_factory=Options)
    """Of these, ABX uses the evaluated split and the seed."""
    splits: Path | None = None
    """Manifest (CSV) that says what is train, dev and test; by default that of the features folder."""
    predictions: Path | None = None
    """Label file to write with the phones that the probe predicts; by default none."""
    unknown_speakers: Literal["refuse", "leave out"] = "refuse"
    """What a speaker probe does with speakers who do not occur in train. Their utterances are left out and counted in
    the result, or the probe is refused."""


def run_probes(probes: Iterable[Probe], labels: PhoneLabels, *, jobs: int = 1) -> None:
    """Run the probes whose results do not exist yet, and write their results.

    Args:
        probes: what to run.
        labels: phone labels.
        jobs: number of probes side by side, each in a process with its share of the cores.

    Raises:
        ValueError: as `cpc.probes.probe_phones` and `probe_speakers`; results that were written stay.
    """
    waiting = [probe for probe in probes if not probe.result.exists()]
    if jobs > 1:  # the widest frames take longest, and should not come last
        waiting.sort(key=lambda probe: open_features(probe.frames).dim, reverse=True)
    run_side_by_side([partial(_run_probe, probe, labels) for probe in waiting], jobs)


def _run_probe(probe: Probe, labels: PhoneLabels) -> None:
    """Run one probe, and write its result; each line of its progress names it."""

    def tell(line: str) -> None:
        sys.stderr.write(f"{probe.result.stem}: {line.strip()}\n")  # whole, since other processes write lines too

    tell(f"{probe.task} probe of {probe.frames}")
    features = open_features(probe.frames, read_manifest(probe.splits) if probe.splits else None)
    result: Result | AbxResult
    if probe.task == "abx":
        result = probe_abx(features, labels, evaluate=probe.options.evaluate, seed=probe.options.seed, progress=tell)
    elif probe.task == "phone":
        result = probe_phones(features, labels, probe.options, predictions=probe.predictions, progress=tell)
    elif probe.unknown_speakers == "refuse":
        result = probe_speakers(features, probe.options, progress=tell)
    else:
        known = of_known_speakers(features.manifest)
        result = probe_speakers(open_features(probe.frames, known), probe.options, progress=tell)
        num_left_out = len(features.manifest) - len(known)
        result = dataclasses.replace(result, num_left_out_utterances=num_left_out)
    result.save(probe.result)


def of_known_speakers(manifest: Manifest) -> Manifest:
    """Leave out the utterances of speakers who do not occur in train."""
    known = set(manifest.select("train").speakers)
    return manifest.keep([speaker in known for speaker in manifest.speakers])


def table_rows(probes: Iterable[Probe]) -> dict[str, dict[str, dict[str, Any]]]:
    """Collect the results of some probes for `cpc.report.results_table`.

    Returns:
        By task and row, the fields of SUMMARY that the result has, or the errors of ABX; and the row "majority" of each
        task that has one.
    """
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for probe in probes:
        task = rows.setdefault(probe.task, {})
        if probe.task == "abx":
            task[probe.row] = AbxResult.read(probe.result).errors
            continue
        result = json.loads(probe.result.read_text(encoding="utf-8"))
        task.setdefault("majority", result["majority"])
        task[probe.row] = {key: result[key] for key in SUMMARY if key in result}
    return rows
