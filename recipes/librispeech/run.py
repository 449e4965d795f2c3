"""LibriSpeech: pretrain CPC, probe phones and speakers, compare with MFCC and with training on labels.

    python recipes/librispeech/run.py --root DIR [--download] [--dry-run]                       100 hours, as the paper
    python recipes/librispeech/run.py --root DIR --subset dev-clean [--download] [--dry-run]    an evening on a laptop

DIR holds LibriSpeech/SUBSET, or is one of these two folders, or holds some speakers of it under any name. With
train-clean-100, the experiment is section 3.1 of van den Oord et al. 2018 (`paper.py`); with dev-clean, it is the
standard one of cpc.experiments. A stage whose inputs and settings have not changed is skipped, so the same command
resumes after an interruption; --stage runs one stage, --dry-run shows the plan. In --out:

    manifest.csv, splits/      the utterances; splits by utterance, by chapter, by speaker
    labels/                    a phone every 10 ms, from the file that was given or from our own forced alignment
    best.safetensors, last.pt  the pretrained model (cpc.load(out)), and its learning curves
    topline/                   the same networks trained with labels
    features/, probes/         frames of each row of the table; the probes' results
    results.json, table.md     the tables; those of train-clean-100 have the paper's values beside ours
    report.html                a page to look at and listen to
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

from corpus import FRACTIONS, SUBSETS, UNITS, Subset, align_labels, copy_labels, make_manifest, make_splits
from costs import show_plan
from paper import Paper

from cpc.config import Config, read_config
from cpc.experiments import Pipeline, Stage, Stages, errors_in_one_line, override
from cpc.files import write_bytes
from cpc.probes import Options

PHONE_CLASSES = Path(__file__).resolve().parents[2] / "data" / "phone_classes.csv"
CS = (0.01, 0.1, 1.0)
MLP_FRAMES = 1_000_000  # train frames of a probe with a hidden layer, which cannot stream all of them from disk
DEFAULTS = {  # preset; train frames of a linear probe, where 0 streams all of them; folder of the run
    "train-clean-100": ("paper", 0, Path("runs/librispeech")),
    "dev-clean": ("bidirectional", 100_000, Path("runs/dev-clean")),
}


def main() -> None:
    """Run the stages that are not done, or show the plan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with LibriSpeech/SUBSET")
    parser.add_argument("--subset", choices=list(SUBSETS), default="train-clean-100", help="the part of the corpus")
    parser.add_argument("--download", action="store_true", help="fetch the subset to --root if it is not there")
    parser.add_argument("--out", type=Path, help="folder of the run; runs/librispeech or runs/dev-clean by default")
    parser.add_argument("--preset", help="a preset or a TOML file; paper by default, bidirectional for dev-clean")
    parser.add_argument("--updates", type=int, help="training updates; those of the preset by default")
    parser.add_argument("--seed", type=int, default=0, help="seed of the splits, the training and the probes")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--train-list", type=Path, help="the authors' train_split.txt; with --test-list")
    parser.add_argument("--test-list", type=Path, help="the authors' test_split.txt")
    parser.add_argument("--labels", type=Path, help="the authors' converted_aligned_phones.txt; else align")
    parser.add_argument("--phones", type=Path, help="names of the phones in --labels, `id name` a line")
    parser.add_argument("--pretrain-split", choices=UNITS, default="utterance", help="pretrain on train of this split")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="number of processes that align and probe"
    )
    parser.add_argument(
        "--probe-frames", type=int, help="train frames of each probe, 0 for all; all by default, 100000 for dev-clean"
    )
    parser.add_argument("--evaluate", choices=["test", "dev"], default="test", help="dev while settings are chosen")
    parser.add_argument("--stage", help="run this stage alone")
    parser.add_argument("--redo", action="append", default=[], metavar="STAGE", help="rerun a stage that is kept")
    parser.add_argument("--dry-run", action="store_true", help="show the plan, with hours and disk; write nothing")
    options = parser.parse_args()
    preset, probe_frames, out = DEFAULTS[options.subset]
    options.preset, options.out = options.preset or preset, options.out or out
    options.probe_frames = probe_frames if options.probe_frames is None else options.probe_frames
    with errors_in_one_line("librispeech"):
        run(options, SUBSETS[options.subset])


