"""Damage to the bytes of a file, as disks, transfers and careless tools do it."""

import random
from collections.abc import Callable

Mutation = Callable[[random.Random, bytes], bytes]


def cut(rng: random.Random, data: bytes) -> bytes:
    """Lose the end."""
    return data[: rng.randrange(len(data))]


def lose_beginning(rng: random.Random, data: bytes) -> bytes:
    """Lose the beginning."""
    return data[rng.randrange(1, len(data)) :]


def flip_bits(rng: random.Random, data: bytes) -> bytes:
    """Flip a few bits anywhere."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def spoil_header(rng: random.Random, data: bytes) -> bytes:
    """Overwrite bytes among the first hundred, where formats keep lengths and rates."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(min(100, len(data)))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    return bytes(changed)


def zero_block(rng: random.Random, data: bytes) -> bytes:
    """Overwrite a stretch with zeros, as a crash of the machine leaves it."""
    start, length = rng.randrange(len(data)), rng.randint(1, max(1, len(data) // 4))
    return data[:start] + bytes(min(length, len(data) - start)) + data[start + length :]


def insert(rng: random.Random, data: bytes) -> bytes:
    """Insert random bytes."""
    start = rng.randrange(len(data))
    return data[:start] + rng.randbytes(rng.randint(1, 64)) + data[start:]


def lose_middle(rng: random.Random, data: bytes) -> bytes:
    """Lose a stretch in the middle."""
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randint(1, max(1, len(data) // 4)) :]


def repeat(rng: random.Random, data: bytes) -> bytes:
    """Repeat a stretch."""
    start = rng.randrange(len(data))
    return data[: start + rng.randint(1, max(1, len(data) // 4))] + data[start:]


def swap_ends(rng: random.Random, data: bytes) -> bytes:
    """Put the end first."""
    at = rng.randrange(len(data))
    return data[at:] + data[:at]


BYTES: tuple[Mutation, ...] = (
    cut, lose_beginning, flip_bits, spoil_header, zero_block, insert, lose_middle, repeat, swap_ends,
)  # fmt: skip

# What people and spreadsheets put where a number or a name belongs.
ODD = (
    *(
        "",
        " ",
        "\t",
        "NaN",
        "nan",
        "inf",
        "-1",
        "0",
        "1e9",
        "10000000000000000000",
        "0x10",
        "1.5",
        "1,5",
        "true",
        "None",
    ),
    *("null", "ä", "日本", "\ufeff", "\x00", "a b", '"', "'", "[", "{", "..", "../x", "/", "\\", "$", "%s", "#", "-"),
    *("train", "Train"),
)


def replace_word(rng: random.Random, data: bytes) -> bytes:
    """Put something odd in the place of a word."""
    text = data.decode("utf-8", errors="replace")
    spots = [i for i, sign in enumerate(text) if sign in " ,=\t\n\"'[]"]
    if len(spots) < 2:
        return data + rng.choice(ODD).encode()
    i = rng.randrange(len(spots) - 1)
    return (text[: spots[i] + 1] + rng.choice(ODD) + text[spots[i + 1] :]).encode("utf-8", errors="replace")


def move_line(rng: random.Random, data: bytes) -> bytes:
    """Drop a line, repeat it, or move it."""
    lines = data.split(b"\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    line = lines.pop(i)
    for _ in range(rng.randint(0, 2)):
        lines.insert(j, line)
    return b"\n".join(lines)


def other_encoding(rng: random.Random, data: bytes) -> bytes:
    """Write the text as an editor on another system does."""
    text = data.decode("utf-8", errors="replace")
    encodings = [text.encode(name, errors="replace") for name in ("utf-16", "latin-1", "utf-8-sig")]
    return rng.choice([*encodings, data.replace(b"\n", b"\r\n"), data.replace(b"\n", b"\r")])


TEXT: tuple[Mutation, ...] = (*BYTES, replace_word, replace_word, replace_word, move_line, move_line, other_encoding)
