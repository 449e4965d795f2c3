"""Propose an encoder for a sample rate and a frame rate: strides as in the paper, what a frame sees, what it costs."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cache

from cpc.config import Config, ConfigError
from cpc.experiments.settings import override
from cpc.model import Geometry

_MOST_LAYERS = 5  # as in the paper
_LARGEST_STRIDE = 8  # a layer that skips more would average over what it should tell apart
_WINDOW_FRAMES = 128  # as in the paper: 20480 samples of 160 each


@dataclass(frozen=True)
class Design:
    """An encoder of strided convolutions, each with kernel = 2 · stride.

    Attributes:
        sample_rate: Hz.
        strides: of each layer; their product is the hop.
        channels: width of each layer.
    """

    sample_rate: int
    strides: tuple[int, ...]
    channels: int

    @property
    def geometry(self) -> Geometry:
        """The position of frames in time."""
        return Geometry.of(self.strides, "none")

    @property
    def products_per_second(self) -> float:
        """Multiplications in one second of sound, forward."""
        rate, width, total = float(self.sample_rate), 1, 0.0
        for stride in self.strides:
            rate /= stride
            total += rate * 2 * stride * width * self.channels
            width = self.channels
        return total

    def configure(self, preset: Config) -> Config:
        """Change a configuration to this encoder, with windows of as many frames as the paper's."""
        changes = {
            "audio.sample_rate": self.sample_rate,
            "data.window_samples": _WINDOW_FRAMES * self.geometry.hop_samples,
            "encoder.kind": "conv",
            "encoder.strides": list(self.strides),
        }
        return override(preset, changes, where="design")

    def __str__(self) -> str:
        """Describe the encoder layer by layer."""
        geometry, ms = self.geometry, 1000 / self.sample_rate
        lines = [f"{'layer':>5}  {'stride':>6}  {'kernel':>6}  {'a frame sees':>14}  {'frames a second':>15}"]
        for i in range(len(self.strides)):
            part = Geometry.of(self.strides[: i + 1], "none")
            seen, rate = part.receptive_field_samples, self.sample_rate / part.hop_samples
            row = (f"{i + 1:>5}", f"{self.strides[i]:>6}", f"{2 * self.strides[i]:>6}", f"{seen * ms:>11.2f} ms")
            lines.append("  ".join([*row, f"{rate:>15g}"]))
        hop, field = geometry.hop_samples, geometry.receptive_field_samples
        window, paper = _WINDOW_FRAMES * hop, Design(16000, (5, 4, 2, 2, 2), self.channels)
        return "\n".join(
            [
                *lines,
                f"hop {hop} samples, {hop * ms:g} ms; a frame sees {field} samples, {field * ms:.4g} ms",
                f"a window of {_WINDOW_FRAMES} frames has {window} samples, {window * ms:.4g} ms; 12 steps "
                f"predict {hop * ms:g} to {12 * hop * ms:g} ms ahead",
                f"{self.products_per_second / 1e9:.2f} G multiplications for a second of sound with {self.channels} "
                f"channels, {self.products_per_second / paper.products_per_second:.2f} of the paper's at 16 kHz",
            ]
        )


def propose(sample_rate: int, hop_ms: float, channels: int) -> Design:
    """Propose strides whose product is the hop: large ones first, where the frames are many, and five at most.

    Raises:
        ConfigError: the hop is no whole number of samples with small factors; the message names the nearest that is.
    """
    hop = sample_rate * hop_ms / 1000
    if hop < 2:
        raise ConfigError(f"design: a hop of {hop_ms:g} ms at {sample_rate} Hz is {hop:g} samples, expected 2 or more")
    possible = _possible()
    nearest = min(possible, key=lambda product: (abs(product - hop), product))
    if abs(nearest - hop) > 1e-6:
        raise ConfigError(
            f"design: a hop of {hop_ms:g} ms at {sample_rate} Hz is {hop:g} samples, which strides of up to "
            f"{_LARGEST_STRIDE} do not make; the nearest is {nearest}: --hop-ms {1000 * nearest / sample_rate:.8g}"
        )
    return Design(sample_rate, possible[nearest], channels)


@cache
def _possible() -> dict[int, tuple[int, ...]]:
    """Map each hop that some strides make to the best of them, the largest stride first.

    The best have most layers, up to five, and then the smallest largest stride; for 160 they are the paper's.
    """
    best: dict[int, tuple[int, ...]] = {}
    for num_layers in range(1, _MOST_LAYERS + 1):
        for ascending in itertools.combinations_with_replacement(range(2, _LARGEST_STRIDE + 1), num_layers):
            strides, hop = ascending[::-1], math.prod(ascending)
            if hop not in best or (-len(strides), strides) < (-len(best[hop]), best[hop]):
                best[hop] = strides
    return best