def run(options: argparse.Namespace, subset: Subset) -> None:
    """Run the experiment, from top to bottom."""
    if (options.train_list is None) != (options.test_list is None):
        raise ValueError("--train-list and --test-list: got one of them, expected both or none")
    if subset.find(options.root) is None and not options.download:
        raise ValueError(
            f"{options.root}: no LibriSpeech/{subset.name} in it; pass --root the folder that holds LibriSpeech, "
            f"another --subset, or --download to fetch it ({subset.archive_gb} GB, and as much again to unpack)"
        )
    experiment = experiment_on(subset, options)
    report = Stage(
        "report",
        lambda: write_table(experiment.report(stages.seconds), options.out),
        inputs={str(probe.result.relative_to(options.out)): probe.result for probe in experiment.probes()},
        outputs=[options.out / name for name in ("results.json", "table.md", "report.html")],
        settings={"evaluate": options.evaluate},
    )
    stages = Stages(options.out, [*data_stages(subset, options), *experiment.stages(), report])
    if options.dry_run:
        show_plan(stages, experiment, subset, options.root, jobs=options.jobs)
    else:
        stages.run(options.stage, redo=options.redo)


def experiment_on(subset: Subset, options: argparse.Namespace) -> Paper | Pipeline:
    """Choose the experiment: section 3.1 of the paper, or the standard one."""
    splits = splits_of(options.out)
    probing = Options(evaluate=options.evaluate, max_frames=options.probe_frames, Cs=CS, seed=options.seed)
    closed = Pipeline(
        options.out,
        configure(options, splits["utterance"]),
        labels_of(options.out),
        PHONE_CLASSES,
        probing,
        hidden_layer_frames=options.probe_frames or MLP_FRAMES,
        with_topline=True,
        jobs=options.jobs,
    )
    if subset.name == "train-clean-100":
        return Paper(configure(options, splits[options.pretrain_split]), closed, splits)
    if options.pretrain_split != "utterance":
        raise ValueError(f"--pretrain-split {options.pretrain_split}: only train-clean-100 has it; leave it out")
    return closed


def configure(options: argparse.Namespace, manifest: Path) -> Config:
    """Set the preset to this corpus."""
    changes = {"seed": options.seed, "device": options.device, "data.manifest": str(manifest)}
    if options.updates:
        changes["train.num_updates"] = options.updates
    return override(read_config(options.preset), changes, where="librispeech")


def data_stages(subset: Subset, options: argparse.Namespace) -> list[Stage]:
    """List the stages that make manifest, splits and labels."""
    out, corpus = options.out, subset.find(options.root) or options.root / "LibriSpeech" / subset.name
    table, splits, labels = out / "manifest.csv", splits_of(out), labels_of(out)
    closed = splits["utterance"]
    lists = (options.train_list, options.test_list) if options.train_list else None

    if options.labels:
        labels_from = given(labels=options.labels, phones=options.phones)
        make_labels = partial(copy_labels, closed, options.labels, options.phones, labels)
    else:
        labels_from, make_labels = {"transcripts": corpus}, partial(align_labels, closed, corpus, labels, options.jobs)
    return [
        Stage("download", partial(subset.download, options.root), outputs=[corpus]),
        Stage("manifest", lambda: make_manifest(corpus, subset, table), inputs={"corpus": corpus}, outputs=[table]),
        Stage(
            "split",
            lambda: make_splits(table, out / "splits", options.seed, lists),
            inputs={"manifest": table, **given(train_list=options.train_list, test_list=options.test_list)},
            outputs=list(splits.values()),
            settings={"seed": options.seed, "fractions": FRACTIONS},
        ),
        Stage("labels", make_labels, inputs={"utterance split": closed, **labels_from}, outputs=[labels], keep=True),
    ]


def given(**paths: Path | None) -> dict[str, Path]:
    """Select the files that the command line names."""
    return {role: path for role, path in paths.items() if path is not None}


def splits_of(out: Path) -> dict[str, Path]:
    """Name the manifest of each split."""
    return {unit: out / "splits" / f"{unit}.csv" for unit in UNITS}


def labels_of(out: Path) -> Path:
    """Name the label file."""
    return out / "labels" / "phone_labels.txt"


def write_table(table: str, out: Path) -> None:
    """Write the table beside the results, and print it."""
    write_bytes(out / "table.md", f"{table}\n".encode())
    print(table)


if __name__ == "__main__":
    main()
