"""Make a manifest by scanning a folder of sound files."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from cpc.data.audio import EXTENSIONS, AudioError, audio_blocks, audio_info, file_digest
from cpc.data.manifest import Manifest, ManifestError
from cpc.files import SHARDS, Claim, Shard, claim, locked

# Sound that libsndfile does not decode. It is listed, so that nobody misses it later.
_OTHER_SOUND = frozenset({".3gp", ".aac", ".amr", ".ape", ".m4a", ".m4b", ".mka", ".mp4", ".webm", ".wma", ".wv"})
_FACTS, _JOINED = "facts.json", "joined"


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
    listing = _Listing.of(Path(folder), speaker)
    return listing.scan(_inspect_all(listing.folder, listing.paths, "scan", progress))


def scan_shard(
    shard: Shard, folder: Path, work: Path, write: Callable[[Scan], None], *, speaker: str, progress: bool = True
) -> int:
    """Decode one share of a folder's sound files; the last share to end hands the scan of all to `write`.

    Args:
        shard: which share.
        folder: as for `scan_folder`.
        work: folder for what the shares find; the last one removes it.
        write: writes the manifest.
        speaker: as for `scan_folder`.
        progress: as for `scan_folder`.

    Returns:
        The number of shares that are not complete yet; 0 if the manifest is written.

    Raises:
        ManifestError: as `scan_folder`.
        ClaimError: the shares that are there are of other files.
    """
    listing, own = _Listing.of(folder, speaker), shard.folder(work)
    identity = listing.identity()

    def claimed(part: Path) -> Claim:
        return claim(part, identity, record=_FACTS, what="facts of sound files")

    with locked(work, "scan", wait=True):
        claimed(work)  # shares of other files are refused before anything is decoded
    with locked(own, "share of a scan"):
        if not (mine := claimed(own)).complete:
            mine.finish(facts=_inspect_all(folder, list(shard.take(listing.paths)), f"scan {own.name}", progress))
    waiting = 0
    with locked(work, "scan", wait=True):
        if own.exists() and not (waiting := shard.waits_for(work, _FACTS)):  # gone if the last share has joined all
            facts: dict[str, Any] = {}
            for share in shard.all():
                facts |= zip(share.take(listing.paths), claimed(share.folder(work)).content["facts"], strict=True)
            write(listing.scan([facts[path] for path in listing.paths]))
            os.replace(work / SHARDS, work / _JOINED)  # at once: half of them would count as not complete
            shutil.rmtree(work / _JOINED, ignore_errors=True)
            (work / _FACTS).unlink()
    if not waiting:
        with suppress(OSError):  # another share is about to lock it
            work.rmdir()
    return waiting


@dataclass(frozen=True)
class _Listing:
    """The sound files of a folder, before any of them is decoded."""

    folder: Path
    paths: list[str]
    others: list[str]  # sound files of other formats
    fields: list[dict[str, str]]
    utterances: list[str]

    @classmethod
    def of(cls, folder: Path, speaker: str) -> _Listing:
        """List a folder.

        Raises:
            ManifestError: as `scan_folder`.
        """
        paths, others = _find(folder)
        return cls(folder, paths, others, _fields(folder, paths, speaker), _utterances(folder, paths))

    def identity(self) -> dict[str, str]:
        """State where the files are, and digest their names, sizes and times of change."""
        digest = blake2b(digest_size=12)
        for path in self.paths:
            try:
                found = (self.folder / path).stat()
                stamp = f"{found.st_size} {found.st_mtime_ns}"
            except OSError:  # a broken link, of which the scan says more
                stamp = "unreadable"
            digest.update(f"{path} {stamp}\n".encode(errors="surrogateescape"))
        return {"folder": str(self.folder.resolve()), "files": digest.hexdigest()}

    def scan(self, facts: list[dict[str, Any] | str]) -> Scan:
        """Put together what is known about the files; `facts` is what `_inspect` returned for each."""
        folder, paths = self.folder, self.paths
        left_out = [(path, fact) for path, fact in zip(paths, facts, strict=True) if isinstance(fact, str)]
        left_out += [
            (path, f"libsndfile cannot read {os.path.splitext(path)[1]}; convert it, as by ffmpeg -i IN OUT.flac")
            for path in self.others
        ]
        rows = [
            {"path": path, **fact, "speaker": "unknown", "utterance": utterance, **field}
            for path, fact, utterance, field in zip(paths, facts, self.utterances, self.fields, strict=True)
            if not isinstance(fact, str)
        ]
        if not rows:
            raise ManifestError(
                f"{folder}: none of its {len(paths)} sound files is usable; the first, {paths[0]}: {facts[0]}"
            )
        # The last columns, which interest a reader least.
        hashes = {name: [row.pop(name) for row in rows] for name in ("file_hash", "audio_hash")}
        return Scan(Manifest(folder, pd.DataFrame(rows).assign(**hashes)), left_out)


def refuse_changed_files(manifest: Manifest, *, progress: bool = True) -> None:
    """Decode every sound file of a manifest again, and compare it with what the scan found.

    Raises:
        ManifestError: naming the files that are not as they were; or no scan has made the manifest.
    """
    names = ("num_samples", "sample_rate", "audio_hash")
    columns = (manifest.num_samples.tolist(), manifest.sample_rates.tolist(), manifest.column("audio_hash"))
    facts = _inspect_all(manifest.root, manifest.paths, "verify", progress)
    wrong = []
    for path, *before, now in zip(manifest.paths, *columns, facts, strict=True):
        if isinstance(now, str):
            wrong.append(f"{path}: {now}")
        elif changed := [name for name, value in zip(names, before, strict=True) if now[name] != value]:
            wrong.append(f"{path}: another {' and '.join(changed)}")
    if wrong:
        raise ManifestError(
            f"{manifest.root}: {len(wrong)} of {len(manifest)} sound files are not as they were: {'; '.join(wrong[:5])}"
            + ("; …" if len(wrong) > 5 else "")
        )


def _find(folder: Path) -> tuple[list[str], list[str]]:
    """List the sound files below a folder that can be read, and those that cannot.

    Returns:
        Paths relative to the folder with "/" between their parts, sorted.
    """
    if not folder.is_dir():
        what = "a file" if folder.exists() else "no such folder"
        raise ManifestError(f"{folder}: {what}, expected a folder of sound files")
    paths: list[str] = []
    unreadable: list[str] = []
    others: Counter[str] = Counter()
    visited: set[str] = set()
    for parent, subfolders, names in os.walk(folder, followlinks=True, onerror=_refuse_unreadable):
        real = os.path.realpath(parent)
        if real in visited:  # a circular link, or one to a folder that is listed elsewhere
            subfolders.clear()
            continue
        visited.add(real)
        subfolders.sort()
        within = Path(parent).relative_to(folder)
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if suffix in EXTENSIONS:
                paths.append((within / name).as_posix())
            else:
                if suffix in _OTHER_SOUND:
                    unreadable.append((within / name).as_posix())
                others[suffix] += 1
    if not paths:
        seen = ", ".join(f"{n} {suffix or 'without suffix'}" for suffix, n in others.most_common(3)) or "nothing"
        known = " ".join(sorted(EXTENSIONS))
        raise ManifestError(f"{folder}: no sound file, found {seen}; convert to one of {known}")
    return sorted(paths), sorted(unreadable)


def _refuse_unreadable(error: OSError) -> None:
    """Refuse a folder that cannot be listed: its files would be missing without a word."""
    raise ManifestError(f"{error.filename}: {(error.strerror or str(error)).lower()}; its files cannot be listed")


def _inspect_all(folder: Path, paths: list[str], what: str, progress: bool) -> list[dict[str, Any] | str]:
    """Inspect files side by side, with a progress bar; `what` names the work."""
    sizes = [_size(folder / path) for path in paths]  # files differ in length, so their number would mislead
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,  # libsndfile decodes outside the interpreter lock
        tqdm(total=sum(sizes), unit="B", unit_scale=True, desc=what, disable=not progress) as bar,
    ):
        facts = []
        for fact, size in zip(pool.map(lambda path: _inspect(folder, path), paths), sizes, strict=True):
            facts.append(fact)
            bar.update(size)
    return facts


def _size(file: Path) -> int:
    with suppress(OSError):  # a broken link, of which the inspection says more
        return file.stat().st_size
    return 0


def _inspect(folder: Path, path: str) -> dict[str, Any] | str:
    """Decode a whole file; return its columns, or the reason why it cannot be used."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8; rename it"
    if len(path.splitlines()) > 1:
        return f"its name {path!r} holds a line break; rename it"
    file = folder / path
    try:
        rate = audio_info(file).sample_rate
        num_samples, low, high, digest = 0, np.inf, -np.inf, blake2b(digest_size=8)
        for block in audio_blocks(file, sample_rate=rate, resample=False, block_samples=1 << 17):
            num_samples += len(block)
            low, high = min(low, float(block.min())), max(high, float(block.max()))
            digest.update(block.tobytes())
    except AudioError as error:
        return str(error).removeprefix(f"{file}: ")
    if low == high:
        return f"silent, all {num_samples} samples are {low:g}"
    facts = {"num_samples": num_samples, "sample_rate": rate}
    return {**facts, "file_hash": file_digest(file), "audio_hash": digest.hexdigest()}


