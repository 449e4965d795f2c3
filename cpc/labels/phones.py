"""Phone labels in time: read them, check them against the corpus, place them on feature frames.

A label file gives one integer phone every 10 ms. Features come on a grid of their own: another padding moves
the centres, another encoder the hop. So labels and frames meet in seconds, through both geometries; nothing
here trims or repeats until two lengths fit.

Conventions of the CPC authors' label files: 25 ms windows every 10 ms, the first at the file's start, no
padding. Label i is centred at LABEL_FIRST_CENTRE_SECONDS + i * LABEL_HOP_SECONDS and owns the half-open
interval of one hop around that centre; there are 1 + (S - 400) // 160 labels in S samples at 16 kHz.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cpc.data import Manifest

LABEL_SAMPLE_RATE = 16_000  # Hz, of the audio that was labelled
LABEL_WINDOW_SECONDS = 0.025
LABEL_HOP_SECONDS = 0.010
LABEL_WINDOW_SAMPLES = round(LABEL_WINDOW_SECONDS * LABEL_SAMPLE_RATE)
LABEL_HOP_SAMPLES = round(LABEL_HOP_SECONDS * LABEL_SAMPLE_RATE)
LABEL_FIRST_CENTRE_SECONDS = LABEL_WINDOW_SECONDS / 2
LABEL_RATE = LABEL_SAMPLE_RATE / LABEL_HOP_SAMPLES  # labels a second

UNLABELLED = -1

STORED = np.int16  # a corpus's labels stay in memory: 36 million for train-clean-100
# A frame that falls on the border of two labels must not be handed to one or the other by float64's last bit.
BORDER_TOLERANCE_HOPS = 1e-6


class LabelsError(ValueError):
    """A label file that cannot be read, or that does not belong to these utterances."""


def read_labels(path: str | Path) -> dict[str, NDArray[np.int16]]:
    """Reads a label file: one line an utterance, `utterance-id l_0 l_1 …`.

    Args:
        path: a text file in the CPC authors' format. Blank lines are allowed.

    Returns:
        By utterance, the labels (num_labels,), each >= 0.

    Raises:
        LabelsError: no such file, no utterance in it, or a line that is not as described.
    """
    path = Path(path)
    labels: dict[str, NDArray[np.int16]] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                utterance, *rest = line.split(maxsplit=1)[:2] or [""]
                if not utterance:
                    continue
                where = f"{path}, line {number}, utterance {utterance}"
                if utterance in labels:
                    raise LabelsError(f"{where}: the utterance has been there before; expected each one once")
                labels[utterance] = _parse(rest[0] if rest else "", where)
    except FileNotFoundError:
        raise LabelsError(f"{path}: no such label file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise LabelsError(f"{path}: cannot be read as a label file: {error}") from error
    if not labels:
        raise LabelsError(f"{path}: empty; expected one line an utterance: utterance-id l_0 l_1 …")
    return labels


def read_phones(path: str | Path) -> dict[int, str]:
    """Reads the names of the phones: one line a phone, `id name`.

    Raises:
        LabelsError: no such file, no phone in it, or a line that is not as described.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise LabelsError(f"{path}: no such file of phone names") from None
    except (OSError, UnicodeDecodeError) as error:
        raise LabelsError(f"{path}: cannot be read as a file of phone names: {error}") from error
    names: dict[int, str] = {}
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 or not (words[0].isascii() and words[0].isdigit()):
            raise LabelsError(f"{path}, line {number}: found {line[:40]!r}, expected `id name`")
        if int(words[0]) in names:
            raise LabelsError(f"{path}, line {number}: phone {words[0]} has been there before; expected each once")
        names[int(words[0])] = words[1]
    if not names:
        raise LabelsError(f"{path}: empty; expected one line a phone: id name")
    return names


def read_phone_classes(path: str | Path) -> dict[str, dict[str, str]]:
    """Reads what phones have in common: a CSV with a column `phone` and others, as manner and place.

    Returns:
        By name of the phone, the other columns.

    Raises:
        LabelsError: no such file, or not such a table.
    """
    path = Path(path)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise LabelsError(f"{path}: no such table of phone classes") from None
    except (OSError, ValueError) as error:
        raise LabelsError(f"{path}: cannot be read as a table of phone classes: {error}") from None
    if "phone" not in table.columns or len(table.columns) < 2 or table["phone"].duplicated().any():
        raise LabelsError(
            f"{path}: columns {', '.join(table.columns)}, expected `phone`, each once, and others such as manner, place"
        )
    columns = [column for column in table.columns if column != "phone"]
    return {str(row["phone"]): {column: str(row[column]) for column in columns} for _, row in table.iterrows()}


