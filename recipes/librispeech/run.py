"""Section 3.1 of van den Oord et al. 2018 on LibriSpeech train-clean-100: pretrain, probe phones and speakers, compare.

    python recipes/librispeech/run.py --root DIR [--download] [--out runs/librispeech] [--dry-run]

DIR holds LibriSpeech/train-clean-100, or is one of these two folders. A stage whose inputs and settings have not
changed is skipped, so the same command resumes after an interruption; --stage runs one stage, --dry-run shows the plan.
In --out:

    manifest.csv, splits/      the utterances; splits by utterance, by chapter, by speaker
    labels/                    a phone every 10 ms, from the file that was given or from our own forced alignment
    best.pt, last.pt           the pretrained model (cpc.load(out)), and its learning curves
    topline/                   the same networks trained with labels
    features/, probes/         frames of each network and of MFCC; the probes' results
    results.json, table.md     the tables, beside the paper's values
    report.html                a page to look at and listen to
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Any

from corpus import (
    ARCHIVE_GB,
    FRACTIONS,
    SUBSET,
    UNITS,
    align_labels,
    copy_labels,
    download,
    find,
    make_manifest,
    make_splits,
)
from costs import DTYPE, show_plan

from cpc.config import Config, config_identity, read_config
from cpc.data import read_manifest
from cpc.devices import resolve_device
from cpc.experiments import (
    Probe,
    Stage,
    Stages,
    Task,
    errors_in_one_line,
    extract_row,
    override,
    run_probes,
    table_rows,
    train_run,
)
from cpc.files import write_bytes, write_json
from cpc.labels import read_phone_labels
from cpc.probes import Options
from cpc.report import markdown_table, percent, write_page
from cpc.train import complete

PHONE_CLASSES = Path(__file__).resolve().parents[2] / "data" / "phone_classes.csv"
CS = (0.01, 0.1, 1.0)
MLP_FRAMES = 1_000_000  # train frames of the probe with a hidden layer; the linear ones stream all of them from disk

Results = dict[str, dict[str, dict[str, Any]]]  # by task, row and field
PREDICTIONS = "probes/phone-cpc_c.predictions.txt"  # for the report
FEATURES = {  # the features that each stage extracts and probes
    "probes": ("cpc_z", "cpc_c"),
    "baselines": ("mfcc", "untrained"),
    "topline": ("supervised_phone", "supervised_speaker"),
}
ROWS = {  # the rows of the table: name, and the paper's accuracies in % of phones and of speakers, by frame
    "majority": ("majority class", None, None),
    "untrained": ("untrained network", 27.6, 1.87),
    "mfcc": ("MFCC", 39.7, 17.6),
    "cpc_z": ("CPC z", None, None),
    "cpc_c": ("CPC c", 64.6, 97.4),
    "cpc_c_mlp": ("CPC c, one hidden layer", 72.5, None),
    "supervised": ("supervised", 74.6, 98.5),
    "shuffled": ("CPC c, shuffled labels", None, None),
}
# The closed set gives the paper's tables, but there a speaker probe can recognise the recording session instead of the
# voice, so the table shows the other splits beside it. By speaker, no speaker of test is known from train.
COMPARED = ("untrained", "mfcc", "cpc_c")
PROBES: tuple[tuple[Task, str, str], ...] = (  # task, row, split
    *(("phone", row, unit) for row in COMPARED for unit in UNITS),
    *(("speaker", row, unit) for row in COMPARED for unit in UNITS[:2]),
    *(("phone", row, "utterance") for row in ("cpc_z", "cpc_c_mlp", "supervised", "shuffled")),
    *(("speaker", row, "utterance") for row in ("cpc_z", "supervised", "shuffled")),
)


def main() -> None:
    """Run the stages that are not done, or show the plan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with LibriSpeech/train-clean-100")
    parser.add_argument("--download", action="store_true", help="fetch train-clean-100 to --root if it is not there")
    parser.add_argument("--out", type=Path, default=Path("runs/librispeech"), help="folder of the run")
    parser.add_argument("--preset", default="paper", help="paper, small, or a TOML file")
    parser.add_argument("--updates", type=int, help="training updates; those of the preset by default")
    parser.add_argument("--seed", type=int, default=0, help="seed of the splits, the training and the probes")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--train-list", type=Path, help="the authors' train_split.txt; with --test-list")
    parser.add_argument("--test-list", type=Path, help="the authors' test_split.txt")
    parser.add_argument("--labels", type=Path, help="the authors' converted_aligned_phones.txt; else align")
    parser.add_argument("--phones", type=Path, help="names of the phones in --labels, `id name` a line")
    parser.add_argument("--pretrain-split", choices=UNITS, default="utterance", help="pretrain on train of this split")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="number of processes that align")
    parser.add_argument("--probe-frames", type=int, default=0, help="train frames of each probe; 0 takes all")
    parser.add_argument("--stage", help="run this stage alone")
    parser.add_argument("--redo", action="append", default=[], metavar="STAGE", help="rerun a stage that is kept")
    parser.add_argument("--dry-run", action="store_true", help="show the plan, with hours and disk; write nothing")
    options = parser.parse_args()
    with errors_in_one_line("librispeech"):
        if (options.train_list is None) != (options.test_list is None):
            raise ValueError("--train-list and --test-list: got one of them, expected both or none")
        stages = experiment(options)
        if options.dry_run:
            probes = {stage: probes_of(options, stage) for stage in FEATURES}
            show_plan(stages, configure(options), probes, options)
        else:
            stages.run(options.stage, redo=options.redo)


