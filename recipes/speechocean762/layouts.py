"""The two layouts of speechocean762: its own (Kaldi's tables), and LibriSpeech's with speakers.csv, for a selection."""

from __future__ import annotations

import csv
from pathlib import Path

from cpc.data import Manifest, scan_folder
from cpc.labels import read_transcripts

NUM_UTTERANCES, NUM_SPEAKERS = 5000, 250


def find(root: Path) -> Path | None:
    """Find the corpus, whether `root` is above it or is it, in either layout."""
    marks = ("train/text", "speakers.csv")
    places = (root / "speechocean762", root)
    return next((place for place in places if any((place / mark).is_file() for mark in marks)), None)


def refuse_incomplete(corpus: Path) -> None:
    """Count the utterances and speakers of an unpacked archive, because no checksum is published.

    Raises:
        ValueError: the numbers are not those of the corpus.
    """
    num_sounds, num_speakers = len(list(corpus.glob("WAVE/*/*.WAV"))), len(set(read_table(corpus, "utt2spk").values()))
    if (num_sounds, num_speakers) != (NUM_UTTERANCES, NUM_SPEAKERS):
        raise ValueError(
            f"{corpus}: {num_sounds} utterances of {num_speakers} speakers, expected {NUM_UTTERANCES} of "
            f"{NUM_SPEAKERS}; the archive is incomplete or has changed: remove it and run the same command again"
        )


def list_utterances(corpus: Path) -> Manifest:
    """Decode every utterance once, and list them with columns speaker, gender (f or m) and age (years).

    Raises:
        ValueError: an utterance has a sound file or a transcript but not both, or a speaker has no gender or age.
    """
    scan = scan_folder(corpus / "WAVE", speaker="SPEAKER{speaker}/*") if has_tables(corpus) else scan_folder(corpus)
    print(scan)
    manifest = scan.manifest
    sounds = {Path(path).stem for path in [*manifest.paths, *(path for path, _ in scan.left_out)]}
    if unpaired := sorted(sounds ^ read_words(corpus).keys()):
        raise ValueError(
            f"{corpus}: {len(unpaired)} utterances have a sound file or a transcript but not both (e.g. "
            f"{unpaired[0]}); it was not unpacked or copied completely: do that again"
        )
    for column, known in read_speakers(corpus).items():
        if missing := sorted(set(manifest.speakers) - known.keys()):
            raise ValueError(
                f"{corpus}: the {column} of {len(missing)} speakers (e.g. {missing[0]}) is not listed; it was not "
                "unpacked or copied completely: do that again"
            )
        manifest = manifest.with_column(column, [known[speaker] for speaker in manifest.speakers])
    return manifest


def read_words(corpus: Path) -> dict[str, str]:
    """Read the words of each utterance."""
    return read_table(corpus, "text") if has_tables(corpus) else read_transcripts(corpus)


def read_speakers(corpus: Path) -> dict[str, dict[str, str]]:
    """Read the speakers' gender and age: by column, the value of each speaker."""
    if has_tables(corpus):
        return {"gender": read_table(corpus, "spk2gender"), "age": read_table(corpus, "spk2age")}
    with (corpus / "speakers.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {column: {row["speaker"]: row[column] for row in rows} for column in ("gender", "age")}


def has_tables(corpus: Path) -> bool:
    """Whether the corpus is in its own layout."""
    return (corpus / "train").is_dir()


def read_table(corpus: Path, name: str) -> dict[str, str]:
    """Read one of Kaldi's tables from train/ and test/: a key a line, then a blank or a tab, then its value."""
    table = {}
    for part in ("train", "test"):
        for line in (corpus / part / name).read_text(encoding="utf-8").splitlines():
            key, _, value = line.strip().replace("\t", " ").partition(" ")
            if key:
                table[key] = value.strip()
    return table
