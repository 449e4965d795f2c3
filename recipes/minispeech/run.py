"""minispeech, the whole way: synthesise speech, train CPC, extract features, probe phones and speakers.

    python recipes/minispeech/run.py [--out runs/minispeech] [--minutes 60] [--updates N] [--seed 0] [--topline]

Each stage keeps what it finished: the same command goes on after an interruption, and a change of its settings is
refused rather than mixed in. In --out:

    corpus/              sound, labels and manifest.csv          learning_curves.png, accuracy_by_k.png
    best.pt, last.pt     the trained model (cpc.load(out))       probes/*.json
    features/            frames of MFCC, untrained, z and c      results.json, and the table it prints
    report.html          a page to look at and listen to
    topline/             with --topline: the same network trained with labels, for phones and for speakers
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from synthesise import synthesise

from cpc.config import Config, read_config
from cpc.data import read_manifest, scan_folder, scan_summary, split_manifest, write_manifest
from cpc.features import Extractor, SpectralExtractor, extract_features, extractor_of_run, open_features
from cpc.files import write_bytes
from cpc.labels import read_labels, read_phone_classes, read_phones
from cpc.probes import probe_phones, probe_speakers, save
from cpc.report import draw_accuracy_by_k, draw_learning_curves, results_table, write_page
from cpc.train import complete

PHONE_CLASSES = Path(__file__).resolve().parents[2] / "data" / "phone_classes.csv"
PROBE = {"max_frames": 100_000, "Cs": (0.01, 0.1, 1.0)}


def main() -> None:
    """Run all stages and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/minispeech"), help="folder of the run")
    parser.add_argument("--minutes", type=float, default=60, help="of speech to synthesise")
    parser.add_argument("--speakers", type=int, help="how many of the corpus's speakers; all by default")
    parser.add_argument("--updates", type=int, help="training updates; by default those of the preset")
    parser.add_argument("--seed", type=int, default=0, help="of the corpus, the split, the training and the probes")
    parser.add_argument("--topline", action="store_true", help="also train the same network with labels")
    parser.add_argument("--evaluate", choices=["test", "dev"], default="test", help="dev while settings are chosen")
    options = parser.parse_args()
    try:
        run(options)
    except KeyboardInterrupt as stop:
        sys.exit(f"{stop or 'interrupted'}; the same command goes on from here")
    except (ValueError, OSError) as error:
        print(f"minispeech: error: {error}", file=sys.stderr)
        sys.exit(2)


def run(options: argparse.Namespace) -> None:
    """The experiment, from top to bottom."""
    out: Path = options.out
    corpus = out / "corpus"
    seconds = Stopwatch(out / "seconds.json")

    with seconds.stage("synthesise"):
        synthesise(corpus, minutes=options.minutes, seed=options.seed, num_speakers=options.speakers)

    with seconds.stage("manifest"):
        if not (corpus / "manifest.csv").exists():
            scan = scan_folder(corpus)
            print(scan_summary(scan))
            split = split_manifest(scan.manifest, by="utterance", seed=options.seed)
            write_manifest(split, corpus / "manifest.csv")
        utterances = read_manifest(corpus / "manifest.csv")

    with seconds.stage("train"):
        config = configured(corpus / "manifest.csv", options)
        complete(config, out)
        draw_learning_curves(out, out / "learning_curves.png")
        draw_accuracy_by_k(out, out / "accuracy_by_k.png", which="best")

    with seconds.stage("features"):
        extractors: dict[str, Extractor] = {
            "mfcc": SpectralExtractor("mfcc"),
            "untrained": extractor_of_run(out, "c", untrained=True),
            "cpc_z": extractor_of_run(out, "z"),
            "cpc_c": extractor_of_run(out, "c"),
        }
        folders = {
            name: extract_features(extractor, utterances, out / "features" / name)
            for name, extractor in extractors.items()
        }
        probed = [(name, task, folder) for name, folder in folders.items() for task in ("phone", "speaker")]

    if options.topline:
        with seconds.stage("topline"):
            for task in ("phone", "speaker"):
                loss = dataclasses.replace(
                    config.loss, name="supervised", target=task, labels=str(corpus / "phone_labels.txt")
                )
                topline = complete(dataclasses.replace(config, loss=loss), out / "topline" / task)
                folder = extract_features(extractor_of_run(topline, "c"), utterances, topline / "features")
                probed.append(("supervised", task, folder))

    with seconds.stage("probes"):
        labels = read_labels(corpus / "phone_labels.txt")
        names = read_phones(corpus / "phones.txt")
        phone_classes = read_phone_classes(PHONE_CLASSES)
        results: dict[str, dict[str, dict[str, object]]] = {
            "phone": {"majority": {}},
            "speaker": {"majority": {}},
        }
        for name, task, folder in probed:
            path = out / "probes" / f"{task}-{name}-{options.evaluate}.json"
            if not path.exists():
                opened = open_features(folder)
                probing = {**PROBE, "seed": options.seed, "evaluate": options.evaluate, "progress": print}
                if task == "phone":
                    result = probe_phones(
                        opened, labels, phone_names=names, phone_classes=phone_classes,
                        predictions=path.with_suffix(".predictions.txt") if name == "cpc_c" else None, **probing,
                    )  # fmt: skip
                else:
                    result = probe_speakers(opened, **probing)
                save(result, path)
            result = json.loads(path.read_text())
            results[task]["majority"] = result["majority"]
            results[task][name] = {key: result[key] for key in REPORTED if key in result}

    table = {**results, "evaluate": options.evaluate, "seconds": seconds.of_stage}
    write_bytes(out / "results.json", (json.dumps(table, indent=2) + "\n").encode())
    print(f"\nAccuracy in %, {options.evaluate} split (utterances not seen in training, speakers shared):\n")
    print(results_table(table))
    write_page(out, out / "report.html", labels=corpus / "phone_labels.txt")
    print(f"wrote {out}/results.json, learning_curves.png, accuracy_by_k.png, and report.html to look at")


REPORTED = (
    "accuracy", "accuracy_interval", "utterance_accuracy", "utterance_accuracy_interval", "C", "num_train_frames",
    "converged", "warning",
)  # fmt: skip


def configured(manifest_csv: Path, options: argparse.Namespace) -> Config:
    """The small preset, on this corpus."""
    preset = read_config("small")
    return dataclasses.replace(
        preset,
        seed=options.seed,
        data=dataclasses.replace(preset.data, manifest=str(manifest_csv)),
        train=dataclasses.replace(preset.train, num_updates=options.updates or preset.train.num_updates),
    )


class Stopwatch:
    """Seconds spent in each stage, over all the calls that it took."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.of_stage: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the seconds that the block takes."""
        print(f"== {name}", file=sys.stderr)
        started = time.monotonic()
        try:
            yield
        finally:
            spent = self.of_stage.get(name, 0) + time.monotonic() - started
            self.of_stage[name] = round(spent, 1)
            write_bytes(self.path, json.dumps(self.of_stage).encode())


if __name__ == "__main__":
    main()