def experiment(options: argparse.Namespace) -> Stages:
    """Describe the experiment from top to bottom."""
    out: Path = options.out
    results = {str(probe.result.relative_to(out)): probe.result for probe in probes_of(options)}
    report = Stage(
        "report",
        lambda: write_report(options, stages.seconds),
        inputs={"checkpoint": out / "best.pt", **results},
        outputs=[out / name for name in ("results.json", "table.md", "report.html")],
    )
    stages = Stages(out, [*data_stages(options), *model_stages(options), report])
    return stages


def data_stages(options: argparse.Namespace) -> list[Stage]:
    """List the stages that make manifest, splits and labels."""
    out, corpus = options.out, find(options.root) or options.root / "LibriSpeech" / SUBSET
    table, closed, labels = out / "manifest.csv", splits_of(out)["utterance split"], labels_of(out)
    lists = (options.train_list, options.test_list) if options.train_list else None

    def fetch() -> None:
        if not options.download:
            raise ValueError(
                f"{options.root}: no LibriSpeech/{SUBSET} in it; pass --root the folder that holds LibriSpeech, or "
                f"--download to fetch it ({ARCHIVE_GB} GB, and as much again to unpack)"
            )
        download(options.root)

    if options.labels:
        labels_from = given(labels=options.labels, phones=options.phones)
        make_labels = partial(copy_labels, closed, options.labels, options.phones, labels)
    else:
        labels_from, make_labels = {"transcripts": corpus}, partial(align_labels, closed, corpus, labels, options.jobs)
    return [
        Stage("download", fetch, outputs=[corpus]),
        Stage("manifest", lambda: make_manifest(corpus, table), inputs={"corpus": corpus}, outputs=[table]),
        Stage(
            "split",
            lambda: make_splits(table, out / "splits", options.seed, lists),
            inputs={"manifest": table, **given(train_list=options.train_list, test_list=options.test_list)},
            outputs=list(splits_of(out).values()),
            settings={"seed": options.seed, "fractions": FRACTIONS},
        ),
        Stage("labels", make_labels, inputs={"utterance split": closed, **labels_from}, outputs=[labels], keep=True),
    ]


