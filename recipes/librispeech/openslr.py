"""Fetch a corpus from openslr.org. It appears only when it is complete, and no archive writes outside its folder."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import torch

URL = "https://www.openslr.org/resources"


def fetch(
    archive: str, folder: str, root: Path, *, sha256: str = "", check: Callable[[Path], object] = lambda folder: None
) -> None:
    """Download an archive, unless it is in `root` already, and unpack it; the corpus appears only once it is complete.

    Args:
        archive: path of the archive on the server, as "12/dev-clean.tar.gz".
        folder: the folder in the archive that holds the corpus; it appears in `root` under the same path.
        root: folder for the archive and the corpus.
        sha256: checksum of the archive in hexadecimal digits; empty if none is published.
        check: raises a ValueError if the folder that it receives is not the whole corpus.

    Raises:
        ValueError: the archive could not be downloaded, is damaged, would write outside its folder, or does not hold
            the whole corpus.
    """
    url, path = f"{URL}/{archive}", root / PurePosixPath(archive).name
    root.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        try:
            torch.hub.download_url_to_file(url, str(path))
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"{url} could not be fetched ({error}); run the same command again, or fetch it to {root} yourself"
            ) from None
    way_out = f"remove {path} and run the same command again"
    if sha256 and (found := _digest(path)) != sha256:
        raise ValueError(f"{path}: it is truncated or damaged: its SHA-256 is {found}, expected {sha256}; {way_out}")
    unfinished = root / f"{path.name}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with tarfile.open(path) as tar:
            tar.extractall(unfinished, filter=_stay_inside)
    except tarfile.FilterError as error:
        raise ValueError(f"{path}: it would write outside its folder ({error}); nothing was installed") from None
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ValueError(f"{path}: cannot be unpacked ({error}); it may be truncated or damaged: {way_out}") from None
    if not (unfinished / folder).is_dir():
        raise ValueError(f"{path}: no folder {folder} in it; it is another archive: {way_out}")
    check(unfinished / folder)
    (root / folder).parent.mkdir(parents=True, exist_ok=True)
    (unfinished / folder).rename(root / folder)
    shutil.rmtree(unfinished)
    print(f"download: unpacked to {root / folder}; {path} is not needed any more", file=sys.stderr)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stay_inside(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    """Refuse a member whose name is absolute or leads outside the folder; Python's filter strips a leading slash."""
    if PurePosixPath(member.name).is_absolute():
        raise tarfile.AbsolutePathError(member)
    return tarfile.data_filter(member, folder)
