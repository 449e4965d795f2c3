"""Forced alignment: which phone is spoken when, found from the words with pocketsphinx's English model.

A finished folder holds

    phone_labels.txt, phones.txt    one phone every 10 ms (`cpc.labels.phones`): silence and ARPAbet's 39
    intervals.ctm                   the same as intervals in seconds
    left_out.csv                    the utterances without labels, and why
    alignment.json                  the identity of the alignment

An unfinished one keeps what is done in aligned.jsonl, one line for each utterance; in shares (`cpc.files.Shard`), each
share has a folder with its own.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from cpc.data import AudioError, Manifest
from cpc.files import SHARDS, Claim, Shard, claim, locked, write_bytes
from cpc.labels.aligner import Task, align_one, require_pocketsphinx, start, start_worker
from cpc.labels.grid import LABEL_SAMPLE_RATE, LabelsError
from cpc.labels.intervals import SILENCE, Interval, read_ctm, write_ctm, write_interval_labels, write_textgrid
from cpc.labels.words import ARPABET, read_dictionary

PHONES = (SILENCE, *ARPABET)
_WHAT, _RECORD, _PARTIAL = "folder of labels", "alignment.json", "aligned.jsonl"


@dataclass(frozen=True)
class Summary:
    """The result of an alignment.

    Attributes:
        num_aligned: number of utterances with labels.
        left_out: the reason of each utterance without labels.
        num_waiting: number of shares that are not complete yet; there are no labels before they are.
    """

    num_aligned: int
    left_out: dict[str, str]
    num_waiting: int = 0

    def __str__(self) -> str:
        """Summarise in a few lines for a terminal."""
        if self.num_waiting:
            return f"this share is done; {self.num_waiting} are not yet"
        lines = [f"aligned: {self.num_aligned} utterances; left out: {len(self.left_out)}"]
        reasons = Counter(re.sub(r": .*", "", why) for why in self.left_out.values())
        lines += [f"  {count} × {reason}" for reason, count in reasons.most_common()]
        return "\n".join(lines)


def align(
    manifest: Manifest,
    transcripts: Mapping[str, str],
    out: Path,
    *,
    jobs: int = 1,
    dictionary: Path | None = None,
    resample: bool = False,
    shard: Shard | None = None,
) -> Summary:
    """Align every utterance of a manifest whose transcript has only words that the dictionary has.

    An interrupted call resumes after the last utterance that it finished. A finished alignment is not repeated.

    Args:
        manifest: the utterances, at 16 kHz.
        transcripts: the words of each utterance, in any case, with or without punctuation.
        out: folder to write to.
        jobs: number of processes.
        dictionary: file of further words (`read_dictionary`).
        resample: whether files of another rate are resampled to 16 kHz; otherwise they are an error.
        shard: align this share alone; the last share to end writes the labels of all.

    Returns:
        The number of aligned utterances, and those that were left out.

    Raises:
        LabelsError: no utterance has a transcript or none could be aligned, the dictionary cannot be read, or
            pocketsphinx is not installed.
        ClaimError: the folder holds something else, or the alignment of other utterances or words.
        AudioError: a file cannot be read or has another rate.
    """
    if jobs < 1:
        raise LabelsError(f"jobs: got {jobs}, expected 1 or more")
    texts = _texts(manifest, transcripts)
    if not resample:
        _refuse_other_rates(manifest)
    words = read_dictionary(dictionary) if dictionary else {}
    require_pocketsphinx()
    if words:  # a word that cannot be added is refused here, and not by every process
        start(words)
    tasks = [
        Task(utterance, manifest.sound(i), max(1, round(manifest.seconds[i])), text, resample)
        for i, (utterance, text) in enumerate(texts.items())
        if text is not None
    ]
    job = _Job(manifest, tasks, words, jobs, out, _identity(out, manifest, texts, words))
    return job.align() if shard is None else job.align_share(shard)


def _texts(manifest: Manifest, transcripts: Mapping[str, str]) -> dict[str, str | None]:
    """Return the words of each utterance, None without a transcript.

    Raises:
        LabelsError: no utterance has one.
    """
    texts = {utterance: transcripts.get(utterance) for utterance in manifest.utterances}
    if all(text is None for text in texts.values()):
        raise LabelsError(
            f"no utterance of the manifest (e.g. {next(iter(texts), 'none at all')}) has a transcript "
            f"(e.g. {next(iter(transcripts), 'none at all')}); are they of another corpus?"
        )
    return texts


@dataclass(frozen=True)
class _Job:
    """What is aligned, and the folder that it goes to."""

    manifest: Manifest
    tasks: Sequence[Task]
    words: dict[str, str]
    jobs: int
    out: Path
    identity: Mapping[str, str]

    def align(self) -> Summary:
        """Align all utterances."""
        with locked(self.out, _WHAT):
            claimed = self._claim(self.out)
            if claimed.complete:
                return _summary_of(claimed)
            return self._finish(claimed, _align_all(self.tasks, self.out / _PARTIAL, self.jobs, self.words))

    def align_share(self, shard: Shard) -> Summary:
        """Align one share; write the labels if all shares are complete.

        Raises:
            LabelsError: a share that is complete has lost what it aligned.
        """
        with locked(self.out, _WHAT, wait=True):
            if (claimed := self._claim(self.out)).complete:
                return _summary_of(claimed)
        folder = shard.folder(self.out)
        with locked(folder, _WHAT):
            own = self._claim(folder)
            if not own.complete:
                _align_all(shard.take(self.tasks), folder / _PARTIAL, self.jobs, self.words)
                own.finish()
        with locked(self.out, _WHAT, wait=True):
            if (claimed := self._claim(self.out)).complete:
                return _summary_of(claimed)
            if waiting := shard.waits_for(self.out, _RECORD):
                return Summary(0, {}, waiting)
            done: dict[str, dict[str, Any]] = {}
            for share in shard.all():
                done |= _read_partial(share.folder(self.out) / _PARTIAL)
            if lost := [task.utterance for task in self.tasks if task.utterance not in done]:
                raise LabelsError(
                    f"{self.out}: {len(lost)} utterances are in no share (e.g. {lost[0]}); remove {self.out / SHARDS} "
                    "and align again"
                )
            return self._finish(claimed, done)

    def _claim(self, folder: Path) -> Claim:
        return claim(folder, self.identity, record=_RECORD, what="aligned labels")

    def _finish(self, claimed: Claim, done: Mapping[str, Mapping[str, Any]]) -> Summary:
        """Write the labels, record that the folder is complete, and remove what an interrupted call would need."""
        summary = _write(self.manifest, done, self.out)
        claimed.finish(num_aligned=summary.num_aligned, left_out=summary.left_out)
        (self.out / _PARTIAL).unlink(missing_ok=True)
        shutil.rmtree(self.out / SHARDS, ignore_errors=True)
        return summary


def _refuse_other_rates(manifest: Manifest) -> None:
    other = np.flatnonzero(manifest.sample_rates != LABEL_SAMPLE_RATE)
    if other.size:
        i = int(other[0])
        raise AudioError(
            f"{manifest.audio_path(i)}: {manifest.sample_rates[i]} Hz, the acoustic model's is {LABEL_SAMPLE_RATE}; "
            "pass --resample"
        )


def _identity(
    out: Path, manifest: Manifest, texts: Mapping[str, str | None], words: Mapping[str, str]
) -> dict[str, str]:
    """Digest the utterances, the transcripts and the words of the dictionary."""
    utterances, lengths, spoken = manifest.utterances, manifest.num_samples.tolist(), list(texts.values())
    if (manifest.starts >= 0).any():
        lengths = list(zip(manifest.starts.tolist(), lengths, strict=True))
    record = out / _RECORD
    # An earlier version recorded a single digest.
    if record.is_file() and record.read_text(encoding="utf-8", errors="replace").startswith('{\n "identity"'):
        return {"identity": _digest([utterances, lengths, spoken, words])}
    return {
        "utterances": _digest([utterances, lengths]),
        "transcripts": _digest(spoken),
        "dictionary": _digest(words),
    }


def _summary_of(finished: Claim) -> Summary:
    """Read the result of an alignment that is complete."""
    return Summary(finished.content["num_aligned"], finished.content["left_out"])


def _digest(value: Any) -> str:
    return blake2b(json.dumps(value).encode(), digest_size=12).hexdigest()


def _align_all(tasks: Sequence[Task], partial: Path, jobs: int, words: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Align what `partial` does not hold yet; return the results by utterance."""
    done = _read_partial(partial)
    missing = [task for task in tasks if task.utterance not in done]
    total = _seconds(tasks)
    with (
        partial.open("a", encoding="utf-8") as f,
        tqdm(total=total, initial=total - _seconds(missing), unit="audio-s", desc="align") as bar,
    ):
        for task, result in zip(missing, _results(missing, jobs, words), strict=True):
            f.write(json.dumps(result) + "\n")
            f.flush()
            done[result["utterance"]] = result
            bar.update(task.seconds)
        os.fsync(f.fileno())  # before a record says that it is complete
    return done


