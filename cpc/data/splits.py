"""Split a manifest into train, dev and test without leaks."""

import os
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cpc.data.audio import EXTENSIONS
from cpc.data.manifest import SPLITS, Manifest, ManifestError

BUILT_IN = ("utterance", "chapter", "speaker")  # splits that do without other columns, or name a unit by two
By = str  # "utterance", "chapter", "speaker", or another column of the manifest


def split_manifest(
    manifest: Manifest,
    *,
    by: By,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    stratify: str | None = None,
) -> Manifest:
    """Add a column `split`: train, dev or test. The result does not depend on the order of the rows.

    Units are ordered by a hash of (seed, name) and taken at even spaces, so the shares are exact to one unit and no
    split that was asked for is empty. A unit is an utterance, a chapter of a speaker, a speaker, or all utterances with
    one value of another column. Utterances are ordered by speaker first, so that each speaker is shared alike, and one
    recording under two names is one unit. Units of another column are chosen so that every speaker is in train, and in
    as many of the other splits as possible.

    Args:
        manifest: the utterances; an earlier `split` column is replaced.
        by: what stays together. "utterance" gives the closed set: all splits share speakers and chapters. Another
            column, such as the sentence that is read, gives splits that share speakers, but no value of this column.
        fractions: shares of train, dev and test in the number of units, or of utterances if `by` is another column and
            nothing is stratified; they add up to 1, and 0 is allowed.
        seed: seed of the order.
        stratify: a column, such as a diagnosis, whose values all splits have in about equal shares of units; a unit
            with several values counts with its most frequent one. Speakers are then shared only as it happens.

    Raises:
        ManifestError: there are fewer units than splits, no such column, a speaker would be missing from train, or the
            result leaks (see `refuse_leaks`).
    """
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ManifestError(f"fractions {fractions}: expected three shares of 0 or more that add up to 1")
    table = manifest.table
    key = _units(table, by)
    if by == "utterance" and "audio_hash" in table:
        hashes = table["audio_hash"].where(table["audio_hash"] != "", key)
        if not hashes.is_unique:
            first = pd.DataFrame({"hash": hashes, "key": key}).sort_values("key").drop_duplicates("hash")
            key = hashes.map(first.set_index("hash")["key"])
    units = pd.DataFrame({"unit": key, "speaker": table["speaker"]})
    if not key.is_unique:
        units = units.sort_values(["unit", "speaker"]).drop_duplicates("unit")
    strata = units["speaker"] if by == "utterance" else None
    if stratify is not None:
        strata = _strata(table, key, stratify)[units["unit"]]
    units = units.iloc[_order(units["unit"], strata, seed)]
    counts = _apportion(len(units), fractions, by)
    if by in BUILT_IN or stratify is not None:
        names = _evenly_spaced(counts)
    else:
        counts = _apportion(len(table), fractions, by)  # such units are of very different sizes
        names = _sharing_speakers(table.groupby(key)["speaker"].agg(list).loc[units["unit"]].tolist(), counts, by)
    chosen = key.map(dict(zip(units["unit"], names, strict=True)))
    result = Manifest(manifest.root, table.assign(split=chosen.astype(str)))
    refuse_leaks(result, by=by)
    return result


def _order(units: "pd.Series[str]", strata: "pd.Series[str] | None", seed: int) -> NDArray[np.intp]:
    """Order units by a hash of (seed, name), stratum by stratum, so that at even spaces all strata are shared alike."""
    hashed = [blake2b(f"{seed}\0{unit}".encode(), digest_size=8).digest() for unit in units]
    order = np.frombuffer(b"".join(hashed), ">u8")
    if strata is None:
        return np.argsort(order, kind="stable")
    return np.lexsort((order, pd.factorize(strata, sort=True)[0]))  # numbers: sorting a million texts takes long


def _strata(table: pd.DataFrame, key: "pd.Series[str]", column: str) -> "pd.Series[str]":
    """Find each unit's most frequent value of a column; of equals, the first by name."""
    values = _units(table, column, "stratify by")
    counts = pd.DataFrame({"unit": key, "value": values}).value_counts().rename("count").reset_index()
    most = counts.sort_values(["count", "value"], ascending=[False, True]).drop_duplicates("unit")
    return most.set_index("unit")["value"]


def _evenly_spaced(counts: Sequence[int]) -> list[str]:
    """Name the split of each unit, with the units of test and then of dev at even spaces."""
    names = np.full(sum(counts), SPLITS[0], dtype=object)
    free = np.arange(len(names))
    for name, count in zip(SPLITS[:0:-1], counts[:0:-1], strict=True):  # test, then dev; train is the rest
        j = np.arange(len(free))  # take `count` of them, evenly spaced
        taken = (j + 1) * count // max(1, len(free)) > j * count // max(1, len(free))
        names[free[taken]] = name
        free = free[~taken]
    return [str(name) for name in names]


