"""Batches: pure in (seed, epoch), of every composition, and honest about what they leave out."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from cpc.data import (
    BatchError,
    BatchSampler,
    Composition,
    WindowOptions,
    Windows,
    count_left_out,
    epoch_batches,
    read_manifest,
    scan_folder,
)
from cpc.data.batches import LeftOut
from tests.conftest import write_sound


def windows_of(corpus):
    return Windows(read_manifest(corpus), WindowOptions(window_samples=4000))


@pytest.mark.parametrize("kind", ["mixed", "by_speaker", "by_utterance"])
def test_an_epoch_holds_no_window_twice(corpus, kind):
    windows = windows_of(corpus)
    batches = epoch_batches(windows, 0, Composition(kind, num_windows=4, windows_per_group=2))
    dealt = np.concatenate(batches)
    assert len(set(dealt)) == len(dealt) > 0.7 * len(windows)
    assert {len(batch) for batch in batches} == {4}


@pytest.mark.parametrize("kind", ["by_speaker", "by_utterance"])
def test_grouped_batches_hold_s_keys_times_u_windows(corpus, kind):
    windows = windows_of(corpus)
    key = windows.speaker if kind == "by_speaker" else windows.utterance
    for epoch in range(3):
        for batch in epoch_batches(windows, epoch, Composition(kind, num_windows=6, windows_per_group=2)):
            _, counts = np.unique(key[batch], return_counts=True)
            assert counts.tolist() == [2, 2, 2]


def test_by_speaker_takes_different_utterances(corpus):
    """So that same_speaker_excl finds negatives in (nearly) every batch."""
    windows = windows_of(corpus)
    groups = [
        group
        for batch in epoch_batches(windows, 0, Composition("by_speaker", num_windows=6, windows_per_group=3))
        for group in batch.reshape(2, 3)
    ]
    assert sum(len(set(windows.utterance[g])) > 1 for g in groups) == len(groups)


def test_speakers_of_one_utterance_are_passed_over_where_every_group_needs_several(corpus):
    """In the dev split each speaker but the last has one utterance; then same_speaker_excl would have no negative."""
    manifest = read_manifest(corpus)
    rows = [s == manifest.speakers[-1] or s != before for before, s in itertools.pairwise(["", *manifest.speakers])]
    windows = Windows(manifest.keep(rows), WindowOptions(window_samples=4000))
    of_any = Composition("by_speaker", num_windows=4, windows_per_group=2)
    of_several = replace(of_any, several_utterances=True)
    loose, strict = (epoch_batches(windows, 0, how, shrink=True) for how in (of_any, of_several))
    assert {int(s) for batch in loose for s in windows.speaker[batch]} == {0, 1, 2}
    assert strict
    for batch in strict:
        for group in batch.reshape(-1, 2):
            assert len(set(windows.utterance[group])) == 2
    assert {int(s) for batch in strict for s in windows.speaker[batch]} == {2}
    left_out = count_left_out(windows, of_several, shrink=True)
    assert left_out.never == int((windows.speaker < 2).sum())
    assert str(left_out).endswith("fewer than batches.windows_per_group = 2 windows or only one utterance")


def test_batches_are_pure_and_epochs_differ(corpus):
    windows = windows_of(corpus)

    def deal(epoch, seed=0):
        batches = epoch_batches(windows, epoch, Composition("by_speaker", 4, 2, seed))
        return np.concatenate(batches).tolist()

    assert deal(0) == deal(0)
    assert deal(0) != deal(1)
    assert deal(0) != deal(0, seed=1)
    assert deal(0, seed=1) != deal(0, seed=2**32 + 1)


def test_the_sampler_goes_on_where_another_stopped(corpus):
    """Batches of updates a … b are the same whether one starts at 0 or at a, across epochs."""
    windows = windows_of(corpus)
    composition = Composition("mixed", num_windows=8, windows_per_group=2, seed=3)
    whole = list(BatchSampler(windows, composition, 0, 20))
    assert len(whole) == 20
    assert {epoch for batch in whole for epoch, _ in batch} >= {0, 1}
    assert list(BatchSampler(windows, composition, 13, 20)) == whole[13:]


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
        epoch_batches(windows_of(corpus), 0, Composition(kind, num_windows, per_group))


def test_windows_that_no_epoch_draws_are_counted(corpus):
    windows = windows_of(corpus)
    sizes = np.bincount(windows.utterance)
    left_out = count_left_out(windows, Composition("by_utterance", num_windows=6, windows_per_group=6))
    assert left_out.never == sizes[sizes < 6].sum() > 0
    assert f"{left_out.never} windows are never drawn: their utterance has fewer" in str(left_out)
    assert count_left_out(windows, Composition("mixed", num_windows=6)).never == 0


def test_the_windows_of_a_dominant_speaker_that_an_epoch_leaves_out_are_counted(tmp_path):
    """Each batch takes one group of each speaker, so the windows of a speaker with most of the audio wait."""
    for speaker, seconds in (("rare", 2), ("seldom", 2), ("often", 40)):
        write_sound(tmp_path / speaker / "1" / f"{speaker}.wav", seconds, 0)
    windows = Windows(scan_folder(tmp_path, progress=False).manifest, WindowOptions(window_samples=4000))
    composition = Composition("by_speaker", num_windows=6, windows_per_group=2)
    left_out = count_left_out(windows, composition)
    assert left_out == LeftOut(composition, 176, never=0, first_epoch=176 - 24, most="speaker often", num_most=152)
    assert str(left_out) == "epoch 0 draws 24 of 176 windows; speaker often loses the most, 152"
    for epoch in range(4):
        drawn = np.concatenate(epoch_batches(windows, epoch, composition))
        assert len(windows) - len(drawn) == left_out.first_epoch
    drawn = {int(i) for epoch in range(200) for batch in epoch_batches(windows, epoch, composition) for i in batch}
    assert len(drawn) == len(windows)  # none is left out for ever


def test_a_mixed_epoch_leaves_out_the_rest_of_its_last_batch(corpus):
    windows = windows_of(corpus)
    left_out = count_left_out(windows, Composition("mixed", num_windows=8))
    assert (left_out.first_epoch, left_out.most) == (len(windows) % 8, "")
    assert left_out.first_epoch > 0


def test_nothing_is_left_out_where_batches_shrink_to_a_divisor(corpus):
    """Groups shrink for small dev splits, and the count follows: what the smaller groups draw is not left out."""
    manifest = read_manifest(corpus)
    windows = Windows(manifest.keep(np.arange(len(manifest)) == 0), WindowOptions(window_samples=4000))
    composition = Composition("by_utterance", num_windows=64, windows_per_group=32)
    assert count_left_out(windows, composition, shrink=True).first_epoch == 0
