"""Phone accuracy against minutes of training: which setting learns fastest on this machine, on the dev split.

    python recipes/minispeech/learning_speed.py [--corpus runs/minispeech/corpus] [--out runs/learning_speed]

For each setting in SETTINGS: train with checkpoints kept on the way, probe c of each (30,000 train frames), and draw
accuracy against the seconds that training had taken, with MFCC as the line to cross. What is finished is kept.
"""

import argparse
import dataclasses
import json
import shutil
from pathlib import Path

import matplotlib.pyplot as plt

from cpc.config import read_config
from cpc.data import read_manifest
from cpc.features import Extractor, SpectralExtractor, extract_features, extractor_of_run, open_features
from cpc.files import replacing, write_bytes
from cpc.labels import read_labels
from cpc.probes import probe_phones, save
from cpc.runs import read_checkpoint
from cpc.train import complete

# Name: preset or file, changed fields, updates, updates between probes.
SETTINGS = {
    "paper, one GPU's 8 windows": ("paper", {"batches": {"num_windows": 8}, "data": {"workers": 0}}, 600, 200),
    "small, before the study": (Path(__file__).parent / "small_before.toml", {}, 2400, 800),
    "small": ("small", {}, 2400, 400),
    "small, 4800 updates": ("small", {}, 4800, 1600),
}


def main() -> None:
    """Train, probe, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("runs/minispeech/corpus"))
    parser.add_argument("--out", type=Path, default=Path("runs/learning_speed"))
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    options = parser.parse_args()
    utterances = read_manifest(options.corpus / "manifest.csv")
    labels = read_labels(options.corpus / "phone_labels.txt")

    def accuracy(extractor: Extractor, path: Path) -> float:
        """Phone accuracy on dev; the frames are thrown away, the result stays at `path`."""
        if not path.exists():
            frames = options.out / "frames"
            shutil.rmtree(frames, ignore_errors=True)
            opened = open_features(extract_features(extractor, utterances, frames))
            save(probe_phones(opened, labels, max_frames=30_000, Cs=(0.1,), evaluate="dev"), path)
            shutil.rmtree(frames)
        return float(json.loads(path.read_text())["accuracy"])

    mfcc = accuracy(SpectralExtractor("mfcc"), options.out / "mfcc.json")
    table: dict[str, list[tuple[int, float, float]]] = {}
    for name in options.only:
        preset, changes, num_updates, every = SETTINGS[name]
        config = read_config(preset)
        for section, fields in changes.items():
            config = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **fields)})
        config = dataclasses.replace(
            config,
            data=dataclasses.replace(config.data, manifest=str(options.corpus / "manifest.csv")),
            train=dataclasses.replace(
                config.train, num_updates=num_updates, keep_every=every, validate_every=num_updates, log_every=10,
                checkpoint_every=every,
            ),
        )  # fmt: skip
        run = options.out / "".join(c if c.isalnum() else "-" for c in name)
        complete(config, run)
        table[name] = []
        for kept in sorted((run / "kept").glob("*.pt")):
            payload = read_checkpoint(kept)[1]
            result = accuracy(extractor_of_run(kept, "c"), run / "probes" / f"{kept.stem}.json")
            table[name].append((payload["update"], payload["seconds"], result))

    print(f"\nMFCC: {100 * mfcc:.1f} % of dev frames\n\n| setting | updates | minutes | phone accuracy, % |")
    print("|---|---:|---:|---:|")
    for name, rows in table.items():
        for update, seconds, result in rows:
            print(f"| {name} | {update} | {seconds / 60:.1f} | {100 * result:.1f} |")
    write_bytes(options.out / "learning_speed.json", json.dumps({"mfcc": mfcc, **table}, indent=1).encode())
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, rows in table.items():
        axes.plot([row[1] / 60 for row in rows], [100 * row[2] for row in rows], marker="o", label=name)
    axes.axhline(100 * mfcc, color="black", linestyle="--", label="MFCC")
    axes.set(xlabel="minutes of training", ylabel="phone accuracy on dev, %")
    axes.legend()
    with replacing(options.out / "learning_speed.png") as temporary:
        figure.savefig(temporary, format="png", dpi=120)


if __name__ == "__main__":
    main()
