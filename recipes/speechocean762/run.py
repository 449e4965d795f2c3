"""speechocean762 from end to end: align its words, train CPC, extract features, probe phones and speakers.

    python recipes/speechocean762/run.py --root DIR [--download] [--out runs/speechocean762] [--evaluate dev]

DIR holds speechocean762/, or is this folder; a selection of speakers in LibriSpeech's layout with speakers.csv will do
too. A stage whose inputs and settings have not changed is skipped, so the same command resumes after an interruption.
In --out:

    manifest.csv               the utterances, with speaker, gender, age (years) and split
    labels/                    a phone every 10 ms, from forced alignment of the words
    best.safetensors, last.pt  the trained model (cpc.load(out)), and its learning curves
    features/, probes/         frames of each row of the table, and the probes' results
    results.json               the table that is printed
    report.html                a page to look at and listen to
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from layouts import find, list_utterances, read_words, refuse_incomplete

sys.path.append(str(Path(__file__).resolve().parents[1] / "librispeech"))
from openslr import fetch

from cpc.config import Config, read_config
from cpc.data import read_manifest, split_manifest, write_manifest
from cpc.experiments import Pipeline, Stage, Stages, errors_in_one_line, override
from cpc.labels import align
from cpc.probes import Options

PHONE_CLASSES = Path(__file__).resolve().parents[2] / "data" / "phone_classes.csv"


def main() -> None:
    """Read the command line and run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with speechocean762")
    parser.add_argument("--download", action="store_true", help="fetch speechocean762 to --root if it is not there")
    parser.add_argument("--out", type=Path, default=Path("runs/speechocean762"), help="folder of the run")
    parser.add_argument("--preset", default="logmel", help="a preset or a TOML file")
    parser.add_argument("--updates", type=int, help="training updates; those of the preset by default")
    parser.add_argument("--probe-frames", type=int, default=100_000, help="train frames of each linear probe")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split, the training and the probes")
    parser.add_argument("--evaluate", choices=["test", "dev"], default="test", help="dev while settings are chosen")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="number of processes that align and probe"
    )
    parser.add_argument("--redo", action="append", default=[], metavar="STAGE", help="rerun a stage that is kept")
    options = parser.parse_args()
    with errors_in_one_line("speechocean762"):
        run(options)


def run(options: argparse.Namespace) -> None:
    """Run the experiment, from top to bottom."""
    out, corpus = options.out, find(options.root) or options.root / "speechocean762"
    manifest, labels = out / "manifest.csv", out / "labels" / "phone_labels.txt"
    pipeline = Pipeline(
        out,
        configure(options, manifest),
        labels=labels,
        phone_classes=PHONE_CLASSES,
        options=Options(
            evaluate=options.evaluate, max_frames=options.probe_frames, Cs=(0.01, 0.1, 1.0), seed=options.seed
        ),
        jobs=options.jobs,
    )
    stages = Stages(
        out,
        [
            Stage("download", lambda: download(options), outputs=[corpus]),
            Stage(
                "manifest",
                lambda: make_manifest(corpus, manifest, options.seed),
                inputs={"corpus": corpus},
                outputs=[manifest],
                settings={"seed": options.seed},
            ),
            Stage(
                "labels",
                lambda: print(align(read_manifest(manifest), read_words(corpus), labels.parent, jobs=options.jobs)),
                inputs={"manifest": manifest, "transcripts": corpus},
                outputs=[labels],
                keep=True,
            ),
            *pipeline.stages(),
        ],
    )
    stages.run(redo=options.redo)
    table = pipeline.report(stages.seconds)
    print(f"\nAccuracy in %, {options.evaluate} split (utterances not seen in training, speakers shared):\n\n{table}")
    print(f"wrote {out}/results.json, learning_curves.png, accuracy_by_k.png, and report.html to look at")


def download(options: argparse.Namespace) -> None:
    """Fetch and unpack the corpus, and count what was unpacked.

    Raises:
        ValueError: --download was not passed, or as `fetch`.
    """
    if not options.download:
        raise ValueError(
            f"{options.root}: no speechocean762 in it; pass --root the folder that holds it, or --download to fetch it "
            "(520 MB, and somewhat more to unpack)"
        )
    fetch("101/speechocean762.tar.gz", "speechocean762", options.root, check=refuse_incomplete)


def configure(options: argparse.Namespace, manifest: Path) -> Config:
    """Set the preset to this corpus."""
    changes = {"seed": options.seed, "data.manifest": str(manifest)}
    if options.updates:
        changes["train.num_updates"] = options.updates
    return override(read_config(options.preset), changes, where="speechocean762")


def make_manifest(corpus: Path, manifest: Path, seed: int) -> None:
    """List the utterances and split them; all speakers are in every split."""
    write_manifest(split_manifest(list_utterances(corpus), by="utterance", seed=seed), manifest)


if __name__ == "__main__":
    main()
