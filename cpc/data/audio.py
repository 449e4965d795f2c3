"""Decode sound files to mono float32 waveforms and resample them. No other module opens sound files.

Everything downstream counts samples, so this module promises exactness: whichever way a file is read (whole, in blocks,
or a slice from its middle), the samples are those of the whole file, decoded, mixed down to mono and resampled. A file
that cannot keep this promise (truncated, NaN, empty, another rate) raises `AudioError`.
"""

import io
import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile  # type: ignore[import-untyped, unused-ignore]

from cpc.data.resampling import Waveform, num_resampled, resample_pieces, source_of_slice

# The formats that libsndfile decodes and in which people keep speech; lower case, with the dot.
_NAMES = "wav flac ogg oga opus mp3 aiff aif aifc au snd w64 rf64 caf sph nist"
EXTENSIONS = frozenset("." + name for name in _NAMES.split())

# Hz. Outside, the header is wrong, and resampling would make seconds into hours.
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 500, 10_000_000

_DIGEST_BYTES = 4096  # of each place of a file that its digest covers
_SPHERE_HEADER_BYTES = 4096  # at most; mostly 1024
_PIECE_SAMPLES = 1 << 16  # samples read at a time unless the caller sets a size: 4 s at 16 kHz, 256 kB


class AudioError(ValueError):
    """A sound file that cannot be used as asked. The message is one line: the file, what is wrong, the way out."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a sound file, which every function here takes for a file of its own.

    The samples before `start` and from `stop` on do not count, not even for resampling: a segment is read as a file
    that it was cut into would be.

    Attributes:
        path: the sound file.
        start: first sample, at the file's own rate.
        stop: one past the last sample.
    """

    path: str
    start: int
    stop: int

    def __fspath__(self) -> str:
        return self.path

    def __str__(self) -> str:
        return f"{self.path}, samples {self.start} to {self.stop}"


Sound = str | Path | Segment


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """The contents of a sound file's header, or what they are for a segment of it."""

    num_samples: int  # per channel, at the file's own rate
    sample_rate: int  # Hz
    num_channels: int


class _Stream(soundfile.SoundFile):  # type: ignore[misc]
    """A SoundFile that never seeks between reads.

    SoundFile.read seeks after each read of a seekable file. Seeking in an MP3 loses the bit reservoir, so a file that
    is read in blocks of 1000 would decode to other samples than the same file read at once. A pipe is not seekable, and
    decodes to the same samples.
    """

    def seekable(self) -> bool:
        return False


def audio_info(path: Sound) -> AudioInfo:
    """Read length, rate and number of channels without decoding.

    Raises:
        AudioError: the file is missing, not a sound file, empty, or visibly truncated.
    """
    with _open(path) as file:
        begin, end = _bounds(file, path)
        return AudioInfo(end - begin, int(file.samplerate), int(file.channels))


def suffix_of(data: bytes) -> str:
    """Return the suffix that the content of a sound file should have, such as ".flac"; ".wav" if it is none."""
    try:
        return f".{soundfile.info(io.BytesIO(data)).format.lower()}"
    except soundfile.SoundFileError:
        return ".wav"  # whose reader says what is wrong


