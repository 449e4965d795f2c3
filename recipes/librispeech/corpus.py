"""A subset of LibriSpeech on disk: fetch it, list it, split it, and label its phones."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from openslr import fetch

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

UNITS: tuple[By, ...] = ("utterance", "chapter", "speaker")  # what stays on one side of a split
FRACTIONS = (0.72, 0.08, 0.2)  # the authors' lists are 80 % train and 20 % test; a tenth of train is our dev
DEV_OF_TRAIN = 0.1


@dataclass(frozen=True)
class Subset:
    """A subset, and what is known about it before it is there."""

    name: str
    num_utterances: int
    hours: float
    archive_gb: float
    sha256: str
    """Checksum of the archive, as torchaudio has it."""

    def find(self, root: Path) -> Path | None:
        """Find the subset, whether `root` is above LibriSpeech, LibriSpeech, or the subset itself under any name."""
        places = (root / "LibriSpeech" / self.name, root / self.name, root)
        found = next((place for place in places if place.resolve().name == self.name and place.is_dir()), None)
        return found or (root if is_excerpt(root) else None)

    def download(self, root: Path) -> None:
        """Fetch and unpack the subset.

        Raises:
            ValueError: as `fetch`.
        """
        fetch(f"12/{self.name}.tar.gz", f"LibriSpeech/{self.name}", root, sha256=self.sha256)


SUBSETS = {
    subset.name: subset
    for subset in (
        Subset(
            "train-clean-100",
            num_utterances=28_539,
            hours=100.6,
            archive_gb=6.3,
            sha256="d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2",
        ),
        Subset(
            "dev-clean",
            num_utterances=2_703,
            hours=5.4,
            archive_gb=0.337,
            sha256="76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
        ),
    )
}


def is_excerpt(folder: Path) -> bool:
    """Whether a folder holds SPEAKER/CHAPTER/SPEAKER-CHAPTER-*.flac, and its name is not that of a subset."""
    files = ((file.parent.parent.name, file.parent.name, file.name) for file in folder.glob("*/*/*.flac"))
    named = any(name.startswith(f"{speaker}-{chapter}-") for speaker, chapter, name in files)
    return named and not re.fullmatch("(train|dev|test)-(clean|other).*", folder.resolve().name)


def transcripts_of(corpus: Path) -> dict[str, str]:
    """Read the words of each utterance from all *.trans.txt; other texts are no transcripts of LibriSpeech."""
    words: dict[str, str] = {}
    for file in sorted(corpus.rglob("*.trans.txt")):
        words |= read_transcripts(file)
    return words


def make_manifest(corpus: Path, subset: Subset, table: Path) -> None:
    """List the utterances and decode each to its end.

    Raises:
        ValueError: there are transcripts, and an utterance has a sound file or a transcript, but not both.
    """
    scan = scan_folder(corpus)
    print(scan)
    sounds = {Path(path).stem for path in [*scan.manifest.paths, *(path for path, _ in scan.left_out)]}
    transcripts = transcripts_of(corpus)
    if not transcripts:
        print(f"note: no transcripts in {corpus}; phone labels have to be given (--labels)")
    elif unpaired := sorted(sounds ^ transcripts.keys()):
        raise ValueError(
            f"{corpus}: {len(unpaired)} utterances have a sound file or a transcript but not both (e.g. "
            f"{unpaired[0]}); it was not unpacked or copied completely: do that again"
        )
    if len(sounds) != subset.num_utterances:
        print(f"note: {len(sounds)} utterances, whereas {subset.name} has {subset.num_utterances}")
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
    known = set(labelled_utterances(utterances, read_labels(source)))
    counts = utterances.keep([utterance in known for utterance in utterances.utterances]).splits
    by_split = ", ".join(f"{name} {counts.get(name, 0)}" for name in SPLITS)
    print(f"labels: {len(known)} of {len(utterances)} utterances have them: {by_split}")
    if missing := [name for name in SPLITS if name not in counts]:
        print(f"note: without labels in {' and '.join(missing)}, the probes of phones will be refused")
    if names:
        read_phones(names)
        write_bytes(labels.with_name("phones.txt"), names.read_bytes())
    write_bytes(labels, source.read_bytes())


def align_labels(table: Path, corpus: Path, labels: Path, jobs: int) -> None:
    """Make the labels by forced alignment of the transcripts.

    Raises:
        ValueError: there are no transcripts.
    """
    transcripts = transcripts_of(corpus)
    if not transcripts:
        raise ValueError(f"{corpus}: no *.trans.txt in it to make phone labels from; pass --labels FILE")
    align(read_manifest(table), transcripts, labels.parent, jobs=jobs)
