"""Extract features in several shares, by processes or machines that share a disk: a job array of a cluster.

Each share is a features folder of its own until the last one to end joins them. What was extracted side by side stays
so, and frames are equal, to the bit, to those of a single call.
"""

from __future__ import annotations

import json
import os
import shutil
from itertools import chain
from pathlib import Path
from typing import Any

from cpc.data import Manifest, write_manifest
from cpc.features.extract import (
    WHAT,
    Dtype,
    claim_features,
    extract_features,
    files_to_write,
    finish_features,
    group_files,
)
from cpc.features.extractors import Extractor
from cpc.features.sources import SOURCES, join_sources
from cpc.features.store import FRAMES, MANIFEST, RECORD, FeaturesError, first_names
from cpc.files import SHARDS, Claim, Shard, locked


def extract_shard(
    shard: Shard,
    extractor: Extractor,
    manifest: Manifest,
    out: str | Path,
    *,
    resample: bool = False,
    dtype: Dtype = "float32",
    **how: Any,
) -> int:
    """Extract one share of a manifest's utterances; the last share to end makes the folder whole.

    Args:
        shard: which share.
        extractor: as for `extract_features`.
        manifest: all utterances.
        out: features folder of the whole.
        resample: as for `extract_features`.
        dtype: as for `extract_features`.
        how: further options of `extract_features`.

    Returns:
        The number of shares that are not complete yet; 0 if the folder is whole.

    Raises:
        ValueError: as `extract_features`.
    """
    out, folder = Path(out), shard.folder(Path(out))
    with locked(out, WHAT, wait=True):
        if claim_features(out, extractor, dtype=dtype, resample=resample).complete:
            return 0
    if not (out / FRAMES).exists():  # otherwise all shares are complete, and joining them was interrupted
        own = _rows(shard, extractor, manifest)
        if any(own):
            extract_features(extractor, manifest.keep(own), folder, dtype=dtype, resample=resample, **how)
        else:  # more shares than there is work
            finish_features(claim_features(folder, extractor, dtype=dtype, resample=resample), extractor, [], [])
    with locked(out, WHAT, wait=True):
        record = claim_features(out, extractor, dtype=dtype, resample=resample)
        if record.complete:
            return 0
        waiting = shard.waits_for(out, RECORD)
        if not waiting:
            _join(shard, extractor, manifest, out, record)
        return waiting


def _rows(shard: Shard, extractor: Extractor, manifest: Manifest) -> list[bool]:
    """Say which utterances a share has: whole groups of those that are extracted side by side."""
    files = files_to_write(extractor, manifest, Path())
    groups = group_files([file for file in files if file.num_frames], extractor.sample_rate)
    own = {file.target.stem for file in chain.from_iterable(shard.take(groups))}
    if shard.number == 1:  # which also says what is too short
        own |= {file.target.stem for file in files if not file.num_frames}
    return [utterance in own for utterance in manifest.utterances]


def _join(shard: Shard, extractor: Extractor, manifest: Manifest, out: Path, record: Claim) -> None:
    """Move the frames of all shares into the folder of the whole; after an interruption, the next call goes on."""
    too_short: list[str] = []
    unreadable: list[str] = []
    (out / FRAMES).mkdir(exist_ok=True)
    folders = [share.folder(out) for share in shard.all()]
    for folder in folders:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        too_short += found.get("too_short", [])
        unreadable += found.get("unreadable", [])
        for path in folder.glob(f"{FRAMES}/*.npy"):
            os.replace(path, out / FRAMES / path.name)
    there = {path.stem for path in (out / FRAMES).glob("*.npy")}.union(too_short, unreadable)
    if missing := sorted(set(manifest.utterances) - there):
        raise FeaturesError(
            f"{out}: {len(missing)} utterances are in no share ({first_names(missing)}), so not all shares are of "
            "this manifest; remove the folder and extract again"
        )
    write_manifest(manifest, out / MANIFEST)
    join_sources([folder / SOURCES for folder in folders], out / SOURCES)
    finish_features(record, extractor, too_short, unreadable)
    shutil.rmtree(out / SHARDS)