def file_digest(path: Sound) -> str:
    """Identify a file by its size and some bytes of its beginning, middle and end, as quickly as it is opened."""
    size = os.path.getsize(path)
    digest = blake2b(str(size).encode(), digest_size=8)
    with open(path, "rb") as raw:
        for start in (0, size // 2, max(0, size - _DIGEST_BYTES)):
            raw.seek(start)
            digest.update(raw.read(_DIGEST_BYTES))
    return digest.hexdigest()


def refuse_changed(path: Sound, digest: str) -> None:
    """Refuse a file that is not the one of which `file_digest` returned `digest`; "" is no digest, and fits all.

    Raises:
        AudioError: it is another one, or cannot be read.
    """
    try:
        same = digest in ("", file_digest(path))
    except OSError as error:
        raise AudioError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    if not same:
        raise AudioError(f"{path}: changed since the manifest was made; run cpc manifest again")


def audio_blocks(path: Sound, *, sample_rate: int, resample: bool, block_samples: int) -> Iterator[Waveform]:
    """Decode a whole file in successive blocks, in constant memory.

    Args:
        path: the sound file, or a segment of one.
        sample_rate: rate of the result, Hz.
        resample: whether a file of another rate is resampled; otherwise it is an error.
        block_samples: length of a block at `sample_rate`; the last block may be shorter.

    Yields:
        (block_samples,) float32, the mean of the channels, full scale at 1.

    Raises:
        AudioError: the file is missing or unreadable, has no samples, another rate while `resample` is off, fewer
            samples than its header promises, or a NaN or infinite sample.
    """
    if block_samples < 1:
        raise ValueError(f"block_samples: {block_samples}, expected 1 or more")
    with _open(path) as file:
        _check_rate(file, path, sample_rate, resample)
        begin, end = _bounds(file, path)
        if file.samplerate == sample_rate:
            yield from _decode(file, path, begin, end, block_samples)
            return
        size = max(math.ceil(block_samples * file.samplerate / sample_rate), _PIECE_SAMPLES)
        pieces = _decode(file, path, begin, end, size)
        pending: Waveform = np.empty(0, np.float32)
        for resampled in resample_pieces(pieces, file.samplerate, sample_rate):
            pending = np.concatenate([pending, resampled])
            whole = len(pending) // block_samples * block_samples
            for begin in range(0, whole, block_samples):
                yield pending[begin : begin + block_samples]
            pending = pending[whole:]
        if len(pending):
            yield pending


def read_audio(
    path: Sound, *, sample_rate: int, resample: bool = False, start: int = 0, stop: int | None = None
) -> Waveform:
    """Decode samples [start, stop) of a file: exactly that slice of the decoded whole.

    Formats whose seek is not exact to the sample (MP3, Vorbis, Opus, ADPCM) are decoded from their beginning.

    Args:
        path: the sound file, or a segment of one.
        sample_rate: rate of the result, and of `start` and `stop`, Hz.
        resample: whether a file of another rate is resampled; otherwise it is an error.
        start: first sample, 0 or more.
        stop: one past the last sample; None for the end of the file.

    Returns:
        (stop - start,) float32, the mean of the channels, full scale at 1.

    Raises:
        AudioError: as for `audio_blocks`, or the slice is not inside the file.
    """
    with _open(path) as file:
        _check_rate(file, path, sample_rate, resample)
        begin, end = _bounds(file, path)
        length = num_resampled(end - begin, file.samplerate, sample_rate)
        stop = length if stop is None else stop
        if not 0 <= start <= stop <= length:
            raise AudioError(
                f"{path}: samples [{start}, {stop}) asked for, the file has [0, {length}) at {sample_rate} "
                "Hz; if it changed since the manifest was made, run cpc manifest again"
            )
        if file.samplerate == sample_rate:
            pieces = _decode(file, path, begin + start, begin + stop, _PIECE_SAMPLES)
            return _concatenate(pieces)
        first, last, offset = source_of_slice(start, stop, file.samplerate, sample_rate)
        pieces = _decode(file, path, begin + first, min(begin + last, end), _PIECE_SAMPLES)
        waveform = _concatenate(resample_pieces(pieces, file.samplerate, sample_rate))
        return waveform[offset : offset + stop - start].copy()


def audio_statistics(path: Sound, *, sample_rate: int, resample: bool) -> tuple[float, float]:
    """Measure the mean and standard deviation of a whole file, in float64 and constant memory.

    Returns:
        Mean and (population) standard deviation of the samples at `sample_rate`; the deviation is positive.

    Raises:
        AudioError: as for `audio_blocks`, or the file is silent: all its samples are equal.
    """
    pieces = audio_blocks(path, sample_rate=sample_rate, resample=resample, block_samples=_PIECE_SAMPLES)
    return _statistics(pieces, path)


def statistics_of(waveform: Waveform, path: Sound) -> tuple[float, float]:
    """Measure a file that is decoded already, with the same result to the bit as `audio_statistics`.

    Args:
        waveform: the whole file.
        path: the file's name in errors.

    Raises:
        AudioError: the file is silent.
    """
    pieces = (waveform[first : first + _PIECE_SAMPLES] for first in range(0, len(waveform), _PIECE_SAMPLES))
    return _statistics(pieces, path)


def _statistics(pieces: Iterable[Waveform], path: Sound) -> tuple[float, float]:
    count, mean, squares = 0, 0.0, 0.0  # `squares` sums squared distances from the running mean
    low, high = math.inf, -math.inf
    for block in pieces:
        wide = block.astype(np.float64)
        n, block_mean = len(wide), float(wide.mean())
        delta = block_mean - mean
        wide -= block_mean
        squares += float(np.square(wide, out=wide).sum()) + delta**2 * count * n / (count + n)
        count, mean = count + n, mean + delta * n / (count + n)
        low, high = min(low, float(block.min())), max(high, float(block.max()))
    if low == high:
        raise AudioError(f"{path}: silent, all {count} samples are {low:g}; remove it from the manifest")
    return mean, math.sqrt(squares / count)


def normalise(waveform: Waveform, mean: float, std: float) -> Waveform:
    """Normalise a waveform to zero mean and unit variance: (waveform - mean) / std, in float32."""
    return (waveform - np.float32(mean)) / np.float32(std)


# --- decoding


@contextmanager
def _open(path: Sound) -> Iterator[_Stream]:
    """Open a sound file that is not empty and whose header states its length."""
    if not os.path.isfile(path) and os.path.exists(path) and not os.path.isdir(path):  # opening a pipe would wait
        raise AudioError(f"{path}: a pipe or a device, expected a sound file; save it as a file first")
    try:
        file = _Stream(os.fspath(path))
    except soundfile.SoundFileError as error:
        raise AudioError(f"{path}: {_why_unopened(Path(path), error)}") from error
    with file:
        if file.frames == 0:
            raise AudioError(f"{path}: no samples; remove it or record it again")
        if file.frames >= 1 << 62:  # libsndfile's "unknown", as in a FLAC encoded from a pipe
            raise AudioError(f"{path}: its header does not state its length; encode it again from a file")
        if not MIN_SAMPLE_RATE <= file.samplerate <= MAX_SAMPLE_RATE:
            raise AudioError(
                f"{path}: its header says {file.samplerate} Hz, expected {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}; "
                "correct the header"
            )
        missing = _missing_bytes(file, path)
        if missing:
            raise AudioError(f"{path}: truncated, {missing}; copy or download it again")
        yield file


def _bounds(file: _Stream, path: Sound) -> tuple[int, int]:
    """Return the first sample of a sound in its file, and one past the last."""
    if not isinstance(path, Segment):
        return 0, int(file.frames)
    if not 0 <= path.start < path.stop <= file.frames:
        raise AudioError(
            f"{path}: the file has {file.frames} samples; correct start and end, or run cpc manifest again"
        )
    return path.start, path.stop


def _why_unopened(path: Path, error: Exception) -> str:
    if path.is_dir():
        return "a folder, expected a sound file; to list the files in it run cpc manifest"
    if not path.exists():
        return "no such file; check the path, or run cpc manifest again if files moved"
    if not os.access(path, os.R_OK):
        return "permission denied; check its owner and mode"
    if path.stat().st_size == 0:
        return "empty, 0 bytes; copy or download it again"
    reason = str(error).rpartition("': ")[2].strip(" .")
    detail = f" ({reason})" if reason else ""
    return f"not a sound file that libsndfile can read{detail}; convert it to WAV or FLAC"


def _missing_bytes(file: _Stream, path: Sound) -> str:
    """Say what the container of a truncated file lacks, or "".

    This covers WAV, AIFF, AU, W64, RF64, SPHERE and Ogg, whose missing end libsndfile does not report. A truncated FLAC
    or MP3 fails while it is decoded, and a truncated CAF does not open.
    """
    if file.format == "NIST":
        with open(path, "rb") as raw:
            stated = re.search(rb"^sample_count -i (\d+)", raw.read(_SPHERE_HEADER_BYTES), re.M)
        if stated is None or int(stated[1]) <= file.frames:
            return ""
        return f"{file.frames} of {int(stated[1])} samples are there"
    if file.format == "OGG":
        with open(path, "rb") as raw:
            raw.seek(max(0, os.path.getsize(path) - (1 << 17)))  # two pages of maximum size
            tail = raw.read()
        page = tail[tail.rfind(b"OggS") :]
        complete = len(page) > 27 and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])
        return "" if complete and page[5] & 4 else "it does not end with an end-of-stream page"
    found = re.search(
        r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", file.extra_info, re.M
    )
    if found is None:
        return ""
    promised, present = int(found[1]), int(found[2])
    streamed = promised >= (1 << 31) - (1 << 16)  # a WAV written to a pipe states an endless length
    # Some writers count the header too (36 or 44 bytes); no sound is missing then.
    return "" if streamed or promised <= present + 64 else f"{present} of {promised} bytes are there"