@dataclass(frozen=True)
class PhoneLabels:
    """Phone labels of some utterances, and what is known about the phones.

    Attributes:
        of: by utterance, labels (num_labels,), integers of 0 or more.
        names: by label, the phone's name; may be empty.
        classes: by name, what phones have in common, e.g. {"manner": "stop", "place": "bilabial"}; may be empty.
    """

    of: Mapping[str, NDArray[Any]]
    names: Mapping[int, str] = field(default_factory=dict)
    classes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def name(self, label: int) -> str:
        """The phone's name; the number itself where no name is known."""
        return self.names.get(label, str(label))


def read_phone_labels(path: str | Path, *, names: Path | None = None, classes: Path | None = None) -> PhoneLabels:
    """Read a label file with the phones' names and classes.

    Args:
        path: label file, see `read_labels`.
        names: file of phone names, see `read_phones`.
        classes: table of phone classes, see `read_phone_classes`.

    Raises:
        LabelsError: a file that is missing or not as described.
    """
    return PhoneLabels(
        read_labels(path), read_phones(names) if names else {}, read_phone_classes(classes) if classes else {}
    )


def num_labels(num_samples: int, sample_rate: int = LABEL_SAMPLE_RATE) -> int:
    """The number of labels that a file of this length must have."""
    resampled = -(-num_samples * LABEL_SAMPLE_RATE // sample_rate)  # rounded up, as resampling does
    if resampled < LABEL_WINDOW_SAMPLES:
        return 0
    return 1 + (resampled - LABEL_WINDOW_SAMPLES) // LABEL_HOP_SAMPLES


def labelled_utterances(manifest: Manifest, labels: Mapping[str, NDArray[Any]]) -> list[str]:
    """The manifest's utterances that have labels, in its order, their lengths checked against the audio's.

    Raises:
        LabelsError: no utterance has labels, or some utterance has more or fewer than its audio is long.
    """
    table = manifest.table
    columns = zip(table["utterance"], table["num_samples"], table["sample_rate"], strict=True)
    rows = [(str(u), int(samples), int(rate)) for u, samples, rate in columns if str(u) in labels]
    if not rows:
        here = f"e.g. {table['utterance'].iloc[0]}" if len(table) else "none at all"
        there = f"e.g. {next(iter(labels))}" if labels else "none at all"
        raise LabelsError(
            f"no utterance of the manifest ({here}) has labels ({there}); are they labels of another corpus?"
        )
    wrong = [row for row in rows if len(labels[row[0]]) != num_labels(*row[1:])]
    if wrong:
        utterance, samples, rate = wrong[0]
        raise LabelsError(
            f"{utterance}: {len(labels[utterance])} labels, expected {num_labels(samples, rate)} for "
            f"{samples} samples at {rate} Hz ({len(wrong)} of {len(rows)} labelled utterances are wrong); "
            "labels for another corpus or another version?"
        )
    return [utterance for utterance, _, _ in rows]


def labels_at(labels: NDArray[Any], times: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """The label whose centre is nearest to each time.

    A time midway between two centres takes the later label: label i owns centre ± half a hop, its start
    included, its end not, as intervals in seconds do everywhere else.

    Args:
        labels: (num_labels,), one every LABEL_HOP_SECONDS.
        times: (T,) seconds from the start of the utterance, in any order.

    Returns:
        (T,) labels; UNLABELLED before the first label's interval and after the last one's.
    """
    hops = (np.asarray(times, dtype=np.float64) - LABEL_FIRST_CENTRE_SECONDS) * LABEL_RATE
    nearest = np.floor(hops + 0.5 + BORDER_TOLERANCE_HOPS)
    inside = (nearest >= 0) & (nearest < len(labels))
    result = np.full(hops.shape, UNLABELLED, dtype=np.int64)
    result[inside] = np.asarray(labels)[nearest[inside].astype(np.int64)]
    return result


def _parse(text: str, where: str) -> NDArray[np.int16]:
    """A line's labels. numpy's text mode is seven times faster than splitting, but cannot say what failed."""
    try:
        values = np.fromstring(text, dtype=np.int64, sep=" ")
    except ValueError:
        word = next((word for word in text.split() if not _is_integer(word)), text.strip())
        raise LabelsError(f"{where}: found {word[:40]!r}, expected an integer") from None
    if not len(values):
        raise LabelsError(f"{where}: found no label, expected at least one")
    if values.min() < 0 or values.max() > np.iinfo(STORED).max:
        wrong = values.min() if values.min() < 0 else values.max()
        raise LabelsError(f"{where}: found label {wrong}, expected 0 to {np.iinfo(STORED).max}")
    return values.astype(STORED)


def _is_integer(word: str) -> bool:
    return word.isascii() and word.removeprefix("-").isdigit()
