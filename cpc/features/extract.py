"""Write the frames of all utterances of a manifest to disk.

Short files are extracted side by side. Long files are processed in blocks with carried state, so memory does not grow
with their length and the frames equal those of the whole file. The state is reset for every file.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cpc.data import (
    RESAMPLER,
    AudioError,
    BadAudio,
    Manifest,
    Segment,
    Waveform,
    audio_blocks,
    audio_statistics,
    normalise,
    read_audio,
    refuse_changed,
    refuse_missing_files,
    statistics_of,
    write_manifest,
)
from cpc.devices import Threads
from cpc.features.derived import DerivedExtractor
from cpc.features.extractors import Extractor
from cpc.features.sources import remove_stale
from cpc.features.store import FRAMES, MANIFEST, RECORD, Features, FeaturesError, first_names
from cpc.files import Claim, ClaimError, claim, locked, remove_temporaries, replacing

Dtype = Literal["float32", "float16"]
Item = TypeVar("Item")
Read = TypeVar("Read")

WHAT = "features folder"
_BLOCK_SECONDS = 20  # longer files are streamed in blocks of this length
# Many short files go side by side, because the steps of g_ar wait for each other.
_FILES_AT_ONCE, _SECONDS_AT_ONCE = 64, 600


def extract_features(
    extractor: Extractor,
    manifest: Manifest,
    out: str | Path,
    *,
    resample: bool = False,
    dtype: Dtype = "float32",
    on_bad_audio: Literal["error", "skip"] = "error",
    threads: int | Literal["auto"] = "auto",
    progress: bool = True,
) -> Path:
    """Write the frames of every utterance of a manifest, except those that are already there.

    Args:
        extractor: turns waveforms into frames.
        manifest: the utterances.
        out: features folder.
        resample: whether files of another rate than the extractor's are resampled; otherwise they are an error.
        dtype: type of the numbers on disk; float16 halves the files.
        on_bad_audio: what happens at a file that cannot be read: "error", or "skip" it, up to 1 % of all. It has no
            frames, and is named at the end and in features.json.
        threads: threads on a CPU; "auto" uses all cores, but no more than other processes leave.
        progress: whether to show a progress bar.

    Returns:
        The features folder.

    Raises:
        AudioError: a file cannot be read. The frames written so far stay, and the same call resumes from there.
        FeaturesError: the folder holds other features, or a DerivedExtractor does not derive from what it has stored.
    """
    bad = BadAudio(len(manifest)) if on_bad_audio == "skip" else None
    out, job = Path(out), _Job(extractor, resample, dtype, bad)
    if (stored := job.stored) is not None:
        assert isinstance(extractor, DerivedExtractor)
        if not is_plain_of(stored, extractor, resample):
            raise FeaturesError(f"{stored.folder}: {extractor.source} does not derive from these frames")
    with locked(out, WHAT), Threads(threads) as adapting:
        _extract_all(job, manifest, out, adapting, progress)
    return out


def _extract_all(job: _Job, manifest: Manifest, out: Path, threads: Threads, progress: bool) -> None:
    """Write the frames that are not there yet, and record that the folder is complete."""
    extractor = job.extractor
    record = claim_features(out, extractor, dtype=job.dtype, resample=job.resample)
    write_manifest(manifest, out / MANIFEST)
    remove_temporaries(out / FRAMES)
    files = files_to_write(extractor, manifest, out / FRAMES)
    stale = remove_stale(out, ((file.source, file.target) for file in files))
    if stale:
        tqdm.write(f"{out}: {len(stale)} sound files changed since their frames were made: {first_names(stale)}")
    groups = group_files([file for file in files if file.num_frames], extractor.sample_rate)
    # A group stays whole when an interrupted call resumes: its frames are then equal to the bit.
    waiting = [group for group in groups if not all(job.is_written(file) for file in group)]
    if job.bad is None and job.stored is None:
        refuse_missing_files([file.source for group in waiting for file in group])
    if record.complete and waiting:  # for more utterances, or instead of lost files: not complete until they are there
        record.reopen()

    def seconds(files: Iterable[FileToWrite]) -> int:  # by audio: long files come first, and a count would mislead
        return round(sum(file.num_samples for file in files) / extractor.sample_rate)

    total, left = (seconds(itertools.chain.from_iterable(some)) for some in (groups, waiting))
    desc = f"features {out.name}"
    with tqdm(total=total, initial=total - left, unit="audio-s", desc=desc, disable=not progress) as bar:
        for group, waveforms in zip(waiting, _one_ahead(job.read, waiting), strict=True):
            if changed := threads.adapt():
                tqdm.write(f"{out}: {changed}")
            job.extract(group, waveforms)
            bar.update(seconds(group))
    too_short = [file.target.stem for file in files if file.num_frames == 0]
    if too_short:
        tqdm.write(
            f"{out}: left out {len(too_short)} utterances that are too short for a frame: {first_names(too_short)}"
        )
    if job.bad and job.bad.errors:
        tqdm.write(f"{out}: {job.bad}")
    without = [file.target.stem for file in files if file.num_frames and not job.is_written(file)]
    finish_features(record, extractor, too_short, without)


def finish_features(record: Claim, extractor: Extractor, too_short: list[str], unreadable: list[str]) -> None:
    """Record that a folder is complete, which run made it, and which utterances have no frames."""
    record.finish(**extractor.made_by, too_short=too_short, **({"unreadable": unreadable} if unreadable else {}))


def is_plain_of(plain: Features, extractor: DerivedExtractor, resample: bool) -> bool:
    """Whether frames on disk are, to the bit, what an extractor derives its own from."""
    wanted = {"identity": extractor.plain.identity(), "dtype": "float32", "resample": _filter(resample)}
    return all(plain.meta.get(key) == value for key, value in wanted.items())


def claim_features(out: Path, extractor: Extractor, *, dtype: Dtype, resample: bool) -> Claim:
    """Take a folder for features of this kind."""
    identity = {
        "source": extractor.source,
        "layer": extractor.layer,
        "identity": extractor.identity(),
        "dim": extractor.dim,
        "dtype": dtype,
        "sample_rate": extractor.sample_rate,
        "hop_samples": extractor.hop_samples,
        "first_centre_samples": extractor.first_centre_samples,
        "normalise": extractor.normalise,
        "resample": _filter(resample),
    }
    try:
        return claim(out, identity, record=RECORD, what="features")
    except ClaimError as error:
        raise FeaturesError(str(error)) from None


def _filter(resample: bool) -> str | bool:
    """Name the filter of resampled files; earlier versions, which had another one, recorded True."""
    return RESAMPLER if resample else False


@dataclass(frozen=True)
class FileToWrite:
    """An utterance on its way to disk."""

    source: Path | Segment
    target: Path
    num_samples: int  # at the extractor's rate, according to the manifest
    num_frames: int
    digest: str  # of the file, as the manifest has it


def files_to_write(extractor: Extractor, manifest: Manifest, folder: Path) -> list[FileToWrite]:
    """List the utterances, with the number of frames that each must have."""
    lengths = manifest.num_samples_at(extractor.sample_rate).tolist()
    return [
        FileToWrite(manifest.sound(i), folder / f"{utterance}.npy", length, extractor.num_frames(length), digest)
        for i, (utterance, length, digest) in enumerate(
            zip(manifest.utterances, lengths, manifest.file_hashes, strict=True)
        )
    ]


def group_files(files: Sequence[FileToWrite], sample_rate: int) -> list[list[FileToWrite]]:
    """Group files of similar length that are extracted side by side; each long file is alone.

    The longest files come first, so that later groups fit into the buffers of earlier ones.
    """
    order = np.argsort([file.num_samples for file in files], kind="stable")[::-1].tolist()
    groups: list[list[FileToWrite]] = []
    while order:
        longest = files[order[0]]
        fitting = min(_FILES_AT_ONCE, _SECONDS_AT_ONCE * sample_rate // longest.num_samples)
        group = [longest] if _is_long(longest, sample_rate) else [files[i] for i in order[:fitting]]
        groups.append(group)
        order = order[len(group) :]
    return groups


def _is_long(file: FileToWrite, sample_rate: int) -> bool:
    return file.num_samples > _BLOCK_SECONDS * sample_rate


@dataclass(frozen=True)
class _Job:
    """What is extracted, and in which form it is written."""

    extractor: Extractor
    resample: bool
    dtype: Dtype
    bad: BadAudio | None = None  # files that were left out; None if none are to be

    @property
    def stored(self) -> Features | None:
        """The frames on disk that others are derived from."""
        return self.extractor.stored if isinstance(self.extractor, DerivedExtractor) else None

    def read(self, group: Sequence[FileToWrite]) -> list[Waveform | None] | None:
        """Read the waveforms of a group, None for a file that is left out.

        Returns:
            None as a whole for a long file, which does not fit in memory, and if no waveforms are needed.
        """
        if self.stored is not None or _is_long(group[0], self.extractor.sample_rate):
            return None
        waveforms: list[Waveform | None] = []
        for file in group:
            waveforms.append(None)
            with self._leaving_out_bad():
                waveforms[-1] = self._waveform(file)
        return waveforms

    @contextmanager
    def _leaving_out_bad(self) -> Iterator[None]:
        """Go on after a file that cannot be read, if such files are left out."""
        try:
            yield
        except (AudioError, _ChangedError) as error:
            if self.bad is None:
                raise
            self.bad.add([str(error)])

    def _waveform(self, file: FileToWrite) -> Waveform:
        """Read a short file, normalised as the extractor expects."""
        waveform = read_audio(file.source, sample_rate=self.extractor.sample_rate, resample=self.resample)
        refuse_changed(file.source, file.digest)  # after reading, which says more of a damaged file
        num_frames = self.extractor.num_frames(len(waveform))
        if num_frames != file.num_frames:
            raise _changed(file, num_frames)
        return normalise(waveform, *statistics_of(waveform, file.source)) if self.extractor.normalise else waveform

    def extract(self, group: Sequence[FileToWrite], waveforms: Sequence[Waveform | None] | None) -> None:
        """Write the frames of a group, given what `read` returned."""
        if (stored := self.stored) is not None:
            assert isinstance(self.extractor, DerivedExtractor)
            for file in group:
                frames = stored.frames(file.target.stem)
                if len(frames) and not self.is_written(file):
                    self._write(file, [self.extractor.derive(np.asarray(frames))])
            return
        if waveforms is None:
            with self._leaving_out_bad():
                self._write(group[0], self._stream(group[0]))
            return
        there = [(file, waveform) for file, waveform in zip(group, waveforms, strict=True) if waveform is not None]
        frames_of = self.extractor.frames_of([waveform for _, waveform in there])
        for (file, _), frames in zip(there, frames_of, strict=True):
            if not self.is_written(file):
                self._write(file, [frames])

    def _stream(self, file: FileToWrite) -> Iterator[NDArray[np.float32]]:
        """Extract a file of any length block by block."""
        refuse_changed(file.source, file.digest)
        rate, mean, std = self.extractor.sample_rate, 0.0, 1.0
        if self.extractor.normalise:
            mean, std = audio_statistics(file.source, sample_rate=rate, resample=self.resample)
        samples = _BLOCK_SECONDS * rate
        blocks = audio_blocks(file.source, sample_rate=rate, resample=self.resample, block_samples=samples)
        return self.extractor.frames(normalise(block, mean, std) for block in blocks)

    def _write(self, file: FileToWrite, pieces: Iterable[NDArray[np.float32]]) -> None:
        """Write the frames of a file, piece by piece, into an .npy that appears only when it is whole.

        The file is not synced to the disk, which would take longer than the network; `is_written` detects files that
        a crash cut short.
        """
        written = 0
        with replacing(file.target, sync=False) as temporary, temporary.open("wb") as f:
            f.write(self._header(file))
            for frames in pieces:
                f.write(np.ascontiguousarray(frames, dtype=self.dtype).tobytes())
                written += len(frames)
            if written != file.num_frames:
                raise _changed(file, written)

    def _header(self, file: FileToWrite) -> bytes:
        """The start of an .npy that holds the frames of a file."""
        buffer = io.BytesIO()
        shape = (file.num_frames, self.extractor.dim)
        np.lib.format.write_array_header_1_0(
            buffer, {"descr": np.dtype(self.dtype).str, "fortran_order": False, "shape": shape}
        )
        return buffer.getvalue()

    def is_written(self, file: FileToWrite) -> bool:
        """Whether the frames are on disk, with the size that they must have."""
        size = len(self._header(file)) + file.num_frames * self.extractor.dim * np.dtype(self.dtype).itemsize
        return file.target.exists() and file.target.stat().st_size == size


class _ChangedError(FeaturesError):
    """A sound file that is no longer what the manifest says."""


def _changed(file: FileToWrite, num_frames: int) -> _ChangedError:
    return _ChangedError(
        f"{file.source}: got {num_frames} frames, expected {file.num_frames} from its num_samples in the manifest; the "
        "file has changed: run `cpc manifest` again"
    )


def _one_ahead(read: Callable[[Item], Read], items: Iterable[Item]) -> Iterator[Read]:
    """Yield what `read` returns for each item, while a thread reads the next one."""
    with ThreadPoolExecutor(1) as reader:
        futures: list[Future[Read]] = []
        for item in items:
            futures.append(reader.submit(read, item))
            if len(futures) > 1:
                yield futures.pop(0).result()
        for future in futures:
            yield future.result()