def _seconds(tasks: Sequence[Task]) -> int:
    """Sum the lengths of utterances; they differ, so their number would mislead."""
    return sum(task.seconds for task in tasks)


def _read_partial(path: Path) -> dict[str, dict[str, Any]]:
    """Read the results of an interrupted call, and drop a last line that is incomplete."""
    if not path.exists():
        return {}
    *whole, _ = path.read_text(encoding="utf-8").split("\n")  # text behind the last newline is an incomplete line
    write_bytes(path, "".join(f"{line}\n" for line in whole).encode())
    return {result["utterance"]: result for result in map(json.loads, whole)}


def _write(manifest: Manifest, done: Mapping[str, Mapping[str, Any]], out: Path) -> Summary:
    """Write the labels, the intervals and the list of what was left out.

    Raises:
        LabelsError: nothing could be aligned.
    """
    reasons = {u: done[u].get("left_out") if u in done else "no transcript" for u in manifest.utterances}
    left_out = {u: reason for u, reason in reasons.items() if reason}
    by_utterance = {
        u: [Interval(*interval) for interval in done[u]["intervals"]] for u in manifest.utterances if u not in left_out
    }
    table = pd.DataFrame(left_out.items(), columns=["utterance", "reason"])
    write_bytes(out / "left_out.csv", table.to_csv(index=False).encode())
    if not by_utterance:
        reason = next(iter(left_out.values()))
        raise LabelsError(
            f"none of {len(manifest)} utterances could be aligned (e.g. {reason}); see {out / 'left_out.csv'}"
        )
    write_interval_labels(manifest, by_utterance, out, PHONES)
    write_ctm(by_utterance, out / "intervals.ctm")
    return Summary(len(by_utterance), left_out)


def write_textgrids(manifest: Manifest, out: Path) -> None:
    """Write OUT/textgrids/UTTERANCE.TextGrid for the utterances that `align` aligned in OUT.

    Raises:
        LabelsError: there is no intervals.ctm, or praatio is not installed.
    """
    by_utterance = read_ctm(out / "intervals.ctm")
    for utterance, seconds in zip(manifest.utterances, manifest.seconds.tolist(), strict=True):
        if utterance in by_utterance:
            write_textgrid(by_utterance[utterance], seconds, out / "textgrids" / f"{utterance}.TextGrid")


def _results(tasks: Sequence[Task], jobs: int, words: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Align tasks in `jobs` processes; yield their results in order."""
    if jobs == 1 or len(tasks) < 2:
        start(words)
        yield from map(align_one, tasks)
        return
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(jobs, context, initializer=start_worker, initargs=(words,)) as pool:
            yield from pool.map(align_one, tasks, chunksize=4)
    except BrokenProcessPool:
        raise LabelsError(
            f"one of {jobs} processes died or could not start, as happens when memory runs out; what is aligned stays: "
            "run the same command again, with fewer --jobs"
        ) from None
