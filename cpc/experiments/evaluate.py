"""The pipeline that ablations and recipes share: train → frames → probes → rows of a table.

    train_run(config, run)
    extract_row("cpc_c", run, manifest, run / "features" / "cpc_c")
    probes = [Probe("phone", "cpc_c", run / "features" / "cpc_c", run / "probes" / "phone-cpc_c-test.json")]
    run_probes(probes, labels)
    print(results_table(table_rows(probes)))

A row is named by its features: "mfcc", "logmel", "untrained", "cpc_z", "cpc_c", or "supervised_TARGET". Every step
keeps what exists, so an interrupted pipeline resumes where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tqdm import tqdm

from cpc.config import Config, read_config
from cpc.data import Manifest, read_manifest
from cpc.features import Extractor, SpectralExtractor, extract_features, extractor_of_run, open_features
from cpc.labels import PhoneLabels
from cpc.probes import Options, Result, probe_phones, probe_speakers
from cpc.report import learning_figure, save_figure, steps_figure
from cpc.train import complete

if TYPE_CHECKING:
    import torch

    from cpc.features import Dtype

Task = Literal["phone", "speaker"]

SUMMARY = (  # the fields of a result that a table of results keeps; its file has all of them
    "accuracy",
    "accuracy_interval",
    "utterance_accuracy",
    "utterance_accuracy_interval",
    "C",
    "num_train_frames",
    "converged",
    "warning",
)


class RowError(ValueError):
    """A row that names no features."""


@dataclass(frozen=True)
class Probe:
    """A probe of some frames, and the file of its result."""

    task: Task
    row: str
    """Row of the table in which the result stands."""
    frames: Path
    """Features folder."""
    result: Path
    """JSON file to write."""
    options: Options = field(default_factory=Options)
    splits: Path | None = None
    """Manifest (CSV) that says what is train, dev and test; by default that of the features folder."""
    predictions: Path | None = None
    """Label file to write with the phones that the probe predicts; by default none."""
    unknown_speakers: Literal["refuse", "leave out"] = "refuse"
    """What a speaker probe does with speakers who do not occur in train. Their utterances are left out and counted in
    the result, or the probe is refused."""


def train_run(config: Config, run: Path) -> Path:
    """Train a run to its end, or resume it, and draw how it learned.

    Raises:
        ValueError: as `cpc.train.complete`.
    """
    complete(config, run)
    save_figure(learning_figure(run), run / "learning_curves.png")
    if config.loss.name == "cpc":
        save_figure(steps_figure(run, which="best"), run / "accuracy_by_k.png")
    return run


def extract_row(
    row: str,
    run: Path,
    manifest: Manifest,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: Dtype = "float32",
) -> Path:
    """Write the frames of a row.

    Args:
        row: "mfcc" or "logmel", at the run's sample rate; "untrained", c of the network before training; "cpc_z" or
            "cpc_c"; "supervised_TARGET", c of the run in RUN/topline/TARGET.
        run: run folder.
        manifest: utterances to extract.
        folder: features folder to write, or to complete.
        device: where the networks run.
        dtype: type of the numbers on disk.

    Returns:
        The features folder.

    Raises:
        RowError: the row names no features.
        ValueError: as `cpc.features.extract_features`.
    """
    if row.startswith("supervised_"):
        run, row = run / "topline" / row.removeprefix("supervised_"), "cpc_c"
    audio = read_config(run / "config.toml").audio
    extractor: Extractor
    match row:
        case "mfcc" | "logmel":
            extractor = SpectralExtractor(row, audio.sample_rate)
        case "untrained":
            extractor = extractor_of_run(run, "c", untrained=True, device=device)
        case "cpc_z":
            extractor = extractor_of_run(run, "z", device=device)
        case "cpc_c":
            extractor = extractor_of_run(run, "c", device=device)
        case _:
            allowed = "mfcc, logmel, untrained, cpc_z, cpc_c, supervised_TARGET"
            raise RowError(f"row: got {row!r}, which names no features; allowed: {allowed}")
    return extract_features(extractor, manifest, folder, resample=audio.resample, dtype=dtype)


def run_probes(probes: Iterable[Probe], labels: PhoneLabels) -> None:
    """Run the probes whose results do not exist yet, and write their results.

    Raises:
        ValueError: as `cpc.probes.probe_phones` and `probe_speakers`; results that were written stay.
    """
    for probe in probes:
        if probe.result.exists():
            continue
        print(f"-- {probe.result}", file=sys.stderr)
        features = open_features(probe.frames, read_manifest(probe.splits) if probe.splits else None)
        if probe.task == "phone":
            result = probe_phones(features, labels, probe.options, predictions=probe.predictions, progress=tqdm.write)
        elif probe.unknown_speakers == "refuse":
            result = probe_speakers(features, probe.options, progress=tqdm.write)
        else:
            known = of_known_speakers(features.manifest)
            result = probe_speakers(open_features(probe.frames, known), probe.options, progress=tqdm.write)
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
        By task and row, the fields of SUMMARY that the result has; and the row "majority" of each task.
    """
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for probe in probes:
        result = json.loads(probe.result.read_text())
        task = rows.setdefault(probe.task, {})
        task["majority"] = result["majority"]
        task[probe.row] = {key: result[key] for key in SUMMARY if key in result}
    return rows


def evaluate_once(
    extractor: Extractor,
    manifest: Manifest,
    labels: PhoneLabels,
    probes: Mapping[Task, Options],
    *,
    frames: Path,
    resample: bool = False,
) -> dict[Task, Result]:
    """Extract frames, probe them, and remove them: they take more room than a run, and are soon extracted again.

    Args:
        extractor: what makes the frames.
        manifest: utterances with splits.
        labels: phone labels.
        probes: the tasks, with the options of each probe.
        frames: features folder; an interrupted call resumes from it.
        resample: resample files of another rate than the extractor's.

    Returns:
        By task, the result.
    """
    features = open_features(extract_features(extractor, manifest, frames, resample=resample))
    results: dict[Task, Result] = {}
    for task, options in probes.items():
        is_phone = task == "phone"
        results[task] = probe_phones(features, labels, options) if is_phone else probe_speakers(features, options)
    shutil.rmtree(frames)
    return results