def model_stages(options: argparse.Namespace) -> list[Stage]:
    """List the stages that train, extract and probe."""
    out, labels, checkpoint = options.out, labels_of(options.out), options.out / "best.pt"
    config, toplines = configure(options), {task: supervise(options, task) for task in ("phone", "speaker")}
    splits = splits_of(out)
    closed = {"utterance split": splits["utterance split"]}
    folders = {stage: [out / "features" / name for name in names] for stage, names in FEATURES.items()}
    results = {stage: [probe.result for probe in probes_of(options, stage)] for stage in FEATURES}
    probing = {"seed": options.seed, "Cs": CS, "probe_frames": options.probe_frames, "mlp_frames": MLP_FRAMES}

    def make_baselines() -> None:
        extract("baselines", options)
        probe("baselines", options)

    def make_topline() -> None:
        for task, topline in toplines.items():
            complete(topline, out / "topline" / task)
        extract("topline", options)
        probe("topline", options)

    return [
        Stage(
            "train",
            lambda: train_run(config, out),
            inputs={"split": splits[f"{options.pretrain_split} split"]},
            outputs=[out / name for name in ("config.toml", "metrics.jsonl", "last.pt", "best.pt")],
            settings=config_identity(config),
            keep=True,
        ),
        Stage(
            "features",
            lambda: extract("probes", options),
            inputs={"checkpoint": checkpoint, **closed},
            outputs=folders["probes"],
            settings={"dtype": DTYPE},
        ),
        Stage(
            "probes",
            lambda: probe("probes", options),
            inputs={**{f.name: f / "features.json" for f in folders["probes"]}, **splits, "labels": labels},
            outputs=[*results["probes"], out / PREDICTIONS],
            settings=probing,
        ),
        Stage(
            "baselines",
            make_baselines,
            inputs={"checkpoint": checkpoint, **splits, "labels": labels},  # the checkpoint has architecture and seed
            outputs=[*folders["baselines"], *results["baselines"]],
            settings={**probing, "dtype": DTYPE},
        ),
        Stage(
            "topline",
            make_topline,
            inputs={**closed, "labels": labels},
            outputs=[*(out / "topline" / task for task in toplines), *folders["topline"], *results["topline"]],
            settings={**probing, "dtype": DTYPE, **{task: config_identity(c) for task, c in toplines.items()}},
            keep=True,
        ),
    ]


def given(**paths: Path | None) -> dict[str, Path]:
    """Select the files that the command line names."""
    return {role: path for role, path in paths.items() if path is not None}


def splits_of(out: Path) -> dict[str, Path]:
    """Name the manifest of each split."""
    return {f"{unit} split": out / "splits" / f"{unit}.csv" for unit in UNITS}


def labels_of(out: Path) -> Path:
    """Name the label file."""
    return out / "labels" / "phone_labels.txt"


def configure(options: argparse.Namespace) -> Config:
    """Set the preset to this corpus."""
    manifest = splits_of(options.out)[f"{options.pretrain_split} split"]
    changes = {"seed": options.seed, "device": options.device, "data.manifest": str(manifest)}
    if options.updates:
        changes["train.num_updates"] = options.updates
    return override(read_config(options.preset), changes, where="librispeech")


def supervise(options: argparse.Namespace, task: Task) -> Config:
    """Train the same networks end to end to name the phone or the speaker, on the closed set."""
    changes = {
        "data.manifest": str(splits_of(options.out)["utterance split"]),
        "loss.name": "supervised",
        "loss.target": task,
        "loss.labels": str(labels_of(options.out)) if task == "phone" else "",
    }
    return override(configure(options), changes, where="topline")


