"""Phone labels: reading and writing label files.

A label file has one line for each utterance, `utterance-id l_0 l_1 …`, with one integer for each 10 ms
(`cpc.labels.grid`). It is the format of the CPC authors' label files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cpc.data import Manifest
from cpc.files import write_bytes
from cpc.labels.grid import STANDARD_GRID, LabelGrid, LabelsError, labelled_utterances, labels_at

STORED = np.int16  # small, since the labels of a whole corpus stay in memory: 36 million for train-clean-100


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
        with path.open(encoding="utf-8-sig") as file:
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
        return Path(path).read_text(encoding="utf-8-sig").splitlines()  # a byte order mark is no text
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
        if words[1] in names.values():
            raise LabelsError(f"{path}, line {number}: the name {words[1]} appears a second time; expected each once")
        names[int(words[0])] = words[1]
    if not names:
        raise LabelsError(f"{path}: empty; expected a line for each phone: id name")
    return names


def phones_beside(labels: Path) -> Path | None:
    """Return the file of phone names, phones.txt, beside a label file; None if there is none."""
    path = labels.with_name("phones.txt")
    return path if path.exists() else None


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
        grid: times of the labels; None for the CPC authors' convention, whose lengths are checked to the label.
    """

    of: Mapping[str, NDArray[Any]]
    names: Mapping[int, str] = field(default_factory=dict)
    classes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    grid: LabelGrid | None = None

    def name(self, label: int) -> str:
        """Return the phone's name, or the number itself if no name is known."""
        return self.names.get(label, str(label))

    def at(self, utterance: str, times: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """Look up an utterance's labels at some times (`labels_at`)."""
        return labels_at(self.of[utterance], times, self.grid or STANDARD_GRID)

    def utterances_of(self, manifest: Manifest) -> list[str]:
        """List the manifest's utterances that have labels, and check their lengths (`labelled_utterances`)."""
        return labelled_utterances(manifest, self.of, self.grid)


def read_phone_labels(
    path: str | Path, *, names: Path | None = None, classes: Path | None = None, grid: LabelGrid | None = None
) -> PhoneLabels:
    """Read a label file together with the phones' names and classes.

    Args:
        path: label file (`read_labels`).
        names: file of phone names (`read_phones`).
        classes: table of phone classes (`read_phone_classes`).
        grid: times of the labels, where they follow another convention.

    Raises:
        LabelsError: a file is missing or not as described.
    """
    return PhoneLabels(
        read_labels(path), read_phones(names) if names else {}, read_phone_classes(classes) if classes else {}, grid
    )


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
