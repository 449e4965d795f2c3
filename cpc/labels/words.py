"""The words that are spoken, and the phones of a word: transcripts and pronunciation dictionaries."""

from __future__ import annotations

from pathlib import Path

from cpc.labels.grid import LabelsError
from cpc.labels.phones import read_lines

_NAMES = "aa ae ah ao aw ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th uh uw v w y z zh"
ARPABET = _NAMES.split()


def read_transcripts(source: str | Path) -> dict[str, str]:
    """Read the words of each utterance.

    Args:
        source: a text file with lines `utterance-id words …`, or a folder. Below a folder, every *.trans.txt has such
            lines, and any other STEM.txt holds the words of utterance STEM.

    Raises:
        LabelsError: there is no transcript, or an utterance has two.
    """
    source = Path(source)
    if not source.exists():
        raise LabelsError(f"{source}: no such file or folder of transcripts")
    found: dict[str, str] = {}
    for path in sorted(source.rglob("*.txt")) if source.is_dir() else [source]:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise LabelsError(f"{path}: cannot be read as a transcript: {error}") from None
        if source.is_dir() and not path.name.endswith(".trans.txt"):
            lines = [f"{path.stem} {' '.join(text.split())}"]
        else:
            lines = [line for line in text.splitlines() if line.strip()]
        for line in lines:
            utterance, _, words = line.strip().partition(" ")
            if utterance in found:
                raise LabelsError(f"{path}: utterance {utterance} appears a second time; expected each once")
            found[utterance] = words.strip()
    if not found:
        raise LabelsError(f"{source}: no transcript in it; expected lines `utterance-id words …`, or UTTERANCE.txt")
    return found


def read_dictionary(path: Path) -> dict[str, str]:
    """Read words and their phones from lines `word P H O N E S`, as in CMUdict; stress digits are allowed.

    Returns:
        The phones of each word: lower-case words, upper-case phones, without stress.

    Raises:
        LabelsError: the file is missing, or a line is not as described.
    """
    words = {}
    for number, line in enumerate(read_lines(path, "dictionary"), start=1):
        if not line.strip() or line.startswith(";;;"):
            continue
        word, *phones = line.split()
        phones = [phone.rstrip("012").upper() for phone in phones]
        wrong = [phone for phone in phones if phone.lower() not in ARPABET]
        if not phones or wrong:
            raise LabelsError(
                f"{path}, line {number}: found {line[:60]!r}, expected `word P H O N E S` of ARPAbet's 39 phones"
            )
        words[word.lower()] = " ".join(phones)
    return words
