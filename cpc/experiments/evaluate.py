"""What a row of a table needs before it is probed: a run that is trained, and frames.

    train_run(config, run)
    extract_row("cpc_c", run, manifest, run / "features" / "cpc_c")
    probes = [Probe("phone", "cpc_c", run / "features" / "cpc_c", run / "probes" / "phone-cpc_c-test.json")]
    run_probes(probes, labels)
    print(results_table(table_rows(probes)))

Frames are named by what makes them: "mfcc", "logmel", "untrained", "cpc_z", "cpc_c", or "supervised_TARGET"; and by
what is derived from these: "_cmvn", "_context8", or "_cmvn_context8" at the end of the name. Every step keeps what
exists, so an interrupted pipeline resumes where it stopped.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cpc.config import Config, read_config
from cpc.data import Manifest
from cpc.experiments.probing import Task
from cpc.features import (
    DerivedExtractor,
    Extractor,
    Features,
    FeaturesError,
    SpectralExtractor,
    extract_features,
    extractor_of_run,
    is_plain_of,
    open_features,
    untrained_extractor,
)
from cpc.labels import PhoneLabels
from cpc.probes import Options, Result, probe_phones, probe_speakers
from cpc.report import learning_figure, save_figure, steps_figure
from cpc.train import complete

if TYPE_CHECKING:
    import torch

    from cpc.features import Dtype

# The strongest spectral frames for each task. A context helps both; CMVN helps phones, and costs speakers nearly
# everything.
SPECTRAL: Mapping[Task, str] = {"phone": "mfcc_cmvn_context8", "speaker": "mfcc_context8"}

_ROW = re.compile(r"(?P<source>.+?)(?P<cmvn>_cmvn)?(?:_context(?P<frames>\d+))?")


class RowError(ValueError):
    """A row that names no features."""


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
        row: see `extractor_of_row`.
        run: run folder.
        manifest: utterances to extract.
        folder: features folder to write, or to complete. Derived frames are made from the plain ones if a folder
            beside it, named by their row, has these.
        device: where the networks run.
        dtype: type of the numbers on disk.

    Returns:
        The features folder.

    Raises:
        RowError: the row names no features.
        ValueError: as `cpc.features.extract_features`.
    """
    config = read_config(run / "config.toml")
    audio, on_bad = config.audio, config.data.on_bad_audio
    extractor = extractor_of_row(row, run, audio.sample_rate, device=device)
    if (parts := _ROW.fullmatch(row)) and isinstance(extractor, DerivedExtractor):
        extractor.stored = _plain_features(extractor, folder.with_name(parts["source"]), manifest, audio.resample)
    return extract_features(extractor, manifest, folder, resample=audio.resample, dtype=dtype, on_bad_audio=on_bad)


def _plain_features(extractor: DerivedExtractor, folder: Path, manifest: Manifest, resample: bool) -> Features | None:
    """Open the frames that an extractor derives from; None if the folder has others, or not all of them."""
    try:
        found = open_features(folder, manifest)
    except FeaturesError:
        return None
    return found if is_plain_of(found, extractor, resample) else None


def extractor_of_row(row: str, run: Path, sample_rate: int, *, device: torch.device | str = "cpu") -> Extractor:
    """Make the extractor of a row.

    Args:
        row: "mfcc" or "logmel"; "untrained", c of the network before training; "cpc_z" or "cpc_c";
            "supervised_TARGET", c of the run in RUN/topline/TARGET. At the end, "_cmvn" normalises these frames over
            the utterance, and "_contextR" stacks them with their neighbours up to R frames away.
        run: run folder; "mfcc" and "logmel" need none, and "untrained" reads its config.toml alone.
        sample_rate: Hz, of "mfcc" and "logmel".
        device: where the networks run.

    Raises:
        RowError: the row names no features.
        FeaturesError: R is not a multiple of the step of a context.
    """
    parts = _ROW.fullmatch(row)
    source = parts["source"] if parts else row
    if source.startswith("supervised_"):
        run, source = run / "topline" / source.removeprefix("supervised_"), "cpc_c"
    extractor: Extractor
    match source:
        case "mfcc" | "logmel":
            extractor = SpectralExtractor(source, sample_rate)
        case "untrained":
            extractor = untrained_extractor(read_config(run / "config.toml"), "c", device=device)
        case "cpc_z":
            extractor = extractor_of_run(run, "z", device=device)
        case "cpc_c":
            extractor = extractor_of_run(run, "c", device=device)
        case _:
            allowed = "mfcc, logmel, untrained, cpc_z, cpc_c, supervised_TARGET, with _cmvn, _contextR or both after it"
            raise RowError(f"row: got {row!r}, which names no features; allowed: {allowed}")
    if parts and (parts["cmvn"] or parts["frames"]):
        context_frames = int(parts["frames"] or 0)
        return DerivedExtractor(extractor, cmvn=parts["cmvn"] is not None, context_frames=context_frames)
    return extractor


@contextmanager
def temporary_features(
    extractor: Extractor, manifest: Manifest, frames: Path, *, resample: bool = False
) -> Iterator[Features]:
    """Extract frames, and remove them at the end: they take more room than a run, and are soon extracted again.

    Args:
        extractor: what makes the frames.
        manifest: utterances with splits.
        frames: features folder; after an error it stays, and the next call resumes from it.
        resample: resample files of another rate than the extractor's.
    """
    yield open_features(extract_features(extractor, manifest, frames, resample=resample))
    shutil.rmtree(frames)


def evaluate_once(
    extractor: Extractor,
    manifest: Manifest,
    labels: PhoneLabels,
    probes: Mapping[Task, Options],
    *,
    frames: Path,
    resample: bool = False,
) -> dict[Task, Result]:
    """Extract frames, probe them, and remove them.

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
    with temporary_features(extractor, manifest, frames, resample=resample) as features:
        return {
            task: probe_phones(features, labels, options) if task == "phone" else probe_speakers(features, options)
            for task, options in probes.items()
        }
