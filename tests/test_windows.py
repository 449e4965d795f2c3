"""Windows: a pure function of (seed, epoch, index), never across a file, normalised by whole utterances."""

import itertools

import numpy as np
import pytest
import torch

from cpc.data import (
    AudioError,
    Manifest,
    ManifestError,
    WindowOptions,
    Windows,
    collate,
    read_audio,
    read_manifest,
    scan_folder,
)
from cpc.data.audio import _decode
from tests.conftest import make_corpus, write_sound


def windows_of(corpus, *, window_samples=4000, **options):
    return Windows(read_manifest(corpus), WindowOptions(window_samples=window_samples, **options))


def test_windows_never_cross_a_file_and_are_end_to_end(corpus):
    """In each epoch an utterance of L samples gives L // W windows inside it that do not overlap."""
    windows = windows_of(corpus)
    for epoch in range(3):
        spans = [windows.span(epoch, i) for i in range(len(windows))]
        for row, length in enumerate(windows.num_samples):
            mine = sorted((start, stop) for r, start, stop in spans if r == row)
            assert len(mine) == length // 4000
            assert mine[0][0] >= 0
            assert mine[-1][1] <= length
            assert all(stop - start == 4000 for start, stop in mine)
            assert all(a[1] == b[0] for a, b in itertools.pairwise(mine))


def test_a_window_is_a_pure_function_of_seed_epoch_and_index(corpus):
    """The samples are bitwise the same whatever was read before, from memory or from the file."""
    cached, uncached = windows_of(corpus, cache_megabytes=100), windows_of(corpus)
    items = [(e, i) for e in (0, 3) for i in range(0, len(cached), 5)]
    first = {item: cached[item].waveform for item in items}
    for item in reversed(items):
        assert torch.equal(uncached[item].waveform, first[item])
        assert torch.equal(cached[item].waveform, first[item])
    other = windows_of(corpus, seed=1)
    assert any(cached.span(0, i) != other.span(0, i) for i in range(len(cached)))
    assert any(cached.span(0, i) != cached.span(1, i) for i in range(len(cached)))


def test_normalisation_is_by_the_whole_utterance(corpus):
    """A window is a slice of the normalised file, not a normalised slice."""
    windows = windows_of(corpus)
    row, start, stop = windows.span(2, 7)
    whole = read_audio(windows.manifest.audio_path(row), sample_rate=16000).astype(np.float64)
    whole = (whole - whole.mean()) / whole.std()
    np.testing.assert_allclose(windows[2, 7].waveform.numpy(), whole[start:stop], atol=1e-4)
    raw = windows_of(corpus, normalise="none")[2, 7].waveform.numpy()
    np.testing.assert_array_equal(raw, read_audio(windows.manifest.audio_path(row), sample_rate=16000)[start:stop])


@pytest.mark.parametrize("cache_megabytes", [0, 100])
def test_a_file_is_decoded_once_for_its_statistics_and_its_first_window(corpus, monkeypatch, cache_megabytes):
    """A file that is too long for that is measured piece by piece first, and gives the same bits."""
    monkeypatch.setattr("cpc.data.audio._PIECE_SAMPLES", 5000)
    decoded, decode = [], _decode

    def count(file, path, *options):
        decoded.append(path)
        return decode(file, path, *options)

    monkeypatch.setattr("cpc.data.audio._decode", count)
    whole = windows_of(corpus, cache_megabytes=cache_megabytes)
    first = [int(i) for i in np.unique(whole.utterance, return_index=True)[1]]
    ours = [whole[0, i].waveform for i in first]
    assert len(decoded) == len(first)
    monkeypatch.setattr("cpc.data.windows._DECODED_ONCE_BYTES", 0)
    pieces = windows_of(corpus)
    for i, waveform in zip(first, ours, strict=True):
        assert torch.equal(pieces[0, i].waveform, waveform)
    assert len(decoded) == 3 * len(first)
    assert whole._statistics == pieces._statistics


def test_short_utterances_are_skipped_and_counted_or_padded(corpus):
    manifest = read_manifest(corpus)
    skipping = Windows(manifest, WindowOptions(window_samples=20480))
    assert skipping.num_skipped == (manifest.num_samples < 20480).sum() > 0
    assert set(skipping.utterance) == set(np.flatnonzero(manifest.num_samples >= 20480))
    padding = Windows(manifest, WindowOptions(window_samples=20480, short="pad"))
    assert padding.num_skipped == 0
    short = int(np.flatnonzero(manifest.num_samples < 20480)[0])
    window = padding[0, int(np.flatnonzero(padding.utterance == short)[0])]
    assert window.num_samples == manifest.num_samples[short]
    assert not window.waveform[window.num_samples :].any()
    assert window.waveform[: window.num_samples].any()


def test_utterances_too_short_for_one_anchor_are_left_out_even_when_padding(corpus):
    windows = Windows(read_manifest(corpus), WindowOptions(window_samples=20480, short="pad", min_samples=17000))
    assert windows.num_skipped == (windows.num_samples < 17000).sum() > 0