def _check_rate(file: _Stream, path: Sound, sample_rate: int, resample: bool) -> None:
    if file.samplerate != sample_rate and not resample:
        raise AudioError(f"{path}: {file.samplerate} Hz, expected {sample_rate}; pass --audio.resample")


def _decode(file: _Stream, path: Sound, start: int, stop: int, piece_samples: int) -> Iterator[Waveform]:
    """Decode samples [start, stop) at the file's own rate, mono, `piece_samples` at a time."""
    position = 0
    try:
        if start and re.match(r"PCM_|FLOAT|DOUBLE|ULAW|ALAW", file.subtype):  # they seek exactly; FLAC's are PCM_*
            position = file.seek(start)
        while position < stop:
            skipping = position < start
            size = min(piece_samples, (start if skipping else stop) - position)
            frames: npt.NDArray[np.float32] = file.read(size, dtype="float32", always_2d=True)  # (size, channels)
            position += len(frames)
            if len(frames) < size:
                raise AudioError(
                    f"{path}: truncated, {position} samples decoded, its header says {file.frames}; "
                    "copy or download it again"
                )
            if skipping:
                continue
            waveform = frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1, dtype=np.float32)
            if not np.isfinite(waveform).all():
                bad = int(np.flatnonzero(~np.isfinite(waveform))[0])
                raise AudioError(
                    f"{path}: sample {position - size + bad} is {waveform[bad]}, expected a finite number; "
                    "repair or remove the file"
                )
            yield waveform
    except soundfile.SoundFileError as error:
        reason = str(error).strip(" .")
        raise AudioError(
            f"{path}: truncated or damaged, decoding failed near sample {position} of {file.frames}"
            f"{f' ({reason})' if reason else ''}; copy or download it again"
        ) from error


def _concatenate(pieces: Iterable[Waveform]) -> Waveform:
    return np.concatenate([np.empty(0, np.float32), *pieces])
