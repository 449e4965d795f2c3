"""ESC-10 from end to end: on each published fold, train CPC on the others, and classify clips by pooled frames.

    python recipes/esc10/run.py --root DIR [--out runs/esc10] [--seeds 0 1 2] [--folds 1 2 3 4 5] [--evaluate dev]

DIR holds the class folders of ESC-10, or a folder ESC-10 that does. A stage whose inputs and settings have not changed
is skipped, so the same command resumes after an interruption, and folds and seeds can run in calls of their own. In
--out:

    fold-1.csv …               the clips, with fold 1 as test, fold 5 as dev and the others as train, and so on
    features/                  MFCC and log-mel energies of all clips
    fold-1/seed-0/ …           the trained model (cpc.load), its learning curves, and the probes' results
    results.json               the accuracies of the last call's folds and seeds, and the seconds of each stage
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from folds import FOLDS, find, make_manifests

from cpc.config import config_identity, read_config
from cpc.data import read_manifest
from cpc.experiments import Stage, Stages, errors_in_one_line, extractor_of_row, override, temporary_features, train_run
from cpc.features import SpectralExtractor, extract_features, open_features
from cpc.files import write_json
from cpc.probes import Options, Result, probe_column
from cpc.report import ROWS, markdown_table, mean_and_deviation
from cpc.runs import best_weights

SPECTRAL, LEARNED = ("mfcc", "logmel"), ("untrained", "cpc_z", "cpc_c")
NAMES = {**ROWS, "logmel": "log-mel energies"}
PROBES = {  # how the frames of a clip are pooled, and what classifies it
    "mean, linear": ("mean", "linear"),
    "mean, hidden layer": ("mean", "mlp"),
    "mean and deviation, linear": ("mean_deviation", "linear"),
    "mean and deviation, hidden layer": ("mean_deviation", "mlp"),
}
CS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


def main() -> None:
    """Read the command line and run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with ESC-10")
    parser.add_argument("--out", type=Path, default=Path("runs/esc10"), help="folder of the experiment")
    parser.add_argument(
        "--preset", default=str(Path(__file__).with_name("esc10.toml")), help="a TOML file for 44.1 kHz"
    )
    parser.add_argument("--updates", type=int, help="training updates; those of the preset by default")
    parser.add_argument("--folds", nargs="+", choices=FOLDS, default=FOLDS, help="folds that are test, one at a time")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds of the training and the probes")
    parser.add_argument("--evaluate", choices=["test", "dev"], default="test", help="dev while settings are chosen")
    parser.add_argument("--redo", action="append", default=[], metavar="STAGE", help="rerun a stage that is kept")
    options = parser.parse_args()
    with errors_in_one_line("esc10"):
        run(options)


def run(options: argparse.Namespace) -> None:
    """Run the experiment, from top to bottom."""
    out, corpus = options.out, find(options.root)
    trials = list(product(options.folds, options.seeds))
    listing = Stage(
        "manifests",
        lambda: make_manifests(corpus, out),
        inputs={"corpus": corpus},
        outputs=[out / f"fold-{fold}.csv" for fold in FOLDS],
    )
    spectral = Stage(
        "spectral",
        lambda: extract_spectral(options),
        inputs={"manifest": out / "fold-1.csv"},
        outputs=[out / "features" / row for row in SPECTRAL],
    )
    stages = Stages(out, [listing, spectral, *(stage for trial in trials for stage in stages_of(options, *trial))])
    stages.run(redo=options.redo)
    found = [record for trial in trials for record in results_of(options, *trial)]
    write_json(out / "results.json", {"evaluate": options.evaluate, "results": found, "seconds": stages.seconds})
    print(f"\nAccuracy in % of {options.evaluate} clips, mean over folds {', '.join(options.folds)}:\n")
    print(table(found, {name: {"probe": name} for name in PROBES}))
    best = "mean and deviation, linear"
    print(f"\nBy fold, {best}:\n")
    print(table(found, {f"fold {fold}": {"fold": fold, "probe": best} for fold in options.folds}))
    seeds, minutes = ", ".join(map(str, options.seeds)), sum(stages.seconds.values()) / 60
    print(f"\nMean ± standard deviation over seeds {seeds}. Time: {minutes:.1f} minutes.")


