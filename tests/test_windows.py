"""Windows and batches: pure, never across a file, whole utterance statistics, every composition."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from cpc.data import (
    AudioError,
    BatchError,
    BatchSampler,
    Manifest,
    ManifestError,
    Windows,
    collate,
    epoch_batches,
    num_left_out,
    read_audio,
    read_manifest,
)
from cpc.data.audio import _open
from tests.conftest import make_corpus


def windows_of(corpus, **options):
    return Windows(read_manifest(corpus), window_samples=4000, **options)


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
    """Whatever was read before, from memory or from the file, the samples are bitwise the same."""
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
    """The window is the slice of the normalised file, not a normalised slice."""
    windows = windows_of(corpus)
    row, start, stop = windows.span(2, 7)
    whole = read_audio(windows.manifest.audio_path(row), sample_rate=16000).astype(np.float64)
    whole = (whole - whole.mean()) / whole.std()
    np.testing.assert_allclose(windows[2, 7].waveform.numpy(), whole[start:stop], atol=1e-4)
    raw = windows_of(corpus, normalise="none")[2, 7].waveform.numpy()
    np.testing.assert_array_equal(raw, read_audio(windows.manifest.audio_path(row), sample_rate=16000)[start:stop])


@pytest.mark.parametrize("cache_megabytes", [0, 100])
def test_a_file_is_decoded_once_for_its_statistics_and_its_first_window(corpus, monkeypatch, cache_megabytes):
    """And to the same bits as one that is too long for that, which is measured piece by piece first."""
    monkeypatch.setattr("cpc.data.audio._PIECE_SAMPLES", 5000)
    opened, open_ = [], _open

    def count(path):
        opened.append(path)
        return open_(path)

    monkeypatch.setattr("cpc.data.audio._open", count)
    whole = windows_of(corpus, cache_megabytes=cache_megabytes)
    first = [int(i) for i in np.unique(whole.utterance, return_index=True)[1]]
    ours = [whole[0, i].waveform for i in first]
    assert len(opened) == len(first)
    monkeypatch.setattr("cpc.data.windows._DECODED_ONCE_BYTES", 0)
    pieces = windows_of(corpus)
    for i, waveform in zip(first, ours, strict=True):
        assert torch.equal(pieces[0, i].waveform, waveform)
    assert len(opened) == 3 * len(first)
    assert whole._statistics == pieces._statistics


def test_short_utterances_are_skipped_and_counted_or_padded(corpus):
    table = read_manifest(corpus)
    skipping = Windows(table, window_samples=20480)
    assert skipping.num_skipped == (table.table["num_samples"] < 20480).sum() > 0
    assert set(skipping.utterance) == set(np.flatnonzero(table.table["num_samples"] >= 20480))
    padding = Windows(table, window_samples=20480, short="pad")
    assert padding.num_skipped == 0
    short = int(np.flatnonzero(table.table["num_samples"] < 20480)[0])
    window = padding[0, int(np.flatnonzero(padding.utterance == short)[0])]
    assert window.num_samples == table.table["num_samples"].iloc[short]
    assert not window.waveform[window.num_samples :].any()
    assert window.waveform[: window.num_samples].any()


def test_utterances_too_short_for_one_anchor_are_left_out_even_when_padding(corpus):
    windows = Windows(read_manifest(corpus), window_samples=20480, short="pad", min_samples=17000)
    assert windows.num_skipped == (windows.num_samples < 17000).sum() > 0


def test_no_utterance_long_enough_is_an_error(corpus):
    with pytest.raises(ManifestError, match=r"none of 15 utterances is long enough.*pass --data\.short pad"):
        Windows(read_manifest(corpus), window_samples=10**6)


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


@pytest.mark.parametrize("kind", ["mixed", "by_speaker", "by_utterance"])
def test_an_epoch_holds_no_window_twice(corpus, kind):
    windows = windows_of(corpus)
    batches = epoch_batches(windows, 0, kind=kind, num_windows=4, windows_per_group=2)
    dealt = np.concatenate(batches)
    assert len(set(dealt)) == len(dealt) > 0.7 * len(windows)
    assert {len(batch) for batch in batches} == {4}


@pytest.mark.parametrize("kind", ["by_speaker", "by_utterance"])
def test_grouped_batches_hold_s_keys_times_u_windows(corpus, kind):
    windows = windows_of(corpus)
    key = windows.speaker if kind == "by_speaker" else windows.utterance
    for epoch in range(3):
        for batch in epoch_batches(windows, epoch, kind=kind, num_windows=6, windows_per_group=2):
            _, counts = np.unique(key[batch], return_counts=True)
            assert counts.tolist() == [2, 2, 2]


def test_by_speaker_takes_different_utterances(corpus):
    """So that same_speaker_excl finds negatives in (nearly) every batch."""
    windows = windows_of(corpus)
    groups = [
        group
        for batch in epoch_batches(windows, 0, kind="by_speaker", num_windows=6, windows_per_group=3)
        for group in batch.reshape(2, 3)
    ]
    assert sum(len(set(windows.utterance[g])) > 1 for g in groups) == len(groups)


def test_speakers_of_one_utterance_are_passed_over_where_every_group_needs_several(corpus):
    """In the dev split each speaker but the last has one utterance; then same_speaker_excl would have no negative."""
    table = read_manifest(corpus).table
    one_each = table.groupby("speaker").head(1)
    rest = table[table["speaker"] == table["speaker"].iloc[-1]]
    mixed = Manifest(read_manifest(corpus).root, pd.concat([one_each.iloc[:-1], rest], ignore_index=True))
    windows = Windows(mixed, window_samples=4000)
    how = {"kind": "by_speaker", "num_windows": 4, "windows_per_group": 2, "shrink": True}
    loose, strict = (epoch_batches(windows, 0, **how, several_utterances=several) for several in (False, True))
    assert {int(s) for batch in loose for s in windows.speaker[batch]} == {0, 1, 2}
    assert strict
    for batch in strict:
        for group in batch.reshape(-1, 2):
            assert len(set(windows.utterance[group])) == 2
    assert {int(s) for batch in strict for s in windows.speaker[batch]} == {2}
    assert num_left_out(windows, "by_speaker", 2, several_utterances=True) == int((windows.speaker < 2).sum())


def test_batches_are_pure_and_epochs_differ(corpus):
    windows = windows_of(corpus)

    def deal(epoch, seed=0):
        batches = epoch_batches(windows, epoch, kind="by_speaker", num_windows=4, windows_per_group=2, seed=seed)
        return np.concatenate(batches).tolist()

    assert deal(0) == deal(0)
    assert deal(0) != deal(1)
    assert deal(0) != deal(0, seed=1)


def test_the_sampler_goes_on_where_another_stopped(corpus):
    """Batches of updates a … b are the same whether one starts at 0 or at a, across epochs."""
    windows = windows_of(corpus)
    options = {"kind": "mixed", "num_windows": 8, "windows_per_group": 2, "seed": 3}
    whole = list(BatchSampler(windows, 0, 20, **options))
    assert len(whole) == 20
    assert {epoch for batch in whole for epoch, _ in batch} >= {0, 1}
    assert list(BatchSampler(windows, 13, 20, **options)) == whole[13:]


@pytest.mark.parametrize(
    ("kind", "num_windows", "per_group", "message"),
    [
        ("mixed", 1000, 1, "do not fill one batch of 1000"),
        ("by_speaker", 12, 2, "3 speakers have 2 windows or more, a batch of 12 needs 6"),
        ("by_speaker", 5, 2, "5 windows do not divide into groups of 2"),
        ("by_utterance", 64, 8, "utterances have 8 windows or more, a batch of 64 needs 8"),
    ],
)
def test_a_batch_that_cannot_be_filled_is_an_error(corpus, kind, num_windows, per_group, message):
    with pytest.raises(BatchError, match=message):
        epoch_batches(windows_of(corpus), 0, kind=kind, num_windows=num_windows, windows_per_group=per_group)


def test_windows_that_no_epoch_draws_are_counted(corpus):
    windows = windows_of(corpus)
    sizes = np.bincount(windows.utterance)
    assert num_left_out(windows, "by_utterance", 6) == sizes[sizes < 6].sum() > 0
    assert num_left_out(windows, "mixed", 6) == 0


def test_collate_stacks(corpus):
    windows = windows_of(corpus)
    batch = collate([windows[0, 0], windows[0, 9]])
    assert batch.waveforms.shape == (2, 4000)
    assert batch.utterance == [int(windows.utterance[0]), int(windows.utterance[9])]
    assert batch.speaker == [int(windows.speaker[0]), int(windows.speaker[9])]