def probes_of(options: argparse.Namespace, stage: str | None = None) -> list[Probe]:
    """List the probes of a stage; of all stages by default."""
    out, special = options.out, {"cpc_c_mlp": "cpc_c", "shuffled": "cpc_c"}
    probes = []
    for task, row, unit in PROBES:
        features = f"supervised_{task}" if row == "supervised" else special.get(row, row)
        if stage is not None and features not in FEATURES[stage]:
            continue
        is_mlp, is_closed = row == "cpc_c_mlp", unit == "utterance"
        folder = out / "probes" if is_closed else out / "probes" / unit  # the page shows what lies in probes/ itself
        settings = Options(
            classifier="mlp" if is_mlp else "linear",
            max_frames=options.probe_frames or (MLP_FRAMES if is_mlp else 0),
            Cs=CS,
            shuffle_labels=row == "shuffled",
            seed=options.seed,
        )
        probes.append(
            Probe(
                task,
                row,
                out / "features" / features,
                folder / f"{task}-{row}-test.json",
                settings,
                splits=splits_of(out)[f"{unit} split"],
                predictions=out / PREDICTIONS if is_closed and (task, row) == ("phone", "cpc_c") else None,
                unknown_speakers="leave out",  # some speakers read one chapter alone
            )
        )
    return probes


def extract(stage: str, options: argparse.Namespace) -> None:
    """Write the frames of every utterance of the closed set."""
    utterances, device = read_manifest(splits_of(options.out)["utterance split"]), resolve_device(options.device)
    for name in FEATURES[stage]:
        extract_row(name, options.out, utterances, options.out / "features" / name, device=device, dtype=DTYPE)


def probe(stage: str, options: argparse.Namespace) -> None:
    """Run the probes of a stage; a result that exists was made from these inputs."""
    labels = labels_of(options.out)
    phones = labels.with_name("phones.txt")
    names, classes = (phones, PHONE_CLASSES) if phones.exists() else (None, None)
    run_probes(probes_of(options, stage), read_phone_labels(labels, names=names, classes=classes))


def write_report(options: argparse.Namespace, seconds: dict[str, float]) -> None:
    """Write the tables, ours beside the paper's values, and a page to look at."""
    out, probes = options.out, probes_of(options)
    found = {unit: table_rows(p for p in probes if p.splits == splits_of(out)[f"{unit} split"]) for unit in UNITS}
    write_json(out / "results.json", {**found["utterance"], "seconds": seconds})
    times = ", ".join(f"{name} {value / 3600:.2f} h" for name, value in seconds.items())
    text = "\n\n".join([closed_set(found["utterance"]), side_by_side(found), f"Time: {times}."]) + "\n"
    write_bytes(out / "table.md", text.encode())
    write_page(out, out / "report.html", labels=labels_of(out))
    print(text)


def closed_set(results: Results) -> str:
    """Format the paper's tables: our values with 95 % intervals, and the paper's."""
    rows = [["accuracy in %", "phone, frame", "paper", "speaker, frame", "paper", "speaker, utterance"]]
    for row, (name, *paper) in ROWS.items():
        phone, frame = cell(results, "phone", row, "accuracy"), cell(results, "speaker", row, "accuracy")
        phone_paper, frame_paper = ("–" if value is None else f"{value:g}" for value in paper)
        utterance = cell(results, "speaker", row, "utterance_accuracy")
        rows.append([name, phone, phone_paper, frame, frame_paper, utterance])
    return markdown_table(rows)


def side_by_side(found: dict[str, Results]) -> str:
    """Compare the same probes under the splits by utterance (the closed set), by chapter and by speaker."""
    columns = [("phone", "accuracy", unit) for unit in UNITS]
    columns += [("speaker", kind, unit) for kind in ("accuracy", "utterance_accuracy") for unit in UNITS[:2]]
    units = {"accuracy": "frame", "utterance_accuracy": "utterance"}
    rows = [["accuracy in %", *(f"{task}, {units[kind]}; by {unit}" for task, kind, unit in columns)]]
    rows += [[ROWS[row][0], *(cell(found[unit], task, row, kind) for task, kind, unit in columns)] for row in COMPARED]
    return markdown_table(rows)


def cell(results: Results, task: str, row: str, kind: str) -> str:
    """Format an accuracy with its 95 % interval, where there is one."""
    result = results[task].get(row, {})
    return percent(result.get(kind), result.get(f"{kind}_interval"))


if __name__ == "__main__":
    main()
