"""Phone labels: reading and writing label files, and the label of each moment of an utterance.

A label file has one line for each utterance, `utterance-id l_0 l_1 …`. Features lie on a grid of their own: padding
moves the frames' centres, and the encoder sets their hop. So labels and frames meet in seconds, through both
geometries, and nothing here trims or repeats labels until two lengths fit.

The files follow the conventions of the CPC authors' label files: windows of 25 ms every 10 ms, the first at the start
of the file, no padding. Label i is centred at LABEL_FIRST_CENTRE_SECONDS + i · LABEL_HOP_SECONDS and owns the half-open
interval of one hop around that centre. There are 1 + (S − 400) // 160 labels in S samples at 16 kHz.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cpc.data import Manifest, num_resampled
from cpc.files import write_bytes

LABEL_SAMPLE_RATE = 16_000  # Hz, rate of the labelled audio
LABEL_WINDOW_SECONDS = 0.025
LABEL_HOP_SECONDS = 0.010
LABEL_WINDOW_SAMPLES = round(LABEL_WINDOW_SECONDS * LABEL_SAMPLE_RATE)
LABEL_HOP_SAMPLES = round(LABEL_HOP_SECONDS * LABEL_SAMPLE_RATE)
LABEL_FIRST_CENTRE_SECONDS = LABEL_WINDOW_SECONDS / 2
LABEL_RATE = LABEL_SAMPLE_RATE / LABEL_HOP_SAMPLES  # Hz

UNLABELLED = -1

STORED = np.int16  # small, since the labels of a whole corpus stay in memory: 36 million for train-clean-100
# The last bit of a float64 must not decide which label owns a frame on the border of two.
BORDER_TOLERANCE_HOPS = 1e-6


class LabelsError(ValueError):
    """Labels that cannot be read or made, or that do not belong to the utterances at hand."""


def read_labels(path: str | Path) -> dict[str, NDArray[np.int16]]:
    """Read a label file.

    Args:
        path: the label file; blank lines are allowed.

    Returns:
        The labels of each utterance: (num_labels,), integers of 0 or more.

    Raises:
        LabelsError: the file is missing or empty, or a line is not `utterance-id l_0 l_1 …`.
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
                    raise LabelsError(f"{where}: appears a second time; expected each utterance once")
                labels[utterance] = _parse(rest[0] if rest else "", where)
    except FileNotFoundError:
        raise LabelsError(f"{path}: no such label file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise LabelsError(f"{path}: cannot be read as a label file: {error}") from error
    if not labels:
        raise LabelsError(f"{path}: empty; expected a line for each utterance: utterance-id l_0 l_1 …")
    return labels


def write_labels(path: Path, labels: Mapping[str, Sequence[int] | NDArray[np.integer[Any]]]) -> None:
    """Write a label file atomically.

    Args:
        path: the label file.
        labels: the labels of each utterance, in the order of the lines.
    """
    lines = (" ".join([utterance, *map(str, np.asarray(values).tolist())]) for utterance, values in labels.items())
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())


def read_lines(path: str | Path, what: str) -> list[str]:
    """Read the lines of a text file; `what` names its kind in messages.

    Raises:
        LabelsError: the file is missing or is not UTF-8 text.
    """
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise LabelsError(f"{path}: no such {what}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise LabelsError(f"{path}: cannot be read as a {what}: {error}") from None


def read_phones(path: str | Path) -> dict[int, str]:
    """Read the names of the phones from a file with a line `id name` for each phone.

    Raises:
        LabelsError: the file is missing or empty, or a line is not `id name`.
    """
    names: dict[int, str] = {}
    for number, line in enumerate(read_lines(path, "file of phone names"), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 or not (words[0].isascii() and words[0].isdigit()):
            raise LabelsError(f"{path}, line {number}: found {line[:40]!r}, expected `id name`")
        if int(words[0]) in names:
            raise LabelsError(f"{path}, line {number}: phone {words[0]} appears a second time; expected each once")
        names[int(words[0])] = words[1]
    if not names:
        raise LabelsError(f"{path}: empty; expected a line for each phone: id name")
    return names


def write_phones(path: Path, names: Sequence[str]) -> None:
    """Write the names of phones 0, 1, … atomically, as `read_phones` reads them."""
    write_bytes(path, "".join(f"{i} {name}\n" for i, name in enumerate(names)).encode())


def read_phone_classes(path: str | Path) -> dict[str, dict[str, str]]:
    """Read the classes that phones share: a CSV file with a column `phone` and others such as manner and place.

    Returns:
        The other columns of each phone, by its name.

    Raises:
        LabelsError: the file is missing or not such a table.
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
        of: labels by utterance: (num_labels,), integers of 0 or more.
        names: the phones' names by label; may be empty.
        classes: the phones' classes by name, such as {"manner": "stop", "place": "bilabial"}; may be empty.
    """

    of: Mapping[str, NDArray[Any]]
    names: Mapping[int, str] = field(default_factory=dict)
    classes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def name(self, label: int) -> str:
        """Return the phone's name, or the number itself if no name is known."""
        return self.names.get(label, str(label))


def read_phone_labels(path: str | Path, *, names: Path | None = None, classes: Path | None = None) -> PhoneLabels:
    """Read a label file together with the phones' names and classes.

    Args:
        path: label file (`read_labels`).
        names: file of phone names (`read_phones`).
        classes: table of phone classes (`read_phone_classes`).

    Raises:
        LabelsError: a file is missing or not as described.
    """
    return PhoneLabels(
        read_labels(path), read_phones(names) if names else {}, read_phone_classes(classes) if classes else {}
    )


def num_labels(num_samples: int, sample_rate: int = LABEL_SAMPLE_RATE) -> int:
    """Return the number of labels that a sound file of this length must have."""
    resampled = num_resampled(num_samples, sample_rate, LABEL_SAMPLE_RATE)
    if resampled < LABEL_WINDOW_SAMPLES:
        return 0
    return 1 + (resampled - LABEL_WINDOW_SAMPLES) // LABEL_HOP_SAMPLES


def labelled_utterances(manifest: Manifest, labels: Mapping[str, NDArray[Any]]) -> list[str]:
    """List the manifest's utterances that have labels, in its order, and check that labels and audio fit in length.

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
    """Look up the label whose centre is nearest to each time.

    A time midway between two centres takes the later label: label i owns its centre ± half a hop, including the start
    and excluding the end, like all intervals in seconds.

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
    """Parse the labels of a line."""
    # numpy's text mode is seven times faster than splitting the line, but cannot say what failed.
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