def _fields(folder: Path, paths: list[str], pattern: str) -> list[dict[str, str]]:
    """Match every path with the pattern; return the fields of each."""
    if pattern == "none":
        return [{} for _ in paths]
    compiled = _compile(pattern)
    found = [compiled.fullmatch(os.path.splitext(path)[0]) for path in paths]
    unmatched = [path for path, match in zip(paths, found, strict=True) if match is None]
    if unmatched:
        depth = unmatched[0].count("/")
        hint = "'{speaker}_*' if file names start with it" if depth == 0 else "'{speaker}" + "/*" * depth + "'"
        raise ManifestError(
            f"{folder}: {unmatched[0]} does not match the pattern {pattern!r} ({len(unmatched)} of "
            f"{len(paths)} files do not); say where the speaker's name stands, as --pattern {hint}, "
            "or --pattern none if nothing is known"
        )
    fields = [match.groupdict(default="") for match in found if match is not None]
    return [{name: text for name, text in of.items() if text or name != "speaker"} for of in fields]


def _compile(pattern: str) -> re.Pattern[str]:
    """Turn a pattern of paths, or a regular expression with named groups, into an expression for whole paths."""
    taken = {"path", "num_samples", "sample_rate", "utterance", "file_hash", "audio_hash", "split"}
    if "(?P<" in pattern:
        try:
            compiled = re.compile(f"(?:.*?/)??(?:{pattern})", re.DOTALL)
        except re.error as error:
            raise ManifestError(f"pattern {pattern!r}: no regular expression: {error}") from None
        if wrong := sorted(taken & set(compiled.groupindex)):
            raise ManifestError(
                f"pattern {pattern!r}: {wrong[0]} cannot be a field; a field is none of {sorted(taken)}"
            )
        return compiled
    names = re.findall(r"\{([^{}]*)\}", pattern)
    wrong = [name for name in names if not name.isidentifier() or name in taken]
    if wrong or re.search(r"[{}]", re.sub(r"\{[^{}]*\}", "", pattern)):
        what = f"{{{wrong[0]}}} cannot be a field" if wrong else "an unpaired brace"
        raise ManifestError(f"pattern {pattern!r}: {what}; a field is {{word}}, none of {sorted(taken)}")
    expression, seen = "", set()
    for token in re.findall(r"\{[^{}]*\}|\*|[^{*]+", pattern):
        if token == "*":
            expression += "[^/]*"
        elif token[0] != "{":
            expression += re.escape(token)
        else:
            name = token[1:-1]
            expression += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
            seen.add(name)
    return re.compile(f"(?:.*/)?{expression}", re.DOTALL)


def _utterances(folder: Path, paths: list[str]) -> list[str]:
    """Give every file a unique id that can be a file name and a word in a label file."""
    whole = [re.sub(r"\s+", "_", os.path.splitext(path)[0]) for path in paths]
    stems = [path.rpartition("/")[2] for path in whole]
    if len(set(stems)) == len(stems):
        return stems
    joined = [path.replace("/", "_") for path in whole]
    name, count = Counter(joined).most_common(1)[0]
    if count > 1:
        first, second = [path for path, other in zip(paths, joined, strict=True) if other == name][:2]
        raise ManifestError(
            f"{folder}: {first} and {second} would both be utterance {name!r}; rename one or move it away"
        )
    return joined
