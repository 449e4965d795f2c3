"""LibriSpeech train-clean-100 on disk: fetch it, list it, split it, and label its phones."""

from __future__ import annotations

import shutil
import sys
import tarfile
import zlib
from pathlib import Path

from torchaudio.datasets import LIBRISPEECH

from cpc.data import (
    SPLITS,
    By,
    read_manifest,
    read_utterance_list,
    scan_folder,
    split_as_listed,
    split_manifest,
    write_manifest,
)
from cpc.files import write_bytes
from cpc.labels import align, labelled_utterances, read_labels, read_phones, read_transcripts

SUBSET = "train-clean-100"
NUM_UTTERANCES, HOURS, ARCHIVE_GB = 28_539, 100.6, 6.3
UNITS: tuple[By, ...] = ("utterance", "chapter", "speaker")  # what stays on one side of a split
FRACTIONS = (0.72, 0.08, 0.2)  # the authors' lists are 80 % train and 20 % test; a tenth of train is our dev
DEV_OF_TRAIN = 0.1


def find(root: Path) -> Path | None:
    """Find train-clean-100, whether `root` is above LibriSpeech, LibriSpeech, or train-clean-100 itself."""
    places = (root / "LibriSpeech" / SUBSET, root / SUBSET, root)
    return next((place for place in places if place.name == SUBSET and place.is_dir()), None)


def download(root: Path) -> None:
    """Fetch and unpack train-clean-100; it appears in `root` only once it is complete.

    Raises:
        ValueError: it could not be fetched, or the archive is damaged.
    """
    unfinished = root / f"{SUBSET}.unfinished"
    unfinished.mkdir(parents=True, exist_ok=True)
    archive, fetched_before = unfinished / f"{SUBSET}.tar.gz", root / f"{SUBSET}.tar.gz"
    if fetched_before.exists():
        fetched_before.rename(archive)
    # torchaudio takes an existing folder for complete, however little of it was unpacked.
    shutil.rmtree(unfinished / "LibriSpeech", ignore_errors=True)
    try:
        LIBRISPEECH(unfinished, url=SUBSET, download=True)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(f"{archive}: cannot be unpacked ({error}); it is truncated or damaged, remove it") from None
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{SUBSET} could not be fetched ({error}); run the same command again, or fetch "
            f"https://www.openslr.org/resources/12/{SUBSET}.tar.gz to {root} yourself"
        ) from None
    (root / "LibriSpeech").mkdir(exist_ok=True)
    (unfinished / "LibriSpeech" / SUBSET).rename(root / "LibriSpeech" / SUBSET)
    archive.rename(fetched_before)
    shutil.rmtree(unfinished)
    print(f"download: unpacked; {fetched_before} is not needed any more", file=sys.stderr)


def make_manifest(corpus: Path, table: Path) -> None:
    """List the utterances and decode each to its end.

    Raises:
        ValueError: an utterance has a sound file or a transcript, but not both.
    """
    scan = scan_folder(corpus)
    print(scan)
    sounds = {Path(path).stem for path in [*scan.manifest.paths, *(path for path, _ in scan.left_out)]}
    unpaired = sorted(sounds ^ read_transcripts(corpus).keys())
    if unpaired:
        raise ValueError(
            f"{corpus}: {len(unpaired)} utterances have a sound file or a transcript but not both (e.g. "
            f"{unpaired[0]}); it was not unpacked or copied completely: do that again"
        )
    if len(sounds) != NUM_UTTERANCES:
        print(f"note: {len(sounds)} utterances, whereas {SUBSET} has {NUM_UTTERANCES}")
    write_manifest(scan.manifest, table)


def make_splits(table: Path, folder: Path, seed: int, lists: tuple[Path, Path] | None) -> None:
    """Split by utterance, by the authors' lists or our own draw; split the same utterances by chapter and by speaker.

    Args:
        table: manifest of all utterances.
        folder: folder for UNIT.csv.
        seed: seed of the splits.
        lists: the authors' lists of train and test, or None.
    """
    utterances = read_manifest(table)
    if lists:
        train, test = map(read_utterance_list, lists)
        closed = split_as_listed(utterances, train, test, dev_fraction=DEV_OF_TRAIN, seed=seed)
        print(f"in neither list, left out: {len(utterances) - len(closed)} of {len(utterances)} utterances")
    else:
        closed = split_manifest(utterances, by="utterance", fractions=FRACTIONS, seed=seed)
    for unit in UNITS:
        split = closed if unit == "utterance" else split_manifest(closed, by=unit, fractions=FRACTIONS, seed=seed)
        print(f"split by {unit}: " + ", ".join(f"{name} {split.splits.get(name, 0)}" for name in SPLITS))
        write_manifest(split, folder / f"{unit}.csv")


def copy_labels(table: Path, source: Path, names: Path | None, labels: Path) -> None:
    """Copy the labels and phone names that were given, after checking their lengths against the audio.

    Args:
        table: manifest of the utterances.
        source: label file that was given.
        names: file of phone names that was given, or None.
        labels: label file to write; phones.txt goes beside it.
    """
    utterances = read_manifest(table)
    known = labelled_utterances(utterances, read_labels(source))
    print(f"labels: {len(known)} of {len(utterances)} utterances have them")
    if names:
        read_phones(names)
        write_bytes(labels.with_name("phones.txt"), names.read_bytes())
    write_bytes(labels, source.read_bytes())


def align_labels(table: Path, corpus: Path, labels: Path, jobs: int) -> None:
    """Make the labels by forced alignment of the transcripts."""
    align(read_manifest(table), read_transcripts(corpus), labels.parent, jobs=jobs)
