"""Every way of reading gives the samples of the decoded whole, or an error that names the file."""

import io
import math
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import soxr

from cpc.data import AudioError, audio_blocks, audio_statistics, encode_vorbis, normalise, num_resampled, read_audio
from cpc.data.audio import AudioInfo, audio_info

pytestmark = pytest.mark.filterwarnings("error")

RATES = [(8000, 16000), (44100, 16000), (22050, 16000), (48000, 16000), (11025, 16000), (16000, 8000), (44101, 16000)]
LOSSY = [("a.ogg", "VORBIS"), ("a.opus", "OPUS"), ("a.mp3", "MPEG_LAYER_III"), ("ima.wav", "IMA_ADPCM")]
EXACT = [
    ("a.wav", "PCM_16"),
    ("f.wav", "FLOAT"),
    ("a.flac", "PCM_16"),
    ("a.aiff", "PCM_24"),
    ("u.au", "ULAW"),
]


def noise(num_samples: int, *channels: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Return noise with a slow tone, so that a shift by one sample or one group shows."""
    rng = np.random.default_rng(seed)
    tone = 0.2 * np.sin(np.arange(num_samples) / 9)
    wave = tone.reshape(-1, *[1] * len(channels)) + 0.1 * rng.standard_normal((num_samples, *channels))
    return wave.clip(-1, 1).astype(np.float32)


def write(path: Path, wave: npt.NDArray[np.float32], rate: int, subtype: str | None = None) -> Path:
    soundfile.write(path, wave, rate, subtype=subtype, format="OGG" if path.suffix == ".opus" else None)
    return path


def whole(path: Path, rate: int) -> npt.NDArray[np.float32]:
    """Decode the whole file at once, average its channels and resample them at once: the oracle."""
    wave, source = soundfile.read(path, dtype="float32", always_2d=True)
    mono = wave.mean(1)
    if source == rate:
        return mono
    followed_by_silence = np.pad(mono, (0, source))
    return soxr.resample(followed_by_silence, source, rate)[: math.ceil(len(mono) * rate / source)]


@pytest.mark.parametrize(("source", "target"), RATES)
@pytest.mark.parametrize("num_samples", [1, 700, 150_011])
def test_blocks_and_slices_equal_the_whole_file_resampled_at_once(
    tmp_path: Path, source: int, target: int, num_samples: int
) -> None:
    path = write(tmp_path / "a.wav", noise(num_samples, seed=source), source, "FLOAT")
    expected = whole(path, target)
    assert len(expected) == num_resampled(num_samples, source, target)
    for block_samples in (997, 20480, 1 << 20):
        found = list(audio_blocks(path, sample_rate=target, resample=True, block_samples=block_samples))
        assert [len(block) for block in found[:-1]] == [block_samples] * (len(found) - 1)
        assert 0 < len(found[-1]) <= block_samples
        np.testing.assert_array_equal(np.concatenate(found), expected)
    rng = np.random.default_rng(1)
    for start, stop in [(0, None), (0, 1), *np.sort(rng.integers(0, len(expected) + 1, (12, 2))).tolist()]:
        found = read_audio(path, sample_rate=target, resample=True, start=start, stop=stop)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected[start:stop], atol=1e-6)


@pytest.mark.parametrize(("source", "target"), RATES)
def test_a_tone_is_the_same_tone_at_the_same_times_at_another_rate(tmp_path: Path, source: int, target: int) -> None:
    """And one above half the new rate leaves no alias."""
    low, high = 0.2 * min(source, target), 0.45 * source

    def tone(hertz: float, rate: int) -> npt.NDArray[np.float32]:
        return np.sin(2 * np.pi * hertz * np.arange(rate) / rate).astype(np.float32)

    def resampled(hertz: float) -> npt.NDArray[np.float32]:
        path = write(tmp_path / "a.wav", tone(hertz, source), source, "FLOAT")
        return read_audio(path, sample_rate=target, resample=True)[1000:-1000]  # the tone begins and ends abruptly

    np.testing.assert_allclose(resampled(low), tone(low, target)[1000:-1000], atol=1e-4)
    if high > 0.55 * target:
        assert np.abs(resampled(high)).max() < 1e-4


def test_a_long_file_has_the_exact_length() -> None:
    """The ceiling is taken in integers; in float32 it is off by one here."""
    num_samples = 441 * 100_000 + 1
    assert num_resampled(num_samples, 44100, 16000) == 16_000_001
    assert math.ceil(np.float32(160 * num_samples / 441)) == 16_000_000


@pytest.mark.parametrize(("name", "subtype"), EXACT + LOSSY)
def test_a_slice_is_the_slice_of_the_whole_decode(tmp_path: Path, name: str, subtype: str) -> None:
    path = write(tmp_path / name, noise(60_000), 16000, subtype)
    expected = whole(path, 16000)
    assert len(expected) == audio_info(path).num_samples
    for start in [1, *range(0, 59_001, 500)]:  # seeking fails at 26000 in the MP3, at 58000 in the Ogg
        found = read_audio(path, sample_rate=16000, start=start, stop=start + 900)
        np.testing.assert_allclose(found, expected[start : start + 900], atol=1e-6)


@pytest.mark.parametrize("block_samples", [100, 1000, 4096])
@pytest.mark.parametrize(("name", "subtype"), EXACT + LOSSY)
def test_the_block_length_does_not_change_a_sample(tmp_path: Path, name: str, subtype: str, block_samples: int) -> None:
    """soundfile's own reader fails this for an MP3, since it seeks between blocks."""
    path = write(tmp_path / name, noise(48_000), 16000, subtype)
    found = list(audio_blocks(path, sample_rate=16000, resample=False, block_samples=block_samples))
    np.testing.assert_allclose(np.concatenate(found), whole(path, 16000), atol=1e-6)


def test_stereo_is_the_mean_of_its_channels(tmp_path: Path) -> None:
    wave = noise(1000, 2)
    path = write(tmp_path / "a.wav", wave, 16000, "FLOAT")
    found = read_audio(path, sample_rate=16000)
    assert audio_info(path) == AudioInfo(1000, 16000, 2)
    np.testing.assert_allclose(found, (wave[:, 0] + wave[:, 1]) / 2, atol=1e-7)


def test_statistics_are_those_of_the_whole_resampled_file_in_float64(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", 0.01 * noise(200_000) + np.float32(0.5), 44100, "FLOAT")
    mean, std = audio_statistics(path, sample_rate=16000, resample=True)
    expected = whole(path, 16000).astype(np.float64)
    assert mean == pytest.approx(expected.mean(), rel=1e-6)
    assert std == pytest.approx(expected.std(), rel=1e-5)
    normal = normalise(read_audio(path, sample_rate=16000, resample=True), mean, std)
    assert normal.dtype == np.float32
    assert abs(normal.mean()) < 1e-3
    assert abs(normal.std() - 1) < 1e-3


@pytest.mark.parametrize("rate", [16000, 22050])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, rate: int) -> None:
    peaks = []
    for seconds in (20, 80):
        path = write(tmp_path / f"{seconds}.wav", np.tile(noise(rate), seconds), rate)
        audio_statistics(path, sample_rate=16000, resample=True)  # first, so that imports and filters are not measured
        tracemalloc.start()
        audio_statistics(path, sample_rate=16000, resample=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def _cut(path: Path, fraction: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])


@pytest.mark.parametrize("fraction", [0.5, 0.97])
@pytest.mark.parametrize(
    "name", ["a.wav", "a.flac", "a.ogg", "a.opus", "a.mp3", "a.aiff", "a.au", "a.w64", "a.caf", "a.rf64", "a.nist"]
)
def test_a_truncated_file_is_an_error(tmp_path: Path, name: str, fraction: float) -> None:
    """libsndfile raises for a FLAC, but returns the beginning of a WAV or an Ogg as if it were the whole."""
    path = write(tmp_path / name, noise(80_000), 16000)
    audio_statistics(path, sample_rate=16000, resample=False)
    _cut(path, fraction)
    with pytest.raises(AudioError, match=f"{name}: (truncated|not a sound file)"):
        audio_statistics(path, sample_rate=16000, resample=False)


def test_an_ogg_cut_between_pages_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ogg", noise(80_000), 16000)
    data = path.read_bytes()
    path.write_bytes(data[: data.rfind(b"OggS")])
    with pytest.raises(AudioError, match="end-of-stream"):
        audio_info(path)


def test_a_wav_written_to_a_pipe_is_read_whole(tmp_path: Path) -> None:
    """Its header says 2^32 - 1 bytes, since the writer could not go back to fill in the length."""
    path = write(tmp_path / "a.wav", noise(1000), 16000)
    data = bytearray(path.read_bytes())
    at = data.find(b"data")
    data[at + 4 : at + 8] = data[4:8] = b"\xff" * 4
    path.write_bytes(data)
    assert len(read_audio(path, sample_rate=16000)) == 1000


def _nan(path: Path) -> None:
    wave = noise(100_000)
    wave[70_000] = math.nan
    write(path, wave, 16000, "FLOAT")


def _infinite(path: Path) -> None:
    wave = noise(1000, 2)
    wave[7, 1] = -math.inf
    write(path, wave, 16000, "FLOAT")


def _flac_of_unknown_length(path: Path) -> None:
    write(path.with_suffix(".flac"), noise(1000), 16000)
    data = bytearray(path.with_suffix(".flac").read_bytes())
    data[21:26] = bytes([data[21] & 0xF0, 0, 0, 0, 0])
    path.write_bytes(data)


FAULTS: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: None, "no such file"),
    (lambda path: path.mkdir(), "a folder"),
    (lambda path: path.write_text("hello, I am no sound\n" * 50), "not a sound file"),
    (lambda path: path.touch(), "empty, 0 bytes"),
    (lambda path: write(path, noise(0), 16000), "no samples"),
    (lambda path: write(path, noise(800), 8000), "8000 Hz, expected 16000; pass --audio.resample"),
    (lambda path: write(path, np.zeros(800, np.float32), 16000), "silent, all 800 samples are 0"),
    (lambda path: write(path, np.full(800, 0.25, np.float32), 16000), "silent, all 800 samples are 0.25"),
    (_nan, "sample 70000 is nan"),
    (_infinite, "sample 7 is -inf"),
    (_flac_of_unknown_length, "its header does not state its length"),
]


