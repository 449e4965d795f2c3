"""The cache of decoded audio: exact where possible, resumable, never stale, never that of another corpus."""

import json
import pickle
import shutil

import numpy as np
import pytest
import soundfile
import torch

from cpc.data import CacheError, WindowOptions, Windows, read_audio, read_manifest, scan_folder, write_manifest
from cpc.files import ClaimError
from tests.conftest import make_corpus, without_file_hashes, write_sound


def windows_of(manifest, cache="", **options):
    return Windows(read_manifest(manifest), WindowOptions(window_samples=4000, cache=cache, **options))


def test_windows_from_the_cache_are_bitwise_those_from_16_bit_files(corpus, tmp_path):
    direct, cached = windows_of(corpus), windows_of(corpus, tmp_path / "cache")
    again = windows_of(corpus, tmp_path / "cache")  # opened, not built
    for index in range(len(direct)):
        assert torch.equal(direct[1, index].waveform, cached[1, index].waveform)
        assert torch.equal(direct[1, index].waveform, again[1, index].waveform)


def test_other_sources_are_rounded_to_16_bits_below_their_peak(tmp_path):
    """Quiet 24-bit sound, sound above full scale and resampled sound are within half a step of the peak's 16 bits."""
    rng = np.random.default_rng(0)
    sources = [("1-1-0", 1e-4, 16000, "PCM_24"), ("1-1-1", 3.0, 16000, "FLOAT"), ("1-1-2", 0.3, 8000, "PCM_16")]
    for name, level, rate, subtype in sources:
        path = tmp_path / f"1/1/{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, level * rng.uniform(-1, 1, 9000), rate, subtype=subtype)
    write_manifest(scan_folder(tmp_path, progress=False).manifest, tmp_path / "manifest.csv")
    options = dict(resample=True, normalise="none")
    direct = windows_of(tmp_path / "manifest.csv", **options)
    cached = windows_of(tmp_path / "manifest.csv", tmp_path / "cache", **options)
    for index in range(len(direct)):
        ours, theirs = cached[0, index].waveform, direct[0, index].waveform
        row = direct.span(0, index)[0]
        whole = read_audio(direct.manifest.audio_path(row), sample_rate=16000, resample=True)
        assert (ours - theirs).abs().max() <= 0.51 * np.abs(whole).max() / 32767


def test_an_interrupted_build_resumes_and_a_changed_file_is_read_again(tmp_path, monkeypatch):
    manifest = make_corpus(tmp_path / "corpus")
    write_manifest(without_file_hashes(manifest), manifest)
    read, decoded = read_audio, []

    def counts(path, **options):
        decoded.append(path)
        if len(decoded) == 4:
            raise KeyboardInterrupt
        return read(path, **options)

    monkeypatch.setattr("cpc.data.cache.read_audio", counts)
    with pytest.raises(KeyboardInterrupt):
        windows_of(manifest, tmp_path / "cache")
    windows_of(manifest, tmp_path / "cache")
    assert len(decoded) == 4 + 15 - 3  # the three that were whole are kept
    changed = read_manifest(manifest).audio_path(5)
    num_samples = soundfile.info(changed).frames
    write_sound(changed, num_samples / 16000, seed=99)
    cached = windows_of(manifest, tmp_path / "cache", normalise="none")
    assert decoded[16:] == [changed]
    row = next(i for i in range(len(cached)) if cached.span(0, i)[0] == 5)
    _, start, stop = cached.span(0, row)
    np.testing.assert_array_equal(cached[0, row].waveform, read(changed, sample_rate=16000)[start:stop])


def test_another_corpus_or_rate_or_a_folder_of_something_else_is_refused(corpus, tmp_path):
    windows_of(corpus, tmp_path / "cache")
    other = make_corpus(tmp_path / "other", speakers=2)
    with pytest.raises(ClaimError, match=r"cache: holds other decoded audio: utterances was \"\w+\", is \"\w+\"; pass"):
        windows_of(other, tmp_path / "cache")
    with pytest.raises(ClaimError, match=r"holds other decoded audio: sample_rate was 16000, is 8000; pass another"):
        windows_of(corpus, tmp_path / "cache", sample_rate=8000, resample=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ClaimError, match=r"mine: not empty, and holds no decoded audio \(no cache.json\)"):
        windows_of(corpus, tmp_path / "mine")


def test_a_cache_of_an_earlier_version_opens_without_decoding(corpus, tmp_path, monkeypatch):
    """Its cache.json has no key `complete`, and the keys stand in another order."""
    direct = windows_of(corpus, tmp_path / "cache")
    record = tmp_path / "cache" / "cache.json"
    written = json.loads(record.read_text())
    assert written.pop("complete") is True
    record.write_text(json.dumps({key: written[key] for key in ("utterances", "sample_rate")}))
    monkeypatch.setattr("cpc.data.cache.read_audio", None)
    assert torch.equal(windows_of(corpus, tmp_path / "cache")[0, 3].waveform, direct[0, 3].waveform)


def test_a_cache_interrupted_before_its_index_is_built_anew(corpus, tmp_path):
    """A call that ended while it reserved the space leaves a record and perhaps samples, but no index."""
    direct = windows_of(corpus, tmp_path / "cache")
    record = tmp_path / "cache" / "cache.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "complete": False}))
    (tmp_path / "cache" / "index.npy").unlink()
    (tmp_path / "cache" / "samples.int16").write_bytes(b"x")
    assert torch.equal(windows_of(corpus, tmp_path / "cache")[0, 3].waveform, direct[0, 3].waveform)
    assert json.loads(record.read_text())["complete"] is True


def test_a_full_disk_is_told_before_anything_is_written(corpus, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(CacheError, match=r"needs 0.00 GB, 0.00 GB are free"):
        windows_of(corpus, tmp_path / "cache")
    assert not any((tmp_path / "cache").iterdir())


def test_processes_that_read_audio_map_the_files_themselves(corpus, tmp_path):
    """The windows of a cache are small when pickled, and read the same samples."""
    cached = windows_of(corpus, tmp_path / "cache")
    pickled = pickle.dumps(cached)
    assert len(pickled) < (tmp_path / "cache" / "samples.int16").stat().st_size / 4
    assert torch.equal(pickle.loads(pickled)[3, 5].waveform, cached[3, 5].waveform)


def test_utterances_that_no_window_uses_are_not_read(tmp_path):
    """A short silent file is counted as skipped, with the cache as without."""
    manifest = make_corpus(tmp_path / "corpus", speakers=1)
    listed = read_manifest(manifest)
    soundfile.write(listed.audio_path(0), np.zeros(100), 16000)
    listed.table.loc[0, "num_samples"] = 100
    write_manifest(listed, manifest)
    for cache in ("", tmp_path / "cache"):
        assert windows_of(manifest, cache).num_skipped == 1


@pytest.mark.parametrize("name", ["index.npy", "samples.int16", "cache.json"])
def test_a_damaged_cache_is_told(corpus, tmp_path, name):
    windows_of(corpus, tmp_path / "cache")
    (tmp_path / "cache" / name).write_bytes(b"x")
    with pytest.raises((CacheError, ClaimError), match=r"damaged|not JSON"):
        windows_of(corpus, tmp_path / "cache")
