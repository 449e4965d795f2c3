"""Augmented copies of windows, from which c is computed while the targets z stay clean.

Each operation changes a waveform as another voice, room or microphone would: pitch, then reverberation, noise, and the
microphone's frequency response. Sounds keep their place in time, so frame t of the copy belongs to frame t of the clean
window. Reverberation and microphone are causal. A shift of pitch by 300 cents moves samples by up to 10 ms either way,
so c may have heard one step of the future.

On one thread (Intel Xeon, AVX-512), a window of 1.28 s at 16 kHz takes 3.3 ms for pitch, 0.8 ms for reverberation,
0.6 ms for noise and 0.8 ms for the microphone.

The result has the same bits whatever the number of threads, so a window's copy does not depend on the process that
makes it; torch's FFT does not promise that, scipy's does.

Source: Kharitonov et al. 2020, "Data Augmenting Contrastive Learning of Speech Representations in the Time Domain",
arXiv 2007.00991. They take pitch and reverberation from sox and noise from recordings. Here reverberation and noise are
synthetic, and the microphone is our addition.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy.fft
import scipy.signal
from numpy.typing import NDArray

from cpc.config import AugmentConfig
from cpc.data.resampling import Waveform

# A shift is a ratio n / 200 of frequencies: about 5 cents off at most, and the resampling filter stays small.
_RATIO_DENOMINATOR = 200
_HOP_SECONDS = 0.01  # between the frames of the time stretch, which are two hops long
_SEARCH_SECONDS = 0.008  # either way; together they hold a whole period of voices down to 62 Hz
_FILTER_SECONDS = 0.064  # length of the microphone's impulse response
_NUM_GAINS = 8  # points at which the microphone's gain is drawn
_FLAT_BELOW_HZ = 50.0  # coloured noise has no slope below


class Augmentation:
    """Draw an augmented copy of a waveform.

    Args:
        config: probability and range of each operation.
        sample_rate: rate of the waveforms, Hz.
    """

    def __init__(self, config: AugmentConfig, sample_rate: int) -> None:
        self.config, self.sample_rate = config, sample_rate

    def __call__(self, waveform: Waveform, seed: Sequence[int]) -> Waveform:
        """Augment a waveform; a pure function of the waveform and the seed.

        Args:
            waveform: (S,) samples without padding.
            seed: integers of 0 or more. Each operation has a random stream of its own, so switching one on or off does
                not change what the others draw.

        Returns:
            (S,) samples; the waveform itself if no operation was drawn.
        """
        config, rate = self.config, self.sample_rate
        pitch, reverb, noise, channel = np.random.default_rng(seed).spawn(4)
        if pitch.random() < config.pitch:
            waveform = shift_pitch(waveform, pitch.uniform(*config.pitch_cents), rate)
        if reverb.random() < config.reverb:
            rt60, ratio = reverb.uniform(*config.rt60_seconds), reverb.uniform(*config.direct_to_reverberant_db)
            waveform = reverberate(waveform, rt60, ratio, rate, reverb)
        if noise.random() < config.noise:
            snr, slope = noise.uniform(*config.snr_db), noise.uniform(*config.noise_slope_db)
            waveform = add_noise(waveform, snr, slope, rate, noise)
        if channel.random() < config.channel:
            gains = channel.uniform(-config.channel_db, config.channel_db, _NUM_GAINS)
            waveform = filter_channel(waveform, gains, rate)
        return waveform


def shift_pitch(waveform: Waveform, cents: float, sample_rate: int) -> Waveform:
    """Shift pitch and formants at unchanged duration: stretch time, then resample.

    Args:
        waveform: (S,) samples.
        cents: shift, hundredths of a semitone; rounded to a frequency ratio of n / 200.
        sample_rate: Hz.

    Returns:
        (S,) samples.
    """
    numerator = round(_RATIO_DENOMINATOR * 2 ** (cents / 1200))
    if numerator == _RATIO_DENOMINATOR:
        return waveform
    slow = stretch(waveform, numerator / _RATIO_DENOMINATOR, sample_rate)
    # Not soxr, whose filter is sharper and therefore reaches further: it would let c hear more of the future.
    shifted: Waveform = scipy.signal.resample_poly(slow, _RATIO_DENOMINATOR, numerator)
    return shifted[: len(waveform)]


def stretch(waveform: Waveform, factor: float, sample_rate: int) -> Waveform:
    """Change the duration at unchanged pitch, by overlapping frames that continue each other (WSOLA).

    Each frame is taken from where its time in the input lies, give or take 8 ms: from the place that is most similar to
    what followed the previous frame, so that periods stay whole.

    Args:
        waveform: (S,) samples.
        factor: duration of the result over that of the waveform.
        sample_rate: Hz.

    Returns:
        (⌈S · factor⌉,) samples.

    Source: Verhelst and Roelands 1993, "An overlap-add technique based on waveform similarity (WSOLA) for high quality
    time-scale modification of speech", ICASSP.
    """
    hop, reach = round(_HOP_SECONDS * sample_rate), round(_SEARCH_SECONDS * sample_rate)
    size = 2 * hop
    num_samples = math.ceil(len(waveform) * factor)
    num_frames = math.ceil(num_samples / hop) + 1
    window = scipy.signal.get_window("hann", size).astype(np.float32)  # shifted by hops, it adds up to 1
    # Frame 0 is centred on sample 0, and the zeros before and after are as much as any search can reach.
    before, after = hop + reach, math.ceil(num_frames * hop / factor) + size + hop + reach
    padded = np.pad(waveform, (before, max(0, after - len(waveform))))
    energy = np.cumsum(np.concatenate([[0.0], np.square(padded, dtype=np.float64)]))
    scale = 1 / np.sqrt(np.maximum(energy[size:] - energy[:-size], 1e-12))  # of a frame that starts at each sample
    starts = [reach]  # of each frame in `padded`
    for i in range(1, num_frames):
        lowest, following = round(i * hop / factor), starts[-1] + hop
        similarity = np.correlate(padded[lowest : lowest + 2 * reach + size], padded[following : following + size])
        starts.append(lowest + int(np.argmax(similarity * scale[lowest : lowest + 2 * reach + 1])))
    frames = padded[np.add.outer(starts, np.arange(size))] * window
    result = np.zeros((num_frames + 1, hop), np.float32)
    result[:-1] += frames[:, :hop]
    result[1:] += frames[:, hop:]
    return result.reshape(-1)[hop : hop + num_samples]


def reverberate(
    waveform: Waveform, rt60_seconds: float, direct_to_reverberant_db: float, sample_rate: int, rng: np.random.Generator
) -> Waveform:
    """Convolve with the impulse response of a room: the direct sound, then noise that decays exponentially.

    The response has unit energy, so white noise keeps its level. Sound from before the window leaves no reverberation
    in it.

    Args:
        waveform: (S,) samples.
        rt60_seconds: time in which the reverberation decays by 60 dB.
        direct_to_reverberant_db: energy of the direct sound over that of the reverberation, dB.
        sample_rate: Hz.
        rng: draws the noise.

    Returns:
        (S,) samples; what rings past the end is cut off.
    """
    time = np.arange(max(1, round(rt60_seconds * sample_rate))) / (rt60_seconds * sample_rate)  # in RT60, 0 … 1
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time)  # 60 dB are a factor of 1000 in amplitude
    direct = 1 / (1 + 10 ** (-direct_to_reverberant_db / 10))  # share of the energy
    tail *= math.sqrt((1 - direct) / np.square(tail).sum())
    return _convolve(waveform, np.concatenate([[math.sqrt(direct)], tail]))


def add_noise(
    waveform: Waveform, snr_db: float, slope_db: float, sample_rate: int, rng: np.random.Generator
) -> Waveform:
    """Add noise whose power spectrum changes by a constant number of decibels an octave.

    Args:
        waveform: (S,) samples.
        snr_db: energy of the waveform over that of the noise, dB.
        slope_db: slope of the noise's power spectrum above 50 Hz, dB an octave; 0 is white.
        sample_rate: Hz.
        rng: draws the noise.

    Returns:
        (S,) samples.
    """
    size = scipy.fft.next_fast_len(len(waveform), real=True)
    octaves = np.log2(np.maximum(scipy.fft.rfftfreq(size, 1 / sample_rate) / _FLAT_BELOW_HZ, 1))
    spectrum = scipy.fft.rfft(rng.standard_normal(size)) * 10 ** (slope_db / 20 * octaves)
    noise = scipy.fft.irfft(spectrum, size)[: len(waveform)]
    energy = np.square(waveform, dtype=np.float64).sum() / 10 ** (snr_db / 10)
    result: Waveform = (waveform + noise * math.sqrt(energy / np.square(noise).sum())).astype(np.float32)
    return result


def filter_channel(waveform: Waveform, gains_db: NDArray[np.float64], sample_rate: int) -> Waveform:
    """Filter by a smooth frequency response with minimum phase, as a microphone's is.

    Args:
        waveform: (S,) samples.
        gains_db: (num gains,) gains at frequencies from 0 to half the sample rate, evenly spaced in mel and linearly
            interpolated between them, dB.
        sample_rate: Hz.

    Returns:
        (S,) samples.
    """
    half = round(_FILTER_SECONDS * sample_rate / 2)
    mel = np.log1p(scipy.fft.rfftfreq(2 * half, 1 / sample_rate) / 700)
    log_gain = np.interp(mel, np.linspace(0, mel[-1], len(gains_db)), gains_db) * math.log(10) / 20
    # Folding the cepstrum onto its causal half gives the minimum phase and leaves the magnitude as it is.
    cepstrum = scipy.fft.irfft(log_gain, 2 * half)
    cepstrum[1:half] *= 2
    cepstrum[half + 1 :] = 0
    return _convolve(waveform, scipy.fft.irfft(np.exp(scipy.fft.rfft(cepstrum)), 2 * half))


def _convolve(waveform: Waveform, response: NDArray[np.float64]) -> Waveform:
    """Convolve a waveform with a causal impulse response and keep its length."""
    result: Waveform = scipy.signal.oaconvolve(waveform, response)[: len(waveform)].astype(np.float32)
    return result
