"""Listings from other tools: data folders of Kaldi, cuts of lhotse, and datasets of Hugging Face."""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, cast

import pandas as pd
from tqdm import tqdm

from cpc.data.audio import suffix_of
from cpc.data.listings import Listing
from cpc.data.manifest import MEASURED, SEGMENT, ManifestError, check_names
from cpc.files import write_bytes

_CUTS = (".jsonl", ".jsonl.gz")
# What other tools call our splits; a name that is none of ours is refused.
_SPLITS = {"train": "train", "validation": "dev", "valid": "dev", "dev": "dev", "test": "test"}


def is_of_other_tool(source: Path) -> bool:
    """Whether a path is a data folder of Kaldi, cuts of lhotse, or a dataset that was saved to disk."""
    if source.is_dir():
        return any((source / name).is_file() for name in ("wav.scp", "dataset_info.json", "dataset_dict.json"))
    return source.name.endswith(_CUTS)


def list_other(source: Path, sounds: Path) -> Listing:
    """List the sounds of another tool's table.

    Args:
        source: a data folder of Kaldi (wav.scp, and where they are there segments, utt2spk, spk2gender and further
            utt2… files, which become columns); cuts of lhotse (.jsonl, .jsonl.gz) of one channel in files, whose first
            supervision gives the speaker and further columns; or a dataset of Hugging Face, as `save_to_disk` writes
            it, with one column of audio.
        sounds: folder to write the sounds to that the table contains, as datasets do.

    Raises:
        ManifestError: a file is missing, a line is not as described, or an utterance is not a part of one file.
    """
    if not source.is_dir():
        table = _lhotse(source)
    elif (source / "wav.scp").is_file():
        table = _kaldi(source)
    else:
        table = _datasets(source, sounds)
    root = source if source.is_dir() else source.parent
    if table.empty:
        raise ManifestError(f"{source}: names no sound")
    table = table.fillna("")
    table["utterance"] = table["utterance"].str.replace(r"[/\s]+", "_", regex=True)
    table["path"] = [_relative(path, root) for path in table["path"]]
    check_names(source, table)
    return Listing(root, table, [])


def _relative(path: str, root: Path) -> str:
    """Take a path from the working folder, which most tools mean, if there is such a file, and else from the root."""
    if os.path.isabs(path) or not os.path.exists(path):
        return path
    return os.path.relpath(os.path.realpath(path), os.path.realpath(root))  # ".." after a link leads elsewhere


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each line that is not empty, and its first word and the rest."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ManifestError(f"{path}: cannot be read ({reason})") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            words = line.split(maxsplit=1)
            if len(words) < 2:
                raise ManifestError(f"{path}, line {number}: found {line.strip()[:60]!r}, expected a name and a value")
            yield number, [words[0], words[1].strip()]