def _sharing_speakers(speakers_of: Sequence[Sequence[str]], counts: Sequence[int], by: str) -> list[str]:
    """Name the split of each unit, so that train has every speaker, and test and dev as many as possible.

    The next unit of a split is the one that adds most speakers to it; of equals, the first.

    Args:
        speakers_of: speaker of each utterance of each unit.
        counts: number of utterances in train, dev and test, to less than one unit.
        by: what a unit is, for the message.

    Raises:
        ManifestError: a speaker would be missing from train.
    """
    names, free = [SPLITS[0]] * len(speakers_of), list(range(len(speakers_of)))
    num_units = Counter(speaker for speakers in speakers_of for speaker in set(speakers))  # in train
    for name, room in zip(SPLITS[:0:-1], counts[:0:-1], strict=True):
        missing, is_empty = set(num_units), True
        while room > 0:
            spare = [i for i in free if not counts[0] or all(num_units[speaker] > 1 for speaker in speakers_of[i])]
            if not spare:
                scarce = min(num_units, key=lambda speaker: (num_units[speaker], speaker))
                raise ManifestError(
                    f"split by {by}: speaker {scarce!r} would be missing from train, where each speaker needs a {by} "
                    "that is in no other split; lower the fractions of dev and test, or split by utterance or speaker"
                )
            fitting = [i for i in spare if len(speakers_of[i]) <= room]
            if not fitting and not is_empty:
                break
            fitting = fitting or [min(spare, key=lambda i: len(speakers_of[i]))]
            gains = [len(missing.intersection(speakers_of[i])) for i in fitting]
            i = fitting[gains.index(max(gains))]
            names[i], room, is_empty = name, room - len(speakers_of[i]), False
            free.remove(i)
            missing.difference_update(speakers_of[i])
            num_units.subtract(set(speakers_of[i]))
    return names


