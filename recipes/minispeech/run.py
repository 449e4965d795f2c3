"""minispeech from end to end: synthesise speech, train CPC, extract features, probe phones and speakers.

    python recipes/minispeech/run.py [--out runs/minispeech] [--minutes 60] [--preset bidirectional] [--updates N]
                                     [--seed 0] [--topline] [--split sentence]

A stage whose inputs and settings have not changed is skipped, so the same command resumes after an interruption. Other
settings of the corpus or of the training are refused, rather than mixed with what --out holds:

    corpus/                    sound, labels and manifest.csv         learning_curves.png, accuracy_by_k.png
    best.safetensors, last.pt  the trained model (cpc.load(out))      probes/*.json
    features/                  frames of each row of the table        results.json, the table that is printed
    report.html                a page to look at and listen to        stages/*.json
    topline/                   with --topline: the same network trained with labels, for phones and for speakers
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean

from synthesise import sentences_spoken, synthesise

from cpc.config import Config, read_config
from cpc.data import scan_folder, split_manifest, write_manifest
from cpc.experiments import Pipeline, Stage, Stages, errors_in_one_line, override
from cpc.probes import Options
from cpc.report import percent

PHONE_CLASSES = Path(__file__).resolve().parents[2] / "data" / "phone_classes.csv"
PROBE_FRAMES = 30_000  # train frames of each probe
SPLITS = {  # what no two splits share, which two sentences make an utterance, and what the table says about test
    "utterance": ("random", "utterances not seen in training, speakers shared"),
    "sentence": ("fixed", "sentences not seen in training, speakers shared"),
}


def main() -> None:
    """Read the command line and run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/minispeech"), help="folder of the run")
    parser.add_argument("--minutes", type=float, default=60, help="minutes of speech to synthesise")
    parser.add_argument("--speakers", type=int, help="number of speakers; all of the corpus's by default")
    parser.add_argument("--preset", default="logmel", help="logmel, bidirectional, small, or a TOML file")
    parser.add_argument("--updates", type=int, help="training updates; those of the preset by default")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the corpus, the split, the training and the probes"
    )
    parser.add_argument(
        "--split", choices=SPLITS, default="utterance", help="what no two splits share; sentence makes another corpus"
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
    partners, unseen = SPLITS[options.split]
    other = {} if options.split == "utterance" else {"split": options.split}  # runs of earlier versions do not name it
    pipeline = Pipeline(
        out,
        configure(options),
        labels=corpus / "phone_labels.txt",
        phone_classes=PHONE_CLASSES,
        options=Options(evaluate=options.evaluate, max_frames=PROBE_FRAMES, Cs=(0.01, 0.1, 1.0), seed=options.seed),
        with_topline=options.topline,
    )
    stages = Stages(
        out,
        [
            Stage(
                "synthesise",
                lambda: synthesise(
                    corpus,
                    minutes=options.minutes,
                    seed=options.seed,
                    num_speakers=options.speakers,
                    partners=partners,
                ),
                outputs=[corpus],
                settings={"minutes": options.minutes, "seed": options.seed, "speakers": options.speakers, **other},
                keep=True,
            ),
            Stage(
                "manifest",
                lambda: make_manifest(corpus, options.split, options.seed),
                inputs={"corpus": corpus / "corpus.json"},
                outputs=[corpus / "manifest.csv"],
                settings={"seed": options.seed, **other},
            ),
            *pipeline.stages(),
        ],
    )
    stages.run(redo=options.redo)
    table = pipeline.report(stages.seconds)
    print(f"\nAccuracy in %, {options.evaluate} split ({unseen}):\n\n{table}")
    print(f"wrote {out}/results.json, learning_curves.png, accuracy_by_k.png, and report.html to look at")


def configure(options: argparse.Namespace) -> Config:
    """Set the preset to this corpus."""
    changes = {"seed": options.seed, "data.manifest": str(options.out / "corpus" / "manifest.csv")}
    if options.updates:
        changes["train.num_updates"] = options.updates
    return override(read_config(options.preset), changes, where="minispeech")


def make_manifest(corpus: Path, split: str, seed: int) -> None:
    """List the utterances with their sentences, and split them; all speakers are in train, and nearly all in test."""
    scan = scan_folder(corpus)
    print(scan)
    sentences = sentences_spoken(corpus)
    column = ["+".join(map(str, sentences[utterance])) for utterance in scan.manifest.utterances]
    manifest = split_manifest(scan.manifest.with_column("sentence", column), by=split, seed=seed)
    in_train = {sentence for utterance in manifest.select("train").utterances for sentence in sentences[utterance]}
    of_test = [sentence for utterance in manifest.select("test").utterances for sentence in sentences[utterance]]
    print(f"sentences of test that also occur in train: {percent(mean(s in in_train for s in of_test))} %")
    write_manifest(manifest, corpus / "manifest.csv")


if __name__ == "__main__":
    main()
