"""Make a manifest by scanning the sound files of a listing: each is decoded once."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from cpc.data.audio import AudioError, AudioInfo, Segment, Sound, audio_blocks, audio_info, file_digest
from cpc.data.listings import Listing, list_folder
from cpc.data.manifest import Manifest, ManifestError
from cpc.files import SHARDS, Claim, Shard, claim, locked

_FACTS, _JOINED = "facts.json", "joined"
_MAX_OVERSHOOT_SECONDS = 0.5  # by which a segment may end after its file, as Kaldi has it; it then ends with the file


@dataclass(frozen=True, eq=False)
class Scan:
    """The result of a scan.

    Attributes:
        manifest: the usable files.
        left_out: (path relative to the scanned folder, reason) of each file that is not usable.
    """

    manifest: Manifest
    left_out: list[tuple[str, str]]

    def __str__(self) -> str:
        """Summarise in a few lines: the size, the first utterance as an example, what was left out and why."""
        manifest = self.manifest
        rates = ", ".join(f"{rate} Hz ({count})" for rate, count in sorted(Counter(manifest.sample_rates).items()))
        names = [
            name for name in manifest.columns if name not in ("num_samples", "sample_rate", "file_hash", "audio_hash")
        ]
        lines = [
            f"{len(manifest)} utterances, {len(set(manifest.speakers))} speakers, "
            f"{manifest.seconds.sum() / 3600:.2f} hours, {rates}",
            "the first: " + ", ".join(f"{name} {manifest.column(name)[0]}" for name in names),
            f"left out: {len(self.left_out)}",
        ]
        return "\n".join(lines + [f"  {path}: {reason}" for path, reason in self.left_out])


def scan_folder(folder: str | Path, *, speaker: str = "{speaker}/{chapter}/*", progress: bool = True) -> Scan:
    """List the sound files below a folder, and decode each of them once to see that it is whole.

    Utterance ids are the files' names without suffix if these are unique; otherwise their paths within the folder
    without suffix, with "_" for "/". Blanks become "_".

    Args:
        folder: where to look, in all subfolders and also in linked ones. A file is taken if its suffix is that of a
            sound file (`audio.EXTENSIONS`).
        speaker: pattern that says where the speaker's name and other facts stand in a path. It is compared with the
            last parts of the path, as many as the pattern has, without suffix. `*` is any text within one part.
            `{name}` is some text, as short as possible, that becomes column `name`; a name that comes twice must be the
            same text twice. "{speaker}/{chapter}/*" fits 103/1240/103-1240-0000.flac, "{digit}_{speaker}_*" fits
            0_george_12.wav. A regular expression with named groups, (?P<name>…), does the same. Without the name
            "speaker", and with the word "none" for the pattern, every speaker is "unknown".
        progress: whether to draw a progress bar on standard error.

    Returns:
        The manifest, sorted by path, and the files that were left out, each with its reason: unreadable, truncated,
        empty, silent, NaN.

    Raises:
        ManifestError: there is no such folder, no sound file, none that is usable, a path that does not match the
            pattern, or two files that would get one utterance id.
    """
    return scan_listing(list_folder(Path(folder), speaker), progress=progress)


def scan_listing(listing: Listing, *, progress: bool = True) -> Scan:
    """Decode each sound of a listing once to see that it is whole; see `scan_folder`.

    A segment that ends up to 0.5 s after its file ends with it.

    Raises:
        ManifestError: none is usable.
    """
    sounds = _sounds(listing)
    return _scan(listing, sounds, _inspect_all(sounds, "scan", progress))


def scan_shard(
    shard: Shard, listing: Listing, work: Path, write: Callable[[Scan], None], *, progress: bool = True
) -> int:
    """Decode one share of a listing's sounds; the last share to end hands the scan of all to `write`.

    Args:
        shard: which share.
        listing: all sounds.
        work: folder for what the shares find; the last one removes it.
        write: writes the manifest.
        progress: as for `scan_folder`.

    Returns:
        The number of shares that are not complete yet; 0 if the manifest is written.

    Raises:
        ManifestError: as `scan_folder`.
        ClaimError: the shares that are there are of other files.
    """
    sounds, identity, own = _sounds(listing), listing.identity(), shard.folder(work)

    def claimed(part: Path) -> Claim:
        return claim(part, identity, record=_FACTS, what="facts of sound files")

    with locked(work, "scan", wait=True):
        claimed(work)  # shares of other files are refused before anything is decoded
    with locked(own, "share of a scan"):
        if not (mine := claimed(own)).complete:
            mine.finish(facts=_inspect_all(list(shard.take(sounds)), f"scan {own.name}", progress))
    waiting = 0
    with locked(work, "scan", wait=True):
        if own.exists() and not (waiting := shard.waits_for(work, _FACTS)):  # gone if the last share has joined all
            facts: dict[int, Any] = {}
            for share in shard.all():
                facts |= zip(share.take(range(len(sounds))), claimed(share.folder(work)).content["facts"], strict=True)
            write(_scan(listing, sounds, [facts[i] for i in range(len(sounds))]))
            os.replace(work / SHARDS, work / _JOINED)  # at once: half of them would count as not complete
            shutil.rmtree(work / _JOINED, ignore_errors=True)
            (work / _FACTS).unlink()
    if not waiting:
        with suppress(OSError):  # another share is about to lock it
            work.rmdir()
    return waiting


def refuse_changed_files(manifest: Manifest, *, progress: bool = True) -> None:
    """Decode every sound file of a manifest again, and compare it with what the scan found.

    Raises:
        ManifestError: naming the files that are not as they were; or no scan has made the manifest.
    """
    names = ("num_samples", "sample_rate", "audio_hash")
    columns = (manifest.num_samples.tolist(), manifest.sample_rates.tolist(), manifest.column("audio_hash"))
    sounds = [_Sound(path, manifest.sound(i)) for i, path in enumerate(manifest.paths)]
    facts = _inspect_all(sounds, "verify", progress)
    wrong = []
    listed = [_name(*of) for of in zip(manifest.utterances, sounds, strict=True)]
    for path, *before, now in zip(listed, *columns, facts, strict=True):
        if isinstance(now, str):
            wrong.append(f"{path}: {now}")
        elif changed := [name for name, value in zip(names, before, strict=True) if now[name] != value]:
            wrong.append(f"{path}: another {' and '.join(changed)}")
    if wrong:
        raise ManifestError(
            f"{manifest.root}: {len(wrong)} of {len(manifest)} sound files are not as they were: {'; '.join(wrong[:5])}"
            + ("; …" if len(wrong) > 5 else "")
        )


class _Sound(NamedTuple):
    """A sound to be inspected."""

    path: str  # as it is listed
    sound: Path | Segment  # a segment that is known in samples
    start: str = ""  # seconds, of a segment that is not
    end: str = ""  # of the file, if it is empty


def _name(utterance: str, of: _Sound) -> str:
    """Name what is left out: a file, or the segment that stands for an utterance."""
    return f"{of.path}, {utterance}" if of.start or isinstance(of.sound, Segment) else of.path


def _sounds(listing: Listing) -> list[_Sound]:
    paths = listing.table["path"].tolist()
    if "start" not in listing.table:
        return [_Sound(path, listing.root / path) for path in paths]
    times = listing.table["start"].tolist(), listing.table["end"].tolist()
    return [_Sound(path, listing.root / path, *of) for path, *of in zip(paths, *times, strict=True)]


def _scan(listing: Listing, sounds: list[_Sound], facts: list[dict[str, Any] | str]) -> Scan:
    """Put together what is known about the sounds; `facts` is what `_inspect` returned for each."""
    names = [_name(*of) for of in zip(listing.utterances, sounds, strict=True)]
    left_out = [(name, fact) for name, fact in zip(names, facts, strict=True) if isinstance(fact, str)]
    left_out += [
        (path, f"libsndfile cannot read {os.path.splitext(path)[1]}; convert it, as by ffmpeg -i IN OUT.flac")
        for path in listing.others
    ]
    good = [i for i, fact in enumerate(facts) if not isinstance(fact, str)]
    if not good:
        raise ManifestError(
            f"{listing.root}: none of its {len(sounds)} sound files is usable; the first, {names[0]}: {facts[0]}"
        )
    measured = pd.DataFrame([facts[i] for i in good])
    listed = listing.table.iloc[good].reset_index(drop=True)
    first = ["path", "num_samples", "sample_rate", "speaker", "utterance"]
    last = ["file_hash", "audio_hash"]  # which interest a reader least
    table = listed.assign(**{str(name): measured[name] for name in measured})
    if "start" in measured:  # whole files among segments have neither
        table[["start", "end"]] = measured[["start", "end"]].fillna("")
    order = [*first, *(name for name in listed if name not in first), *last]
    return Scan(Manifest(listing.root, table[order]), left_out)


def _inspect_all(sounds: list[_Sound], what: str, progress: bool) -> list[dict[str, Any] | str]:
    """Inspect sounds side by side, with a progress bar; `what` names the work."""
    segments = Counter(of.path for of in sounds)
    # Files differ in length, so their number would mislead.
    sizes = [_size(of.sound) // segments[of.path] for of in sounds]
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,  # libsndfile decodes outside the interpreter lock
        tqdm(total=sum(sizes), unit="B", unit_scale=True, desc=what, disable=not progress) as bar,
    ):
        facts = []
        for fact, size in zip(pool.map(_inspect, sounds), sizes, strict=True):
            facts.append(fact)
            bar.update(size)
    return facts


def _size(sound: Sound) -> int:
    with suppress(OSError):  # a broken link, of which the inspection says more
        return os.path.getsize(sound)
    return 0


def _inspect(of: _Sound) -> dict[str, Any] | str:
    """Decode a whole sound; return its columns, or the reason why it cannot be used."""
    try:
        of.path.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8; rename it"
    if len(of.path.splitlines()) > 1:
        return f"its name {of.path!r} holds a line break; rename it"
    sound, facts = of.sound, dict[str, Any]()
    try:
        info = audio_info(sound)
        rate = info.sample_rate
        if of.start:
            sound = _segment(of, info)
            facts = {"start": _seconds(sound.start, rate), "end": _seconds(sound.stop, rate)}
        num_samples, low, high, digest = 0, np.inf, -np.inf, blake2b(digest_size=8)
        for block in audio_blocks(sound, sample_rate=rate, resample=False, block_samples=1 << 17):
            num_samples += len(block)
            low, high = min(low, float(block.min())), max(high, float(block.max()))
            digest.update(block.tobytes())
    except AudioError as error:
        return str(error).removeprefix(f"{sound}: ")
    if low == high:
        return f"silent, all {num_samples} samples are {low:g}"
    facts |= {"num_samples": num_samples, "sample_rate": rate}
    return {**facts, "file_hash": file_digest(sound), "audio_hash": digest.hexdigest()}


def _segment(of: _Sound, file: AudioInfo) -> Segment:
    """Find the samples of a segment in its file."""
    rate, length = file.sample_rate, file.num_samples
    start, stop = round(float(of.start) * rate), round(float(of.end) * rate) if of.end else length
    if not 0 <= start < min(stop, length) or stop > length + _MAX_OVERSHOOT_SECONDS * rate:
        raise AudioError(f"{of.sound}: segment {of.start} to {of.end} s, the file has {length / rate:.3f} s")
    return Segment(os.fspath(of.sound), start, min(stop, length))


def _seconds(sample: int, sample_rate: int) -> str:
    """State a time so exactly that rounding leads back to the sample."""
    return repr(round(sample / sample_rate, 9))
