"""Augmentation: each operation does what its numbers say, and a window's copy depends on nothing but its seed."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.signal
import torch
from torch.utils.data import DataLoader

from cpc.config import AugmentConfig, Config, ConfigError, check_config, config_identity, read_config, write_config
from cpc.data import Augmentation, BatchSampler, Composition, WindowOptions, Windows, collate, read_manifest
from cpc.data.augment import add_noise, filter_channel, reverberate, shift_pitch, stretch
from cpc.model import Geometry
from cpc.train.setup import build_data
from tests.conftest import tiny_config

RATE = 16000
ALL = AugmentConfig(pitch=1, reverb=1, noise=1, channel=1)


def white(num_samples=20480, seed=0):
    return np.random.default_rng(seed).standard_normal(num_samples).astype(np.float32)


def sine(frequency, num_samples=20480):
    return np.sin(2 * np.pi * frequency * np.arange(num_samples) / RATE).astype(np.float32)


def energy(waveform):
    return float(np.square(waveform, dtype=np.float64).sum())


def decibels(ratio):
    return 10 * np.log10(ratio)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 12.5])
def test_noise_has_the_ratio_that_was_drawn(snr_db):
    clean = sine(300)
    config = AugmentConfig(noise=1, snr_db=(snr_db, snr_db))
    noise = Augmentation(config, RATE)(clean, (3,)).astype(np.float64) - clean
    assert decibels(energy(clean) / energy(noise)) == pytest.approx(snr_db, abs=0.01)


@pytest.mark.parametrize("slope_db", [-6.0, -3.0, 0.0, 3.0])
def test_the_noises_power_changes_by_so_many_decibels_an_octave(slope_db):
    clean = sine(300, 2**18)
    noise = add_noise(clean, 0.0, slope_db, RATE, np.random.default_rng(0)) - clean
    power = np.square(np.abs(np.fft.rfft(noise)))
    hertz = np.fft.rfftfreq(len(noise), 1 / RATE)
    octaves = [power[(low <= hertz) & (hertz < 2 * low)].mean() for low in (125, 250, 500, 1000, 2000, 4000)]
    assert np.diff(decibels(np.array(octaves))) == pytest.approx(slope_db, abs=0.5)


@pytest.mark.parametrize("rt60_seconds", [0.2, 0.7])
def test_reverberation_decays_by_60_db_in_rt60(rt60_seconds):
    """Schroeder's backward integral of an impulse's reverberation falls along a line of that slope."""
    impulse = np.zeros(RATE, np.float32)
    impulse[0] = 1
    tail = reverberate(impulse, rt60_seconds, 0.0, RATE, np.random.default_rng(0))[1:]
    left = np.cumsum(np.square(tail[::-1], dtype=np.float64))[::-1]
    curve = decibels(left[left > 0] / left[0])
    chosen = (curve < -5) & (curve > -35)
    slope = np.polyfit(np.flatnonzero(chosen) / RATE, curve[chosen], 1)[0]  # dB a second
    assert -60 / slope == pytest.approx(rt60_seconds, rel=0.05)
    assert np.abs(tail[round(rt60_seconds * RATE) :]).max() < 1e-6


@pytest.mark.parametrize("ratio_db", [-3.0, 6.0])
def test_the_direct_sound_has_the_ratio_to_the_reverberation_that_was_drawn(ratio_db):
    impulse = np.zeros(RATE, np.float32)
    impulse[1000] = 1
    heard = reverberate(impulse, 0.3, ratio_db, RATE, np.random.default_rng(0))
    assert np.abs(heard[:1000]).max() < 1e-6  # nothing sounds before its cause
    assert decibels(energy(heard[1000:1001]) / energy(heard[1001:])) == pytest.approx(ratio_db, abs=0.01)
    assert energy(heard) == pytest.approx(1)


def test_a_channel_stays_within_its_gains_and_is_causal():
    """The measured response goes through the gains that were asked for, and nothing sounds before its cause."""
    gains = np.random.default_rng(1).uniform(-6, 6, 8)
    impulse = np.zeros(RATE, np.float32)
    impulse[500] = 1
    heard = filter_channel(impulse, gains, RATE)
    assert np.abs(heard[:500]).max() < 1e-6
    response = decibels(np.square(np.abs(np.fft.rfft(heard))))
    assert gains.min() - 0.1 < response.min() < response.max() < gains.max() + 0.1
    mel = np.linspace(0, np.log1p(RATE / 2 / 700), 8)
    hertz = 700 * np.expm1(mel)
    assert response[np.rint(hertz).astype(int)] == pytest.approx(gains, abs=0.3)  # bins are 1 Hz apart


def test_white_noise_changes_by_at_most_the_channels_decibels_in_every_band():
    config = AugmentConfig(channel=1, channel_db=4.0)
    for seed in range(5):
        clean = white(2**16, seed)
        heard = Augmentation(config, RATE)(clean, (seed,))
        before, after = (np.square(np.abs(np.fft.rfft(x)))[1:].reshape(64, -1).sum(1) for x in (clean, heard))
        assert np.abs(decibels(after / before)).max() < 4.2


@pytest.mark.parametrize("cents", [-300.0, -110.0, 50.0, 300.0])
@pytest.mark.parametrize("frequency", [90, 440, 2000])
def test_pitch_moves_a_sine_by_the_cents_that_were_drawn(cents, frequency):
    config = AugmentConfig(pitch=1, pitch_cents=(cents, cents))
    shifted = Augmentation(config, RATE)(sine(frequency), (0,))
    spectrum = np.abs(np.fft.rfft(shifted * np.hanning(len(shifted)), 2**19))
    found = spectrum.argmax() * RATE / 2**19
    assert 1200 * np.log2(found / frequency) == pytest.approx(cents, abs=5)  # the ratio is rounded to n / 200
    assert decibels(energy(shifted) / energy(sine(frequency))) == pytest.approx(0, abs=0.5)


@pytest.mark.parametrize("cents", [-300.0, -150.0, 80.0, 300.0])
def test_pitch_moves_no_sound_by_more_than_10_ms(cents):
    """So c hears at most one step of the future: silence stays silent up to there, and sound stays sound."""
    for begin in range(8000, 8400, 50):
        clean = white()
        clean[:begin] = clean[begin + 4000 :] = 0
        shifted = np.abs(shift_pitch(clean, cents, RATE))
        margin = 160 + 10  # of 10 ms, and of the resampling filter
        assert shifted[: begin - margin].max() < 1e-6
        assert shifted[begin + 4000 + margin :].max() < 1e-6
        inside = shifted[begin + margin : begin + 4000 - margin]
        assert inside[: len(inside) // 64 * 64].reshape(-1, 64).max(1).min() > 0.5


def stretch_by_a_loop(waveform, factor, sample_rate):
    """WSOLA frame by frame, with the energies of one search at a time."""
    hop, reach = round(0.01 * sample_rate), round(0.008 * sample_rate)
    size, num_samples = 2 * hop, math.ceil(len(waveform) * factor)
    num_frames = math.ceil(num_samples / hop) + 1
    window = scipy.signal.get_window("hann", size).astype(np.float32)
    before, after = hop + reach, math.ceil(num_frames * hop / factor) + size + hop + reach
    padded = np.pad(waveform, (before, max(0, after - len(waveform))))
    result, start = np.zeros((num_frames + 1) * hop, np.float32), reach
    for i in range(num_frames):
        if i:
            lowest = round(i * hop / factor)
            following = padded[start + hop : start + hop + size]
            candidates = [padded[lowest + lag : lowest + lag + size] for lag in range(2 * reach + 1)]
            energies = [max(1e-12, float(np.square(one, dtype=np.float64).sum())) for one in candidates]
            similar = [one @ following / np.sqrt(energy) for one, energy in zip(candidates, energies, strict=True)]
            start = lowest + int(np.argmax(similar))
        result[i * hop : i * hop + size] += window * padded[start : start + size]
    return result[hop : hop + num_samples]


@pytest.mark.parametrize("factor", [0.85, 1.03, 1.2])
def test_stretching_equals_a_loop(factor):
    waveform = np.random.default_rng(0).standard_normal(6000).astype(np.float32)
    assert np.array_equal(stretch(waveform, factor, RATE), stretch_by_a_loop(waveform, factor, RATE))


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_stretched_sound_keeps_its_periods_and_changes_its_length(factor):
    slow = stretch(sine(250), factor, RATE)
    assert len(slow) == np.ceil(20480 * factor)
    crossings = np.flatnonzero((slow[:-1] < 0) & (slow[1:] >= 0))
    assert np.diff(crossings).min() > 55  # the period is 64 samples, and no jump breaks it
    assert np.diff(crossings).max() < 73


def test_the_energy_stays_in_range():
    """Pitch and reverberation keep the level of noise, added noise adds its share, a channel its decibels at most."""
    clean = white()
    for config, low, high in [
        (AugmentConfig(pitch=1), -2, 0.5),
        (AugmentConfig(reverb=1), -1, 1),
        (AugmentConfig(noise=1, snr_db=(0, 0)), 2.9, 3.1),
        (AugmentConfig(channel=1, channel_db=6), -6.1, 6.1),
    ]:
        levels = [decibels(energy(Augmentation(config, RATE)(clean, (i,))) / energy(clean)) for i in range(20)]
        assert low < min(levels)
        assert max(levels) < high


@pytest.mark.parametrize("num_samples", [1, 2, 100, 500, 20480])
def test_any_length_gives_that_length_and_silence_stays_silence(num_samples):
    augment = Augmentation(ALL, RATE)
    for seed in range(3):
        copy = augment(white(num_samples), (seed,))
        assert copy.shape == (num_samples,)
        assert copy.dtype == np.float32
        assert np.isfinite(copy).all()
        assert not augment(np.zeros(num_samples, np.float32), (seed,)).any()


def test_operations_are_drawn_as_often_as_asked_and_independently():
    """Switching one on does not change what another draws."""
    clean = white(2000)
    noisy, both = AugmentConfig(noise=0.25), AugmentConfig(noise=0.25, pitch=1, pitch_cents=(0, 0))
    changed = [not np.array_equal(Augmentation(noisy, RATE)(clean, (i,)), clean) for i in range(800)]
    assert np.mean(changed) == pytest.approx(0.25, abs=0.06)  # four standard deviations
    for i in range(20):
        a, b = Augmentation(noisy, RATE)(clean, (i,)), Augmentation(both, RATE)(clean, (i,))
        np.testing.assert_array_equal(a, b)  # a pitch shifted by 0 cents is the same


def augmented(corpus, config=ALL, *, window_samples=4000, **options):
    return Windows(read_manifest(corpus), WindowOptions(window_samples=window_samples, augment=config, **options))


def test_a_copy_is_a_pure_function_of_seed_epoch_and_index(corpus):
    """It is bitwise the same after a resume, in any order and with any number of threads."""
    windows, again = augmented(corpus), augmented(corpus)
    items = [(e, i) for e in (0, 1) for i in range(0, len(windows), 9)]
    first = {item: windows[item].past for item in items}
    num_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert all(torch.equal(again[item].past, first[item]) for item in reversed(items))
    finally:
        torch.set_num_threads(num_threads)


def test_other_epochs_windows_and_seeds_have_other_copies(corpus):
    """Even of the same samples."""
    # A padded utterance is seen whole in every epoch.
    windows, other = (augmented(corpus, window_samples=10**5, short="pad", seed=seed) for seed in (0, 1))
    assert torch.equal(windows[0, 3].waveform, windows[1, 3].waveform)
    assert not torch.equal(windows[0, 3].past, windows[1, 3].past)
    assert not torch.equal(windows[0, 3].past, other[0, 3].past)
    clean, augment = white(4000), Augmentation(ALL, RATE)
    assert not np.array_equal(augment(clean, (0, 0, 1)), augment(clean, (0, 1, 0)))


def test_workers_load_the_same_copies(corpus):
    windows = augmented(corpus)
    sampler = BatchSampler(windows, Composition("mixed", 4), 0, 3)
    batches = [
        list(DataLoader(windows, batch_sampler=sampler, collate_fn=collate, num_workers=workers)) for workers in (0, 2)
    ]
    assert len(batches[0]) == 3
    for ours, theirs in zip(*batches, strict=True):
        assert ours.past.shape == (4, 4000)
        assert torch.equal(ours.past, theirs.past)
        assert torch.equal(ours.waveforms, theirs.waveforms)


def test_ranks_get_the_copies_that_one_process_gets(corpus):
    windows = augmented(corpus)
    alone = list(BatchSampler(windows, Composition("mixed", 4), 0, 4))
    ranks = [list(BatchSampler(windows, Composition("mixed", 4), 0, 2, rank=r, num_ranks=2)) for r in (0, 1)]
    assert [batch for pair in zip(*ranks, strict=True) for batch in pair] == alone
    assert torch.equal(windows[ranks[1][0][2]].past, augmented(corpus)[alone[1][2]].past)


def test_without_augmentation_windows_have_no_copy_and_with_it_they_stay_clean(corpus):
    plain = Windows(read_manifest(corpus), WindowOptions(window_samples=4000))
    off = augmented(corpus, AugmentConfig(snr_db=(0, 1)))
    on = augmented(corpus)
    for item in [(0, 0), (2, 11)]:
        assert plain[item].past is None
        assert off[item].past is None
        assert torch.equal(plain[item].waveform, off[item].waveform)
        assert torch.equal(plain[item].waveform, on[item].waveform)
        assert not torch.equal(on[item].past, on[item].waveform)
    assert collate([plain[0, 0], plain[0, 1]]).past is None
    assert torch.equal(collate([on[0, 0], on[0, 1]]).past, torch.stack([on[0, 0].past, on[0, 1].past]))


def test_a_window_for_which_nothing_is_drawn_is_its_own_copy(corpus):
    """So that every window of a batch has one."""
    windows = augmented(corpus, AugmentConfig(noise=0.5))
    same = [torch.equal(w.past, w.waveform) for w in (windows[0, i] for i in range(len(windows)))]
    assert 0 < sum(same) < len(same)
    assert len(collate([windows[0, i] for i in range(8)]).past) == 8


def test_padding_stays_zero_and_what_it_pads_does_not_depend_on_it(corpus):
    """Neither noise nor reverberation reaches it."""
    short, long = (augmented(corpus, window_samples=size, short="pad") for size in (40000, 50000))
    for index in range(3):
        window = short[0, index]
        assert window.num_samples < 40000
        assert not window.past[window.num_samples :].any()
        assert window.past[: window.num_samples].any()
        assert torch.equal(window.past, long[0, index].past[:40000])


def test_only_the_train_split_is_augmented(corpus):
    config = tiny_config(corpus, augment=ALL)
    data = build_data(config, Geometry.of((5, 4, 2, 2, 2), "none"))
    assert data.train[0, 0].past is not None
    assert data.dev[0, 0].past is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(noise=1.5), r"augment\.noise: got 1\.5, expected less than or equal to 1$"),
        (
            dict(snr_db=(20.0, 5.0)),
            r"augment\.snr_db: got \[20\.0, 5\.0\], expected the lower bound and then the upper",
        ),
        (dict(rt60_seconds=(0.0, 0.5)), r"augment\.rt60_seconds\.1: got 0\.0, expected greater than or equal to 0\.01"),
        (dict(pitch_cents=(-300.0, float("inf"))), r"augment\.pitch_cents\.2: got inf, expected less than"),
        (dict(channel_db=-1.0), r"augment\.channel_db: got -1\.0, expected greater than or equal to 0"),
    ],
)
def test_a_wrong_value_is_one_line_that_says_what_is_allowed(values, message):
    with pytest.raises(ConfigError, match=message) as error:
        check_config(Config(augment=AugmentConfig(**values)))
    assert "\n" not in str(error.value)


def test_runs_without_augmentation_keep_their_identity(tmp_path):
    base = Config()
    assert "augment" not in config_identity(base)
    assert config_identity(replace(base, augment=AugmentConfig(snr_db=(0, 1)))) == config_identity(base)
    assert config_identity(replace(base, augment=AugmentConfig(noise=0.5))) != config_identity(base)
    write_config(replace(base, augment=ALL), tmp_path / "c.toml")
    assert read_config(tmp_path / "c.toml") == replace(base, augment=ALL)