def test_no_utterance_long_enough_is_an_error(corpus):
    with pytest.raises(ManifestError, match=r"none of 15 utterances is long enough.*pass --data\.short pad"):
        Windows(read_manifest(corpus), WindowOptions(window_samples=10**6))


def test_another_rate_is_an_error_unless_resampled(tmp_path):
    corpus = make_corpus(tmp_path, speakers=1, utterances=3, rate=8000)
    with pytest.raises(AudioError, match=r"8000 Hz, expected 16000; pass --audio\.resample"):
        windows_of(corpus)
    windows = windows_of(corpus, resample=True)
    row, start, stop = windows.span(0, 1)
    whole = read_audio(windows.manifest.audio_path(row), sample_rate=16000, resample=True)
    assert len(whole) == windows.num_samples[row]
    np.testing.assert_allclose(
        windows[0, 1].waveform.numpy(), ((whole - whole.mean()) / whole.std())[start:stop], atol=1e-4
    )


def test_the_share_of_epochs_that_show_a_sample_is_as_documented(tmp_path):
    """Sample s of L is in a window of an epoch with probability min(s + 1, L − s, R + 1) / (R + 1), R = L mod W."""
    write_sound(tmp_path / "1/1/a.wav", 0.05, 0)  # 800 samples: 2 windows of 300, R = 200
    write_sound(tmp_path / "1/1/b.wav", 0.04, 0)  # 640 samples: 2 windows, R = 40
    write_sound(tmp_path / "1/1/c.wav", 0.0375, 0)  # 600 samples: 2 windows, R = 0
    windows = Windows(scan_folder(tmp_path, progress=False).manifest, WindowOptions(window_samples=300))
    num_epochs, lengths = 4000, [800, 640, 600]
    assert windows.num_samples.tolist() == lengths
    seen = [np.zeros(length) for length in lengths]
    for epoch in range(num_epochs):
        for i in range(len(windows)):
            row, start, stop = windows.span(epoch, i)
            seen[row][start:stop] += 1
    for length, times in zip(lengths, seen, strict=True):
        s, rest = np.arange(length), length % 300
        share = np.minimum(np.minimum(s + 1, length - s), rest + 1) / (rest + 1)
        assert np.abs(times / num_epochs - share).max() < 0.04  # five standard deviations at most
        assert (times == num_epochs)[share == 1].all()


def test_a_padded_utterance_is_seen_whole_in_every_epoch(corpus):
    windows = windows_of(corpus, window_samples=10**6, short="pad")
    assert {windows.span(epoch, 3) for epoch in range(5)} == {(3, 0, int(windows.num_samples[3]))}


def test_targets_are_asked_for_by_row_first_sample_and_length_and_are_stacked(corpus):
    """They come with the window and, stacked to (B, T), with the batch; without them both are None."""
    asked = []

    def targets(row, start, num_samples):
        asked.append((row, start, num_samples))
        return np.array([row, start, num_samples])

    options = WindowOptions(window_samples=20480, short="pad")
    windows = Windows(read_manifest(corpus), options, targets)
    batch = collate([windows[0, i] for i in (0, 7)])
    spans = [windows.span(0, i) for i in (0, 7)]
    assert asked == [(row, start, stop - start) for row, start, stop in spans]
    assert batch.targets.dtype == torch.int64
    assert batch.targets.tolist() == [list(a) for a in asked]
    without = Windows(read_manifest(corpus), options)
    assert without[0, 0].targets is None
    assert collate([without[0, 0]]).targets is None


def test_seeds_beyond_32_bits_work(corpus):
    small, large = windows_of(corpus, seed=1), windows_of(corpus, seed=2**32 + 1)
    assert any(small.span(0, i) != large.span(0, i) for i in range(len(small)))


def test_collate_stacks(corpus):
    windows = windows_of(corpus)
    batch = collate([windows[0, 0], windows[0, 9]])
    assert batch.waveforms.shape == (2, 4000)
    assert batch.utterance == [int(windows.utterance[0]), int(windows.utterance[9])]
    assert batch.speaker == [int(windows.speaker[0]), int(windows.speaker[9])]


@pytest.mark.parametrize(("column", "value"), [("num_samples", 9000), ("sample_rate", 8000)])
def test_a_manifest_that_does_not_fit_the_files_is_refused_at_the_first_window(tmp_path, column, value):
    """Fewer samples than the file has would pass unseen, and so would one wrong rate for all rows."""
    manifest = read_manifest(make_corpus(tmp_path, speakers=1, utterances=3))
    wrong = Manifest(manifest.root, manifest.table.assign(**{column: value}))
    windows = Windows(wrong, WindowOptions(window_samples=4000, resample=True))
    with pytest.raises(AudioError, match=r"flac: \d+ samples at 16000 Hz, the manifest says \d+ at \d+; run `cpc mani"):
        windows[0, 0]