def _map(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, (name, value) in _lines(path):
        _refuse_twice(name, found, f"{path}, line {number}")
        found[name] = value
    return found


def _refuse_twice(name: str, found: Container[str], where: str) -> None:
    if name in found:
        raise ManifestError(f"{where}: {name} appears a second time; expected each once")


def _kaldi(folder: Path) -> pd.DataFrame:
    files: dict[str, str] = {}
    for number, (name, value) in _lines(folder / "wav.scp"):
        # Only decoding is what we do ourselves; any other command would change the sound.
        found = re.fullmatch(r"(?:\S*/)?flac\s+(?:-[cds]+\s+|--(?:stdout|decode|silent)\s+)*(\S+)\s*\|", value)
        if value.endswith("|") and found is None:
            raise ManifestError(
                f"{folder / 'wav.scp'}, line {number}: {value[:80]!r} is a command, expected a sound file; write its "
                "output to a file"
            )
        _refuse_twice(name, files, f"{folder / 'wav.scp'}, line {number}")
        files[name] = found[1] if found else value
    if (folder / "segments").is_file():
        rows = []
        for number, (name, value) in _lines(folder / "segments"):
            words = value.split()
            if len(words) != 3 or words[0] not in files or not _are_seconds(words[1:]):
                raise ManifestError(
                    f"{folder / 'segments'}, line {number}: got {f'{name} {value}'[:60]!r}, expected `utterance "
                    "recording start end` with a recording of wav.scp"
                )
            end = "" if float(words[2]) < 0 else words[2]  # -1: until the end of the file
            rows.append({"utterance": name, "path": files[words[0]], "start": words[1], "end": end})
        table = pd.DataFrame(rows, columns=["utterance", "path", "start", "end"])
    else:
        table = pd.DataFrame({"utterance": list(files), "path": list(files.values())})
    speakers = _map(folder / "utt2spk") if (folder / "utt2spk").is_file() else {}
    table.insert(1, "speaker", [speakers.get(name, "unknown") for name in table["utterance"]])
    for path in sorted(folder.glob("utt2*")):
        if path.name not in ("utt2spk", "utt2dur", "utt2num_frames", "utt2uniq") and path.is_file():
            table[path.name.removeprefix("utt2")] = table["utterance"].map(_map(path))
    if (folder / "spk2gender").is_file():
        table["gender"] = table["speaker"].map(_map(folder / "spk2gender"))
    return table


def _are_seconds(words: list[str]) -> bool:
    try:
        start, end = map(float, words)
    except ValueError:
        return False
    return 0 <= start < 1e9 and (start < end < 1e9 or end == -1)


def _lhotse(path: Path) -> pd.DataFrame:
    rows = []
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                rows.append(_cut(json.loads(line), f"{path}, line {number}"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, EOFError, zlib.error) as error:
        raise ManifestError(f"{path}: cannot be read as lhotse's cuts ({error})") from None
    if not rows:
        raise ManifestError(f"{path}: no cut in it")
    return pd.DataFrame(rows)


def _cut(cut: Any, where: str) -> dict[str, str]:
    """Convert one cut to the columns of a listing."""
    try:
        recording, channel = cut["recording"], cut["channel"]
        sources = recording["sources"]
        start, duration = float(cut["start"]), float(cut["duration"])
        whole = start == 0 and abs(duration - float(recording["duration"])) < 0.5 / recording["sampling_rate"]
        good = (
            not recording.get("transforms")
            and channel == 0
            and len(sources) == 1
            and sources[0]["type"] == "file"
            and len(sources[0]["channels"]) == 1
        )
        path, supervisions = str(sources[0]["source"]), cut.get("supervisions") or [{}]
        utterance, supervision = str(cut["id"]), supervisions[0]
        custom = {**(supervision.get("custom") or {}), **(cut.get("custom") or {})}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ZeroDivisionError):
        raise ManifestError(f"{where}: expected a MonoCut with id, start, duration, channel and recording") from None
    if not good or not _are_seconds([str(start), str(start + duration)]):
        raise ManifestError(
            f"{where}: cut {utterance} is not a part of one file with one channel, unchanged; export it by "
            "cut.save_audio first"
        )
    texts = {name: supervision.get(name) for name in ("speaker", "language", "gender")} | custom
    columns = {name: str(value) for name, value in texts.items() if isinstance(value, str | int | float)}
    times = {"start": "", "end": ""} if whole else {"start": repr(start), "end": repr(start + duration)}
    return {"speaker": "unknown", **columns, "utterance": utterance, "path": path, **times}


def _datasets(folder: Path, sounds: Path) -> pd.DataFrame:
    try:
        import datasets  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise ManifestError(f"{folder}: reading a dataset needs datasets: pip install 'cpc-audio[datasets]'") from None
    try:
        found = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise ManifestError(f"{folder}: cannot be read as a dataset ({' '.join(str(error).split())})") from None
    parts = dict(found) if isinstance(found, datasets.DatasetDict) else {"": found}
    if unknown := sorted(set(parts) - {"", *_SPLITS}):
        raise ManifestError(
            f"{folder}: split {unknown[0]!r}, expected some of {', '.join(_SPLITS)}; save another choice"
        )
    rows: list[dict[str, str]] = []
    for split, part in parts.items():
        audio = [name for name, feature in part.features.items() if isinstance(feature, datasets.Audio)]
        if len(audio) != 1:
            raise ManifestError(
                f"{folder}: {len(audio)} columns of audio, expected one; it has {', '.join(part.features)}"
            )
        part = part.cast_column(audio[0], datasets.Audio(decode=False))
        for example in tqdm(part, desc=f"dataset {split}".strip(), unit="sound"):
            row = _texts(part.features, example)
            name = f"{split or 'sound'}-{len(rows):06d}"
            if example[audio[0]] is None:
                raise ManifestError(f"{folder}: {name} has no sound in column {audio[0]}; filter such rows out")
            row["path"] = _sound_of(example[audio[0]], sounds, name)
            row["utterance"] = row.get("utterance") or row.get("id") or Path(row["path"]).stem
            row["speaker"] = row.get("speaker") or row.get("speaker_id") or "unknown"
            rows.append(row | ({"split": _SPLITS[split]} if split else {}))
    return pd.DataFrame(rows)


def _texts(features: Any, example: dict[str, Any]) -> dict[str, str]:
    """Return the columns of an example that are single values, with the names of classes."""
    row = {}
    for name, value in example.items():
        if name in {"path", "split", *SEGMENT, *MEASURED}:
            continue  # which a listing or a scan fills in
        if hasattr(features[name], "int2str") and isinstance(value, int) and value >= 0:
            row[name] = str(features[name].int2str(value))
        elif isinstance(value, str | int | float):
            row[name] = str(value)
    return row


def _sound_of(audio: dict[str, Any], sounds: Path, name: str) -> str:
    """Return the path of an example's sound; write the sound if the dataset contains it."""
    path, data = audio.get("path"), audio.get("bytes")
    if data is None:
        return str(path)
    stem, suffix = os.path.splitext(re.sub(r"[^\w.-]", "_", os.path.basename(path or "")))
    target = sounds / f"{name}{'-' if stem else ''}{stem}{suffix or suffix_of(data)}"
    if not target.exists() or target.read_bytes() != data:
        write_bytes(target, cast(bytes, data))
    return str(target)
