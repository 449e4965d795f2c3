"""Files that are whole or absent, and folders that belong to one identity.

`replacing` and `write_bytes` write a file beside its place and then move it there. `claim` is the one protocol by which
a folder is begun, resumed after an interruption, and found finished.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

Item = TypeVar("Item")

SHARDS = "shards"  # folder of shares
LOCK = ".lock"  # in a folder that a process is writing
_TEMPORARY = re.compile(r"\..+\.(?P<process>\d+)\.tmp")
_WAIT_SECONDS = 0.2  # between two looks at a lock
_MAX_SHOWN = 60  # characters of a value in a message


class ClaimError(ValueError):
    """A folder that belongs to something else."""


@contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the same folder; move it to `path` at the end, or remove it after an error.

    What was at `path` stays intact until the new file is complete and on disk, so a full disk or a killed process loses
    nothing. Without `sync`, a crash of the machine may leave a new file that is too short.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if sync:
            with open(temporary, "rb+") as f:
                os.fsync(f.fileno())  # a crash of the machine after the move must not leave an empty file
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None and error.strerror:  # of a write: a full disk, a file that is too large
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def refuse_foreign(path: Path, beginning: str, *, what: str) -> None:
    """Refuse to replace a file that does not begin as ours do; a file that does not exist is no obstacle.

    Args:
        path: a file that is about to be written.
        beginning: regular expression that the first 4 KB of ours match.
        what: a noun for the message: "a manifest".

    Raises:
        ClaimError: the file is something else, or a folder.
    """
    if path.is_dir():
        raise ClaimError(f"{path}: a folder, expected the name of a file to write {what} to")
    if not path.exists():
        return
    with path.open("rb") as file:
        if not re.match(beginning, file.read(4096).decode("utf-8", errors="replace")):
            raise ClaimError(f"{path}: exists and is not {what}; nothing was written; pass another name, or remove it")


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a whole file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=1) + "\n").encode())


@contextmanager
def locked(folder: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Keep other processes from writing to a folder at the same time.

    The operating system holds the lock for this process, so neither a crash nor a copy of the folder leaves one behind.
    Where there are no such locks, as on Windows and on some network file systems, nothing is kept from anybody.

    Args:
        folder: the folder, which is made, and removed again if nothing was written to it.
        what: a noun for the message: "run".
        wait: wait until another process that has the lock gives it back.

    Raises:
        ClaimError: another process has the lock.
    """
    if folder.exists() and not folder.is_dir():  # for the caller to report
        yield
        return
    is_new, path = not folder.exists(), folder / LOCK
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = path.open("a")
        except (FileNotFoundError, FileExistsError):
            if folder.exists() or folder.is_symlink():
                raise
            continue  # the lock's holder has just removed the folder
        try:
            _lock(file)
        except BlockingIOError:
            file.close()
            if wait:
                time.sleep(_WAIT_SECONDS)
                continue
            raise ClaimError(
                f"{folder}: another process is writing this {what}; wait for its end, or pass another folder"
            ) from None
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break
        file.close()  # its holder has just removed it
    remove_temporaries(folder)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is still locked, so that nobody locks a file that is gone
        file.close()
        if is_new:  # what was refused leaves nothing
            with suppress(OSError):  # it is not empty, or somebody else has removed it
                folder.rmdir()


def _lock(file: IO[str]) -> None:
    """Lock an open file, where the system and the file system have such locks.

    Raises:
        BlockingIOError: another process has the lock.
    """
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except (ImportError, OSError):
        return


def remove_temporaries(folder: Path) -> None:
    """Remove the unfinished files that `replacing` left in a folder when its process was killed."""
    for path in folder.glob(".*.tmp"):
        found = _TEMPORARY.fullmatch(path.name)
        if found and not _is_running(int(found["process"])):
            path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return True


@dataclass
class Claim:
    """A folder that is ours to fill.

    Attributes:
        record: the JSON file that says what the folder holds.
        identity: what it holds.
        complete: whether an earlier call finished it.
        content: what `finish` recorded beside the identity.
    """

    record: Path
    identity: dict[str, Any]
    complete: bool
    content: dict[str, Any] = field(default_factory=dict)

    def reopen(self) -> None:
        """Record that the folder is not complete any more: there is more to write."""
        self.complete = False
        write_json(self.record, {**self.identity, "complete": False})

    def finish(self, **content: Any) -> None:
        """Record that the folder is complete, and further content about it."""
        self.complete, self.content = True, content
        write_json(self.record, {**self.identity, **content, "complete": True})