def read_utterance_list(path: str | Path) -> list[str]:
    """Read a list of utterances: one id a line, with or without the suffix of a sound file.

    Raises:
        ManifestError: the file is missing, is not text, names no utterance, or names one twice.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ManifestError(f"{path}: not a readable list of utterances ({reason}); expected one id a line") from None
    names = [line.strip() for line in lines if line.strip()]
    names = [name.removesuffix(Path(name).suffix) if Path(name).suffix in EXTENSIONS else name for name in names]
    if not names:
        raise ManifestError(f"{path}: empty; expected utterance ids, one a line")
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise ManifestError(f"{path}: names utterance {name!r} {count} times; expected each once")
    return names


def split_as_listed(
    manifest: Manifest, train: Sequence[str], test: Sequence[str], *, dev_fraction: float = 0.1, seed: int = 0
) -> Manifest:
    """Add a column `split` from lists of utterances; dev is taken out of train as `split_manifest` by utterance does.

    Args:
        manifest: the utterances; an earlier `split` column is replaced.
        train: ids of the utterances of train and dev.
        test: ids of the utterances of test.
        dev_fraction: share of `train` that becomes dev, above 0 and below 1.
        seed: seed of the choice of dev.

    Returns:
        The listed utterances alone, in the manifest's order.

    Raises:
        ManifestError: an utterance is not in the manifest, or is in both lists; a recording is in two splits.
    """
    known, both = set(manifest.utterances), sorted(set(train) & set(test))
    if both:
        raise ManifestError(
            f"utterance {both[0]!r} is in the list of train and in that of test ({len(both)} such); remove it from one"
        )
    for name, listed in (("train", train), ("test", test)):
        unknown = [utterance for utterance in listed if utterance not in known]
        if unknown:
            raise ManifestError(
                f"the list of {name} names {unknown[0]!r}, which the manifest lacks ({len(unknown)} of {len(listed)} "
                f"such; the manifest has e.g. {manifest.utterances[0]!r}); is it a list of another corpus?"
            )
    in_train = set(train)
    carved = split_manifest(
        manifest.keep([utterance in in_train for utterance in manifest.utterances]),
        by="utterance",
        fractions=(1 - dev_fraction, dev_fraction, 0),
        seed=seed,
    )
    split_of = {**dict(zip(carved.utterances, carved.column("split"), strict=True)), **dict.fromkeys(test, "test")}
    listed_rows = manifest.keep([utterance in split_of for utterance in manifest.utterances])
    result = listed_rows.with_column("split", [split_of[utterance] for utterance in listed_rows.utterances])
    refuse_leaks(result, by="utterance")
    return result


def _apportion(num_units: int, fractions: tuple[float, float, float], by: str) -> list[int]:
    """Divide units between the splits: exact to one unit, `num_units` in all, and no wanted split empty."""
    wanted = [i for i in range(3) if fractions[i] > 0]
    if num_units < len(wanted):
        empty = ", ".join(SPLITS[i] for i in wanted[num_units:])
        raise ManifestError(
            f"split by {by}: {num_units} of these for {len(wanted)} splits, {empty} would be empty; "
            "set the fraction of a split to 0, split by something smaller, or add data"
        )
    quotas = [num_units * fraction / sum(fractions) for fraction in fractions]
    counts = [int(quota) for quota in quotas]
    by_remainder = sorted(wanted, key=lambda i: counts[i] - quotas[i])
    for i in by_remainder[: num_units - sum(counts)]:
        counts[i] += 1
    for i in wanted:
        if counts[i] == 0:
            counts[counts.index(max(counts))] -= 1
            counts[i] = 1
    return counts


def _units(table: pd.DataFrame, by: str, what: str = "split by") -> "pd.Series[str]":
    """Name the unit of each row; `what` begins the messages."""
    if by not in table:
        raise ManifestError(
            f"{what} {by}: the manifest has no {by} column, it has {', '.join(table.columns)}; use a --pattern "
            f"with {{{by}}}, or --labels with the column"
        )
    if by == "chapter":
        return table["speaker"] + "/" + table["chapter"]  # chapter numbers may repeat across speakers
    units = table[by].astype(str)
    if (units == "").any():
        raise ManifestError(
            f"{what} {by}: {int((units == '').sum())} utterances have no {by}, e.g. "
            f"{table['utterance'][units == ''].iloc[0]}; expected some text in each row"
        )
    return units


def refuse_leaks(manifest: Manifest, *, by: By) -> None:
    """Check that splits share no utterance, sound file or recording nor, if `by` says so, chapter or speaker.

    Links are followed to the sound file. Recordings are compared by their `audio_hash` where there is one. Segments of
    one file may be in several splits, but must not overlap then.

    Raises:
        ManifestError: there is no split column, or two splits share something; the message names both files and splits.
    """
    table = manifest.table
    if "split" not in table:
        raise ManifestError("the manifest has no split column; make it by cpc manifest --split")
    files = _real_paths(manifest)
    is_segment = manifest.starts >= 0
    if is_segment.any():
        _refuse_overlaps(manifest, files[files.isin(files[is_segment])])
    shared = {"utterance": table["utterance"], "sound file": files[~is_segment]}
    if "audio_hash" in table:
        shared["recording"] = table["audio_hash"][table["audio_hash"] != ""]
    if by != "utterance":
        shared[by] = _units(table, by)
    for what, keys in shared.items():
        pairs = pd.DataFrame({"key": keys, "split": table["split"].loc[keys.index]}).drop_duplicates()
        twice = pairs["key"][pairs["key"].duplicated()]
        if len(twice):
            first, second = table.loc[pairs.index[pairs["key"] == twice.iloc[0]][:2]].itertuples()
            raise ManifestError(
                f"{first.path} ({first.split}) and {second.path} ({second.split}) share one {what}, "
                f"{twice.iloc[0]}; remove one or split again by cpc manifest --split ({len(twice)} such)"
            )


def _refuse_overlaps(manifest: Manifest, files: "pd.Series[str]") -> None:
    """Refuse utterances of two splits that share samples of a file; `files` names the file of each row in question."""
    starts, lengths, splits = manifest.starts, manifest.num_samples, manifest.column("split")
    names = manifest.utterances
    for rows in files.groupby(files).groups.values():
        last: dict[str, tuple[int, int]] = {}  # split: where its sound ends so far, and the row that ends there
        for i in sorted(map(int, rows), key=lambda i: starts[i]):
            for split, (stop, j) in last.items():
                if split != splits[i] and max(0, starts[i]) < stop:
                    raise ManifestError(
                        f"{names[j]} ({split}) and {names[i]} ({splits[i]}) overlap in {manifest.paths[i]}; keep each "
                        "file in one split by cpc manifest --split path"
                    )
            last[splits[i]] = max(last.get(splits[i], (0, i)), (int(max(0, starts[i]) + lengths[i]), i))


def _real_paths(manifest: Manifest) -> "pd.Series[str]":
    """Resolve every path, but each folder only once: a million files would take minutes."""
    folders: dict[str, str] = {}
    result = []
    for path in manifest.table["path"].tolist():
        folder, slash, name = path.rpartition("/")
        if folder not in folders:
            folders[folder] = os.path.realpath(os.path.join(manifest.root, folder + slash))
        real = f"{folders[folder]}/{name}"
        result.append(os.path.realpath(real) if os.path.islink(real) else real)
    return pd.Series(result, index=manifest.table.index, dtype=str)