def extract_spectral(options: argparse.Namespace) -> None:
    """Write the frames of the baselines, which are the same for all folds."""
    manifest, sample_rate = read_manifest(options.out / "fold-1.csv"), read_config(options.preset).audio.sample_rate
    for row in SPECTRAL:
        extract_features(SpectralExtractor(row, sample_rate), manifest, options.out / "features" / row)


def stages_of(options: argparse.Namespace, fold: str, seed: int) -> list[Stage]:
    """List the stages with one fold as test and one seed: train, probe."""
    manifest, folder = options.out / f"fold-{fold}.csv", options.out / f"fold-{fold}" / f"seed-{seed}"
    changes: dict[str, Any] = {"seed": seed, "data.manifest": str(manifest)}
    if options.updates:
        changes["train.num_updates"] = options.updates
    config = override(read_config(options.preset), changes, where="esc10")
    train = Stage(
        f"train-fold-{fold}-seed-{seed}",
        lambda: train_run(config, folder),
        inputs={"manifest": manifest},
        outputs=[*(folder / name for name in ("config.toml", "metrics.jsonl", "last.pt")), best_weights(folder)],
        settings=config_identity(config),
        keep=True,
    )
    probes = Stage(
        f"probes-fold-{fold}-seed-{seed}-{options.evaluate}",
        lambda: run_probes(options, fold, seed),
        inputs={"checkpoint": best_weights(folder), "manifest": manifest},
        outputs=[result_of(options, fold, seed, row, name) for row, name in product((*SPECTRAL, *LEARNED), PROBES)],
        settings={"Cs": list(CS)},
    )
    return [train, probes]


def run_probes(options: argparse.Namespace, fold: str, seed: int) -> None:
    """Classify clips by the features of each row; those of the network are removed afterwards."""
    manifest, folder = read_manifest(options.out / f"fold-{fold}.csv"), options.out / f"fold-{fold}" / f"seed-{seed}"
    sample_rate = read_config(options.preset).audio.sample_rate
    for row in (*SPECTRAL, *LEARNED):
        if row in SPECTRAL:
            opened = nullcontext(open_features(options.out / "features" / row, manifest))
        else:
            opened = temporary_features(extractor_of_row(row, folder, sample_rate), manifest, folder / "features" / row)
        with opened as features:
            for name, (pooling, classifier) in PROBES.items():
                how = Options(evaluate=options.evaluate, classifier=classifier, pooling=pooling, Cs=CS, seed=seed)
                probe_column(features, "category", how).save(result_of(options, fold, seed, row, name))


def result_of(options: argparse.Namespace, fold: str, seed: int, row: str, name: str) -> Path:
    """Name the file of a probe's result."""
    folder = options.out / f"fold-{fold}" / f"seed-{seed}" / "probes"
    return folder / f"category-{row}-{'-'.join(PROBES[name])}-{options.evaluate}.json"


def results_of(options: argparse.Namespace, fold: str, seed: int) -> list[dict[str, Any]]:
    """Collect the accuracies of all rows and probes, and that of the majority class."""
    records = []
    for name, row in product(PROBES, (*SPECTRAL, *LEARNED)):
        result = Result.read(result_of(options, fold, seed, row, name))
        where = {"fold": fold, "seed": seed, "probe": name}
        records.append({**where, "row": row, "accuracy": result.utterance_accuracy, "C": result.C})
        records.append({**where, "row": "majority", "accuracy": result.majority["utterance_accuracy"]})
    return records


def table(found: list[dict[str, Any]], columns: dict[str, dict[str, str]]) -> str:
    """Format accuracies in %: for each row and column, the mean over folds, and its mean and deviation over seeds."""
    lines = [["accuracy in %", *columns]]
    for row in ("majority", *SPECTRAL, *LEARNED):
        cells = []
        for wanted in columns.values():
            of = [one for one in found if one["row"] == row and wanted.items() <= one.items()]
            seeds = dict.fromkeys(one["seed"] for one in of)
            means = [100 * mean(one["accuracy"] for one in of if one["seed"] == seed) for seed in seeds]
            cells.append(mean_and_deviation(means))
        lines.append([NAMES[row], *cells])
    return markdown_table(lines)


if __name__ == "__main__":
    main()
