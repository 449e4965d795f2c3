"""Measure how good forced alignment is: compare pocketsphinx's labels with minispeech's exact phone times.

    python recipes/minispeech/alignment_quality.py CORPUS [--out runs/alignment] [--jobs 2]

CORPUS is a folder that synthesise.py wrote. Schwa (ax) counts as ah, as in CMUdict. A border is the start of a phone.
Each true border is compared with the nearest border in the alignment between the same two phones in the same order.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from cpc.data import scan_folder
from cpc.experiments import errors_in_one_line
from cpc.labels import LABEL_HOP_SECONDS, align, read_phone_labels, read_transcripts
from cpc.report import markdown_table, percent

REACH_MS = 100  # beyond this, the nearest border belongs to another occurrence of the two phones


def main() -> None:
    """Align the corpus and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder that synthesise.py wrote")
    parser.add_argument("--out", type=Path, default=Path("runs/alignment"), help="folder for the alignment")
    parser.add_argument("--jobs", type=int, default=2, help="number of processes")
    options = parser.parse_args()
    with errors_in_one_line("alignment_quality"):
        align_corpus(options.corpus, options.out, options.jobs)
        print(compare(read_named(options.corpus), read_named(options.out)))


def align_corpus(corpus: Path, out: Path, jobs: int) -> None:
    """Align, and print how long it took."""
    manifest = scan_folder(corpus).manifest
    started = time.monotonic()
    print(align(manifest, read_transcripts(corpus), out, jobs=jobs))
    took, audio = time.monotonic() - started, float(manifest.seconds.sum())
    print(f"{audio / 3600:.2f} hours in {took:.0f} s: {audio / took / jobs:.0f} × real time per process\n")


def compare(truth: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> str:
    """Compare two labellings of the utterances in `found`; return a Markdown table."""
    exact = np.concatenate([truth[utterance] for utterance in found])
    same = exact == np.concatenate(list(found.values()))
    distances, num_borders = [], 0  # in labels
    for utterance, labels in found.items():
        ours = borders(labels)
        for pair, places in borders(truth[utterance]).items():
            num_borders += len(places)
            if pair in ours:
                candidates = np.array(ours[pair])
                distances += [float(candidates[np.abs(candidates - place).argmin()] - place) for place in places]
    errors = 1000 * LABEL_HOP_SECONDS * np.array(distances)  # ms
    errors = errors[np.abs(errors) <= REACH_MS]
    rows = [
        ("pocketsphinx against exact times", ""),
        ("frames with the same phone", f"{percent(same.mean())} %"),
        ("frames with the same phone, in speech only", f"{percent(same[exact != 'sil'].mean())} %"),
        (f"borders found (same two phones within {REACH_MS} ms)", f"{percent(len(errors) / num_borders)} %"),
        ("their median distance", f"{np.median(np.abs(errors)):.0f} ms"),
        ("their mean deviation (positive is late)", f"{errors.mean():+.1f} ms"),
        ("share of them within 20 ms", f"{percent((np.abs(errors) <= 20).mean())} %"),
    ]
    return markdown_table(rows)


def read_named(folder: Path) -> dict[str, np.ndarray]:
    """Read the phone names of each utterance, with schwa as ah."""
    labels = read_phone_labels(folder / "phone_labels.txt", names=folder / "phones.txt")
    names = np.array(["ah" if labels.names[i] == "ax" else labels.names[i] for i in range(len(labels.names))])
    return {utterance: names[ids] for utterance, ids in labels.of.items()}


def borders(phones: np.ndarray) -> dict[tuple[str, str], list[int]]:
    """Find the borders: for each pair of neighbouring phones, the labels at which the second one starts."""
    found: dict[tuple[str, str], list[int]] = {}
    for i in np.flatnonzero(phones[1:] != phones[:-1]) + 1:
        found.setdefault((str(phones[i - 1]), str(phones[i])), []).append(int(i))
    return found


if __name__ == "__main__":
    main()
