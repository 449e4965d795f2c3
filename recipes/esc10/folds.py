"""The clips of ESC-10, and which of them are train, dev and test."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path

from cpc.data import refuse_leaks, scan_folder, write_manifest

FOLDS = ("1", "2", "3", "4", "5")
PATTERN = "{number} - {category}/{fold}-{speaker}-{take}"  # a clip's speaker is the recording that it was cut from


def find(root: Path) -> Path:
    """Find the folder that holds the class folders.

    Raises:
        ValueError: there is none in `root`.
    """
    for folder in (root, root / "ESC-10"):
        if any(folder.glob("* - */?-*-?.*")):
            return folder
    raise ValueError(
        f"{root}: no ESC-10 in it; run `git clone https://github.com/karoldvl/ESC-10 && git -C ESC-10 checkout "
        "553c8f17` (41 MB; the commit after it has no clips), and pass --root ESC-10"
    )


def make_manifests(corpus: Path, out: Path) -> None:
    """Write OUT/fold-N.csv for each fold N as test, with the fold before it as dev and the others as train.

    Raises:
        ValueError: a class has not as many clips in one fold as in another; a recording is in two folds.
    """
    scan = scan_folder(corpus, speaker=PATTERN)
    print(scan)
    folds, categories = scan.manifest.column("fold"), scan.manifest.column("category")
    counts = Counter(zip(categories, folds, strict=True))
    places = sorted(product(set(categories), FOLDS))
    category, fold = min(places, key=lambda place: counts[place])
    if counts[category, fold] != max(counts.values()):
        raise ValueError(
            f"{corpus}: {counts[category, fold]} clips of {category!r} in fold {fold}, but {max(counts.values())} "
            "elsewhere; ESC-10 has 8 of each class in each fold, so get it again"
        )
    for i, fold in enumerate(FOLDS):
        split_of = {fold: "test", FOLDS[i - 1]: "dev"}
        manifest = scan.manifest.with_column("split", [split_of.get(of, "train") for of in folds])
        refuse_leaks(manifest, by="speaker")
        write_manifest(manifest, out / f"fold-{fold}.csv")
