"""minispeech from end to end: synthesise speech, train CPC, extract features, probe phones and speakers.

    python recipes/minispeech/run.py [--out runs/minispeech] [--minutes 60] [--updates N] [--seed 0] [--topline]

A stage whose inputs and settings have not changed is skipped, so the same command resumes after an interruption. Other
settings of the corpus or of the training are refused, rather than mixed with what --out holds:

    corpus/              sound, labels and manifest.csv          learning_curves.png, accuracy_by_k.png
    best.pt, last.pt     the trained model (cpc.load(out))       probes/*.json
    features/            frames of MFCC, untrained, z and c      results.json, the table that is printed
    report.html          a page to look at and listen to         stages/*.json
    topline/             with --topline: the same network trained with labels, once for phones and once for speakers
"""

from __future__ import annotations

import argparse
from pathlib import Path

from synthesise import synthesise

from cpc.config import Config, read_config
from cpc.data import scan_folder, split_manifest, write_manifest
from cpc.experiments import Pipeline, Stage, Stages, errors_in_one_line, override
from cpc.probes import Options

PHONE_CLASSES = Path(__file__).resolve().parents[2] / "data" / "phone_classes.csv"


def main() -> None:
    """Read the command line and run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/minispeech"), help="folder of the run")
    parser.add_argument("--minutes", type=float, default=60, help="minutes of speech to synthesise")
    parser.add_argument("--speakers", type=int, help="number of speakers; all of the corpus's by default")
    parser.add_argument("--updates", type=int, help="training updates; those of the preset by default")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the corpus, the split, the training and the probes"
    )
    parser.add_argument("--topline", action="store_true", help="also train the same network with labels")
    parser.add_argument("--evaluate", choices=["test", "dev"], default="test", help="dev while settings are chosen")
    parser.add_argument("--redo", action="append", default=[], metavar="STAGE", help="rerun a stage that is kept")
    options = parser.parse_args()
    with errors_in_one_line("minispeech"):
        run(options)


def run(options: argparse.Namespace) -> None:
    """Run the experiment, from top to bottom."""
    out, corpus = options.out, options.out / "corpus"
    pipeline = Pipeline(
        out,
        configure(options),
        labels=corpus / "phone_labels.txt",
        phone_classes=PHONE_CLASSES,
        options=Options(evaluate=options.evaluate, max_frames=100_000, Cs=(0.01, 0.1, 1.0), seed=options.seed),
        with_topline=options.topline,
    )
    stages = Stages(
        out,
        [
            Stage(
                "synthesise",
                lambda: synthesise(corpus, minutes=options.minutes, seed=options.seed, num_speakers=options.speakers),
                outputs=[corpus],
                settings={"minutes": options.minutes, "seed": options.seed, "speakers": options.speakers},
                keep=True,
            ),
            Stage(
                "manifest",
                lambda: make_manifest(corpus, options.seed),
                inputs={"corpus": corpus / "corpus.json"},
                outputs=[corpus / "manifest.csv"],
                settings={"seed": options.seed},
            ),
            *pipeline.stages(),
        ],
    )
    stages.run(redo=options.redo)
    table = pipeline.report(stages.seconds)
    print(f"\nAccuracy in %, {options.evaluate} split (utterances not seen in training, speakers shared):\n\n{table}")
    print(f"wrote {out}/results.json, learning_curves.png, accuracy_by_k.png, and report.html to look at")


def configure(options: argparse.Namespace) -> Config:
    """Set the preset small to this corpus."""
    changes = {"seed": options.seed, "data.manifest": str(options.out / "corpus" / "manifest.csv")}
    if options.updates:
        changes["train.num_updates"] = options.updates
    return override(read_config("small"), changes, where="minispeech")


def make_manifest(corpus: Path, seed: int) -> None:
    """List the utterances and split them; all speakers are in every split."""
    scan = scan_folder(corpus)
    print(scan)
    write_manifest(split_manifest(scan.manifest, by="utterance", seed=seed), corpus / "manifest.csv")


if __name__ == "__main__":
    main()
