"""The times of labels: how many an utterance has, and the label of each moment.

Features lie on a grid of their own: padding moves the frames' centres, and the encoder sets their hop. So labels and
frames meet in seconds, through both geometries, and nothing here trims or repeats labels until two lengths fit.

The standard grid is that of the CPC authors' label files: windows of 25 ms every 10 ms, the first at the start of the
file, no padding. Label i is centred at LABEL_FIRST_CENTRE_SECONDS + i · LABEL_HOP_SECONDS and owns the half-open
interval of one hop around that centre. There are 1 + (S − 400) // 160 labels in S samples at 16 kHz. Labels of another
convention are placed by a `LabelGrid`, which must be asked for.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpc.data import Manifest, num_resampled

LABEL_SAMPLE_RATE = 16_000  # Hz, rate of the labelled audio
LABEL_WINDOW_SECONDS = 0.025
LABEL_HOP_SECONDS = 0.010
LABEL_WINDOW_SAMPLES = round(LABEL_WINDOW_SECONDS * LABEL_SAMPLE_RATE)
LABEL_HOP_SAMPLES = round(LABEL_HOP_SECONDS * LABEL_SAMPLE_RATE)
LABEL_FIRST_CENTRE_SECONDS = LABEL_WINDOW_SECONDS / 2

UNLABELLED = -1

# The last bit of a float64 must not decide which label owns a frame on the border of two.
BORDER_TOLERANCE_HOPS = 1e-6

# How far from the number of centres inside the audio labels on a given grid may be: whole windows of 25 ms lose two
# labels, and rounding adds one.
_GRID_TOLERANCE_LABELS = 3


class LabelsError(ValueError):
    """Labels that cannot be read or made, or that do not belong to the utterances at hand."""


@dataclass(frozen=True)
class LabelGrid:
    """The times of an utterance's labels.

    Attributes:
        hop_seconds: seconds from one label to the next.
        first_centre_seconds: centre of label 0, from the start of the file.

    Raises:
        LabelsError: a value is out of range.
    """

    hop_seconds: float = LABEL_HOP_SECONDS
    first_centre_seconds: float = LABEL_FIRST_CENTRE_SECONDS

    def __post_init__(self) -> None:
        """Check the values."""
        hop, first = self.hop_seconds, self.first_centre_seconds
        if not (0 < hop < math.inf and 0 <= first < math.inf):
            raise LabelsError(
                f"labels every {1000 * hop:g} ms from {1000 * first:g} ms: expected a hop above 0 and a first centre "
                "of 0 or more, in ms"
            )

    def num_centres(self, seconds: float) -> int:
        """Return the number of labels whose centre lies inside audio of this length."""
        return max(0, math.ceil((seconds - self.first_centre_seconds) / self.hop_seconds - BORDER_TOLERANCE_HOPS))


STANDARD_GRID = LabelGrid()  # that of the CPC authors' label files


def num_labels(num_samples: int, sample_rate: int = LABEL_SAMPLE_RATE) -> int:
    """Return the number of labels that a sound file of this length must have."""
    resampled = num_resampled(num_samples, sample_rate, LABEL_SAMPLE_RATE)
    if resampled < LABEL_WINDOW_SAMPLES:
        return 0
    return 1 + (resampled - LABEL_WINDOW_SAMPLES) // LABEL_HOP_SAMPLES


def labelled_utterances(
    manifest: Manifest, labels: Mapping[str, NDArray[Any]], grid: LabelGrid | None = None
) -> list[str]:
    """List the manifest's utterances that have labels, in its order, and check that labels and audio fit in length.

    Args:
        manifest: the utterances.
        labels: labels by utterance.
        grid: times of the labels; None for the CPC authors' convention, where the number of labels must be exact. On a
            given grid, it may differ by 3 from the number of centres inside the audio.

    Raises:
        LabelsError: no utterance has labels, or some utterance has more or fewer than its audio is long.
    """
    columns = zip(manifest.utterances, manifest.num_samples.tolist(), manifest.sample_rates.tolist(), strict=True)
    rows = [row for row in columns if row[0] in labels]
    if not rows:
        here = f"e.g. {manifest.utterances[0]}" if len(manifest) else "none at all"
        there = f"e.g. {next(iter(labels))}" if labels else "none at all"
        raise LabelsError(
            f"no utterance of the manifest ({here}) has labels ({there}); are they labels of another corpus?"
        )

    def expected(samples: int, rate: int) -> int:
        return num_labels(samples, rate) if grid is None else grid.num_centres(samples / rate)

    tolerance = 0 if grid is None else _GRID_TOLERANCE_LABELS
    wrong = [row for row in rows if abs(len(labels[row[0]]) - expected(*row[1:])) > tolerance]
    if wrong:
        utterance, samples, rate = wrong[0]
        lengths = [(len(labels[u]), num_resampled(n, r, LABEL_SAMPLE_RATE)) for u, n, r in rows]
        raise LabelsError(
            f"{utterance}: {len(labels[utterance])} labels, expected {expected(samples, rate)} for "
            f"{samples} samples at {rate} Hz ({len(wrong)} of {len(rows)} labelled utterances are wrong); "
            + _way_out(lengths)
        )
    return [utterance for utterance, _, _ in rows]


# Other conventions by S, the number of samples at 16 kHz: what they are called, their number of labels, and the hop and
# the first centre in ms.
_CONVENTIONS: tuple[tuple[str, Callable[[int], int], str, str], ...] = (
    ("S // 160", lambda s: s // LABEL_HOP_SAMPLES, "10", "5"),
    ("S // 160 rounded up", lambda s: -(-s // LABEL_HOP_SAMPLES), "10", "5"),
    ("1 + S // 160", lambda s: 1 + s // LABEL_HOP_SAMPLES, "10", "0"),
    ("one more than 1 + (S − 400) // 160", lambda s: num_labels(s) + 1, "10", "12.5"),
    ("one less than 1 + (S − 400) // 160", lambda s: num_labels(s) - 1, "10", "12.5"),
    ("1 + (S − 400) // 320", lambda s: 1 + (s - LABEL_WINDOW_SAMPLES) // (2 * LABEL_HOP_SAMPLES), "20", "12.5"),
)


def _way_out(lengths: Sequence[tuple[int, int]]) -> str:
    """Name the convention that pairs of a number of labels and a number of samples at 16 kHz follow."""
    for name, count, hop, first_centre in _CONVENTIONS:
        if all(num == count(samples) for num, samples in lengths):
            return (
                f"the lengths are {name}: `cpc probe` accepts them with --label-hop {hop} "
                f"--label-first-centre {first_centre}"
            )
    return "labels for another corpus or another version?"


def labels_at(
    labels: NDArray[Any], times: NDArray[np.floating[Any]], grid: LabelGrid = STANDARD_GRID
) -> NDArray[np.int64]:
    """Look up the label whose centre is nearest to each time.

    A time midway between two centres takes the later label: label i owns its centre ± half a hop, including the start
    and excluding the end, like all intervals in seconds.

    Args:
        labels: (num_labels,), one each hop of the grid.
        times: (T,) seconds from the start of the utterance, in any order.
        grid: times of the labels.

    Returns:
        (T,) labels; UNLABELLED before the first label's interval and after the last one's.
    """
    hops = (np.asarray(times, dtype=np.float64) - grid.first_centre_seconds) / grid.hop_seconds
    nearest = np.floor(hops + 0.5 + BORDER_TOLERANCE_HOPS)
    inside = (nearest >= 0) & (nearest < len(labels))
    result = np.full(hops.shape, UNLABELLED, dtype=np.int64)
    result[inside] = np.asarray(labels)[nearest[inside].astype(np.int64)]
    return result
