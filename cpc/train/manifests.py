"""The manifest of a run: where it lies, and whether it is still the one that the run was trained with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cpc.config import Config, ConfigError, read_config
from cpc.data import Manifest, read_manifest, refuse_missing_files
from cpc.infonce import Rule
from cpc.runs import Which, locate_checkpoint, read_checkpoint


def refuse_missing_sounds(config: Config, splits: Iterable[Manifest]) -> None:
    """Refuse sound files that do not exist, unless the run leaves out those that it cannot read.

    Raises:
        ManifestError: naming them.
    """
    if config.data.on_bad_audio == "error":
        refuse_missing_files([split.sound(i) for split in splits for i in range(len(split))])


def manifest_of_run(run: str | Path, which: Which = "best") -> Manifest:
    """Read the manifest that a run was trained with.

    Args:
        run: run folder, or one of its checkpoints.
        which: the checkpoint whose manifest is meant: "best" or "last".

    Raises:
        ConfigError: the run names none, it is no longer there, or it has become another one. What counts is the content
            of train and dev, not where the sound files lie.
    """
    path = locate_checkpoint(run, which)
    config, payload = read_checkpoint(path)
    if (path.parent / "config.toml").exists():  # names the new place, if the run was resumed from there
        config = replace(config, data=read_config(path.parent / "config.toml").data)
    if not config.data.manifest:
        raise ConfigError(f"{run}: names no manifest; pass --manifest, the CSV that lists the utterances")
    refuse_moved_manifest(config, run, "--manifest")
    manifest = read_manifest(config.data.manifest)
    if not is_trained_on(config, manifest, payload):
        raise ConfigError(
            f"{config.data.manifest}: its train or dev are not what {run} was trained with; pass --manifest with the "
            "one that was, or with this one if these utterances are meant"
        )
    return manifest


def is_trained_on(config: Config, manifest: Manifest, payload: Mapping[str, Any]) -> bool:
    """Whether train and dev of a manifest are what a checkpoint learned from; true if it does not know."""
    if payload.get("data") is None:  # of an earlier version
        return True
    splits = [manifest.keep([name == split for name in manifest.column("split")]) for split in ("train", "dev")]
    return digest_of(splits, columns_of(config, manifest)) == str(payload["data"])


def refuse_moved_manifest(config: Config, run: str | Path, flag: str) -> None:
    """Refuse a run whose manifest is no longer where it was.

    Args:
        config: of the run.
        run: its folder.
        flag: option that names the manifest's new place.

    Raises:
        ConfigError: there is no such file.
    """
    if not Path(config.data.manifest).exists():
        raise ConfigError(
            f"{config.data.manifest}: the manifest that {run} was trained with is no longer there; pass its new place "
            f"by {flag}"
        )


def digest_of(splits: Iterable[Manifest], columns: Sequence[str]) -> str:
    """Identify the utterances of train and dev by their content."""
    return " ".join(manifest.digest(columns) for manifest in splits)


def columns_of(config: Config, manifest: Manifest) -> tuple[str, ...]:
    """List the columns of the manifest that the negatives go by, besides the speaker and the utterance.

    Raises:
        ConfigError: the manifest has no such column.
    """
    if config.loss.name != "cpc":
        return ()
    read = {name for of in config.criterion.sets for name in Rule.of(of).columns} - {"speaker", "utterance"}
    if unknown := sorted(read.difference(manifest.columns)):
        allowed = ", ".join(manifest.columns)
        raise ConfigError(f"criterion.negatives: got the column {unknown[0]}; the manifest has {allowed}")
    return tuple(sorted(read))
