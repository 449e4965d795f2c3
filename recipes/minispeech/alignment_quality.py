"""How good forced alignment is: pocketsphinx's labels against minispeech's exact phone times.

    python recipes/minispeech/alignment_quality.py CORPUS [--out runs/alignment] [--jobs 2]

CORPUS is what synthesise.py wrote. Schwa (ax) counts as ah, which is how CMUdict writes it. A border is the start of a
phone; of each true border between two phones that both labellings have in this order, the nearest such border is found.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from cpc.data import scan_folder
from cpc.labels import align, read_labels, read_phones, read_transcripts


def main() -> None:
    """Align the corpus and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder that synthesise.py wrote")
    parser.add_argument("--out", type=Path, default=Path("runs/alignment"), help="folder for the alignment")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    options = parser.parse_args()
    try:
        run(options.corpus, options.out, options.jobs)
    except (ValueError, OSError) as error:
        print(f"alignment_quality: error: {error}", file=sys.stderr)
        sys.exit(2)


def run(corpus: Path, out: Path, jobs: int) -> None:
    """Align, compare, print."""
    utterances = scan_folder(corpus).manifest
    started = time.monotonic()
    summary = align(utterances, read_transcripts(corpus), out, jobs=jobs)
    seconds = time.monotonic() - started
    table = utterances.table
    audio = float((table["num_samples"] / table["sample_rate"]).sum())
    print(summary)
    print(f"{audio / 3600:.2f} hours in {seconds:.0f} s: {audio / seconds / jobs:.0f} × real time a process\n")

    truth, found = named(corpus), named(out)
    right, total, distances, num_borders = 0, 0, [], 0
    speech_right, speech_total = 0, 0
    for utterance, ours in found.items():
        exact = truth[utterance]
        right += int((exact == ours).sum())
        total += len(exact)
        speech = exact != "sil"
        speech_right += int((exact == ours)[speech].sum())
        speech_total += int(speech.sum())
        true_borders, our_borders = borders(exact), borders(ours)
        num_borders += sum(map(len, true_borders.values()))
        for pair, places in true_borders.items():
            candidates = np.array(our_borders.get(pair, []))
            distances += [float(candidates[np.abs(candidates - p).argmin()] - p) for p in places if len(candidates)]
    errors = 10 * np.array(distances)  # ms
    near = np.abs(errors) <= 100  # further away it is another border of the same two phones
    rows = [
        ("frames with the same phone", f"{100 * right / total:.1f} %"),
        ("the same, frames of speech only", f"{100 * speech_right / speech_total:.1f} %"),
        ("borders found (same two phones within 100 ms)", f"{100 * near.sum() / num_borders:.1f} %"),
        ("of these: median distance", f"{np.median(np.abs(errors[near])):.0f} ms"),
        ("of these: mean, with its sign (late is positive)", f"{errors[near].mean():+.1f} ms"),
        ("of these: within 20 ms", f"{100 * (np.abs(errors[near]) <= 20).mean():.1f} %"),
    ]
    print("| pocketsphinx against exact times | |\n|---|---:|")
    print("\n".join(f"| {name} | {value} |" for name, value in rows))


def named(folder: Path) -> dict[str, np.ndarray]:
    """Phone names by utterance, schwa as ah."""
    names = read_phones(folder / "phones.txt")
    lookup = np.array(["ah" if names[i] == "ax" else names[i] for i in range(len(names))])
    return {u: lookup[labels] for u, labels in read_labels(folder / "phone_labels.txt").items()}


def borders(phones: np.ndarray) -> dict[tuple[str, str], list[int]]:
    """By the phones before and after, the label at which the one after begins."""
    found: dict[tuple[str, str], list[int]] = {}
    for i in np.flatnonzero(phones[1:] != phones[:-1]) + 1:
        found.setdefault((str(phones[i - 1]), str(phones[i])), []).append(int(i))
    return found


if __name__ == "__main__":
    main()