def claim(folder: Path, identity: Mapping[str, Any], *, record: str, what: str) -> Claim:
    """Take a folder for one identity: a new or empty folder, or one that the same identity has begun or finished.

    The record is written at once with `"complete": false`, so that an interrupted call can be told from a finished one.
    A record without the key `complete` counts as finished.

    Args:
        folder: where the output goes.
        identity: what decides the output, as JSON can hold it; nested mappings are compared key by key.
        record: name of the JSON file in the folder.
        what: a noun for messages: "features", "alignment".

    Raises:
        ClaimError: the folder is a file, is not empty without a record, or belongs to another identity; the message
            names the first key that differs, and both values.
    """
    path, ours = folder / record, json.loads(json.dumps(identity))
    way_out = "pass another folder, or remove this one"
    if folder.exists() and not folder.is_dir():
        raise ClaimError(f"{folder}: a file, expected a folder to write {what} to")
    if path.exists():
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ClaimError(f"{path}: not JSON ({error}); {way_out}") from None
        if not isinstance(there, dict):
            raise ClaimError(f"{path}: got a {type(there).__name__}, expected the record of {what}; {way_out}")
        if changed := difference({key: value for key, value in there.items() if key in ours}, ours):
            raise ClaimError(f"{folder}: holds other {what}: {changed}; {way_out}")
        content = {key: value for key, value in there.items() if key not in ours and key != "complete"}
        return Claim(path, ours, bool(there.get("complete", True)), content)
    if folder.is_dir() and any(other.name != LOCK for other in folder.iterdir()):
        raise ClaimError(f"{folder}: not empty, and holds no {what} (no {record}); {way_out}")
    write_json(path, {**ours, "complete": False})
    return Claim(path, ours, False)


@dataclass(frozen=True)
class Shard:
    """One of several shares of some work, each of which another process or machine does.

    A share has a folder of its own inside that of the whole, SHARDS/K-of-N, and its own record there. Whoever finds
    that all shares are complete joins them.

    Attributes:
        number: 1 … count.
        count: number of shares.
    """

    number: int
    count: int

    @classmethod
    def of(cls, text: str) -> Shard:
        """Read "3/16".

        Raises:
            ClaimError: it is something else.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ClaimError(f"shard: got {text!r}, expected K/N with K from 1 to N, such as 3/16")
        return cls(int(found[1]), int(found[2]))

    def take(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this share of some items: every N-th."""
        return items[self.number - 1 :: self.count]

    def folder(self, out: Path) -> Path:
        """Return the folder of this share of what becomes `out`."""
        return out / SHARDS / f"{self.number}-of-{self.count}"

    def all(self) -> list[Shard]:
        """Return all shares."""
        return [Shard(number, self.count) for number in range(1, self.count + 1)]

    def waits_for(self, out: Path, record: str) -> int:
        """Count the shares that are not complete, by the record of each."""
        return sum(not _is_complete(share.folder(out) / record) for share in self.all())


def _is_complete(record: Path) -> bool:
    try:
        return bool(json.loads(record.read_text(encoding="utf-8"))["complete"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say what differs first between two sets of settings: "optim.lr was 0.1, is 0.2"; empty if nothing does."""
    was, given = flatten(before), flatten(now)
    for key in [*given, *(key for key in was if key not in given)]:
        if key not in was or key not in given or was[key] != given[key]:
            return f"{key} was {_short(was, key)}, is {_short(given, key)}"
    return ""


def flatten(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings by dotted keys, values as JSON gives them back."""
    return {key: json.loads(json.dumps(value)) for key, value in dotted(settings).items()}


def dotted(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted keys: {"optim": {"lr": 1}} → {"optim.lr": 1}."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= dotted(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _short(settings: Mapping[str, Any], key: str) -> str:
    if key not in settings:
        return "not given"
    text = json.dumps(settings[key], ensure_ascii=False)
    if len(text) <= _MAX_SHOWN:
        return text
    first = _MAX_SHOWN // 3  # two paths or lists often begin alike
    return f"{text[:first]}…{text[first + 1 - _MAX_SHOWN :]}"