@pytest.mark.parametrize(("make", "message"), FAULTS, ids=[message.split(";")[0] for _, message in FAULTS])
def test_an_unusable_file_is_one_line_that_names_it(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "a.wav"
    make(path)
    with pytest.raises(AudioError) as caught:
        audio_statistics(path, sample_rate=16000, resample=False)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (0, 1001), (6, 5)])
def test_a_slice_outside_the_file_is_an_error(tmp_path: Path, start: int, stop: int) -> None:
    path = write(tmp_path / "a.wav", noise(1000), 16000)
    with pytest.raises(AudioError, match="the file has"):
        read_audio(path, sample_rate=16000, start=start, stop=stop)


def test_a_named_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(AudioError, match=r"pipe.wav: a pipe or a device, expected a sound file"):
        audio_info(tmp_path / "pipe.wav")


@pytest.mark.parametrize("rate", [1, 499, 20_000_000])
def test_a_rate_that_no_recording_has_is_refused_before_it_is_resampled(tmp_path, rate):
    """A file of 48 kB that claims 1 Hz would become 13 hours."""
    soundfile.write(tmp_path / "a.wav", np.linspace(-0.5, 0.5, 2000), rate)
    with pytest.raises(AudioError, match=rf"a.wav: its header says {rate} Hz, expected 500 to"):
        read_audio(tmp_path / "a.wav", sample_rate=16000, resample=True)


@pytest.mark.parametrize("rate", [8000, 16_000, 48_000])
def test_what_is_encoded_for_browsers_keeps_its_length_and_each_sample_its_place(rate):
    """The correlation with the original is largest without a shift."""
    rng = np.random.default_rng(0)
    waveform = np.convolve(rng.standard_normal(rate), np.hanning(rate // 1000), mode="same").astype(np.float32)
    decoded, decoded_rate = soundfile.read(io.BytesIO(encode_vorbis(waveform, rate)), dtype="float32")
    assert (len(decoded), decoded_rate) == (rate, rate)
    assert np.abs(decoded).max() <= 1
    correlation = np.correlate(decoded, waveform[100:-100])  # shifts by 0 to 200 samples
    assert correlation.argmax() == 100
    silent, _ = soundfile.read(io.BytesIO(encode_vorbis(np.zeros(rate, np.float32), rate)))
    assert np.abs(silent).max() < 1e-3
