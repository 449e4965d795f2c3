"""Section 3.1 of van den Oord et al. 2018 on LibriSpeech train-clean-100: pretrain, probe phones and speakers, compare.

    python recipes/librispeech/run.py --root DIR [--download] [--out runs/librispeech] [--dry-run]

DIR holds LibriSpeech/train-clean-100, or is one of these two folders. A stage whose inputs have not changed is
skipped, so the same command goes on after an interruption; --stage runs one, --dry-run shows what there is to do. In
--out:

    manifest.csv, splits/      the utterances; train, dev and test apart by utterance, by chapter, by speaker
    labels/                    a phone every 10 ms: the file that was given, or our own forced alignment
    best.pt, last.pt           the pretrained model (cpc.load(out)), and its pictures
    topline/                   the same networks trained with labels
    features/, probes/         frames of each network and of MFCC; what classifiers read from them
    results.json, table.md     the tables, beside the paper's values
    report.html                a page to look at and listen to
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torchaudio.datasets import LIBRISPEECH
from tqdm import tqdm

from cpc.config import Config, config_identity, read_config
from cpc.data import (
    SPLITS,
    Manifest,
    read_manifest,
    read_utterance_list,
    scan_folder,
    scan_summary,
    split_as_listed,
    split_manifest,
    write_manifest,
)
from cpc.devices import resolve_device
from cpc.experiments import Stage, Stages, measure_speed, plan
from cpc.features import Dtype, Extractor, SpectralExtractor, extract_features, extractor_of_run, open_features
from cpc.files import write_bytes
from cpc.labels import align, labelled_utterances, read_labels, read_phone_classes, read_phones, read_transcripts
from cpc.probes import Classifier, probe_phones, probe_speakers, save
from cpc.report import draw_accuracy_by_k, draw_learning_curves, markdown_table, write_page
from cpc.train import complete

DATA = Path(__file__).resolve().parents[2] / "data"
SUBSET = "train-clean-100"
NUM_UTTERANCES, HOURS, ARCHIVE_GB = 28_539, 100.6, 6.3
UNITS = ("utterance", "chapter", "speaker")  # by what train and test are apart; by utterance is the closed set
FRACTIONS = (0.72, 0.08, 0.2)  # the authors' lists are 80 % train and 20 % test; a tenth of train is our dev
DEV_OF_TRAIN = 0.1
DTYPE: Dtype = "float16"  # of frames on disk: 18.5 GB for c of the whole corpus, 37 in float32
CS = (0.01, 0.1, 1.0)
MLP_FRAMES = 1_000_000  # that the probe with a hidden layer draws, where the linear one reads them all from disk

PREDICTIONS = "probes/phone-cpc_c.predictions.txt"  # for the report
FRAMES = {  # by stage, the frames that it probes
    "probes": ("cpc_z", "cpc_c"),
    "baselines": ("mfcc", "untrained"),
    "topline": ("supervised_phone", "supervised_speaker"),
}
ROWS = {  # of the table: name, and the paper's accuracies in % of phones and of speakers, by frame
    "majority": ("majority class", None, None),
    "untrained": ("untrained network", 27.6, 1.87),
    "mfcc": ("MFCC", 39.7, 17.6),
    "cpc_z": ("CPC z", None, None),
    "cpc_c": ("CPC c", 64.6, 97.4),
    "cpc_c_mlp": ("CPC c, one hidden layer", 72.5, None),
    "supervised": ("supervised", 74.6, 98.5),
    "shuffled": ("CPC c, shuffled labels", None, None),
}


@dataclass(frozen=True)
class Probe:
    """What is read out of which frames, under which split."""

    task: str  # "phone" or "speaker"
    frames: str  # a folder in features/
    split: str = "utterance"
    classifier: Classifier = "linear"
    shuffled: bool = False  # the control: labels that say nothing

    @property
    def file(self) -> str:
        """Of its result; the page shows those of the closed set."""
        if self.split == "utterance":
            return f"probes/{self.task}-{self.row}-test.json"
        return f"probes/{self.split}/{self.task}-{self.row}-test.json"

    @property
    def row(self) -> str:
        """Of the table."""
        if self.shuffled:
            return "shuffled"
        return self.frames.removesuffix(f"_{self.task}") + ("_mlp" if self.classifier == "mlp" else "")


# The closed set gives the paper's tables. There, a speaker probe can read the recording session instead of the voice,
# so the other splits stand beside it; with the speakers apart there is no closed set of speakers to probe.
PROBES = (
    *(Probe("phone", frames, split) for frames in ("cpc_c", "mfcc", "untrained") for split in UNITS),
    *(Probe("speaker", frames, split) for frames in ("cpc_c", "mfcc", "untrained") for split in UNITS[:2]),
    Probe("phone", "cpc_z"),
    Probe("speaker", "cpc_z"),
    Probe("phone", "cpc_c", classifier="mlp"),
    Probe("phone", "cpc_c", shuffled=True),
    Probe("speaker", "cpc_c", shuffled=True),
    Probe("phone", "supervised_phone"),
    Probe("speaker", "supervised_speaker"),
)


def main() -> None:
    """Run the stages that are to be done, or show the plan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with LibriSpeech/train-clean-100")
    parser.add_argument("--download", action="store_true", help="fetch train-clean-100 to --root if it is not there")
    parser.add_argument("--out", type=Path, default=Path("runs/librispeech"), help="folder of the run")
    parser.add_argument("--preset", default="paper", help="paper, small, or a TOML file")
    parser.add_argument("--updates", type=int, help="training updates; by default those of the preset")
    parser.add_argument("--seed", type=int, default=0, help="of splits, training and probes")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--train-list", type=Path, help="the authors' train_split.txt; with --test-list")
    parser.add_argument("--test-list", type=Path, help="the authors' test_split.txt")
    parser.add_argument("--labels", type=Path, help="the authors' converted_aligned_phones.txt; else we align")
    parser.add_argument("--phones", type=Path, help="names of the phones in --labels, `id name` a line")
    parser.add_argument("--pretrain-split", choices=UNITS, default="utterance", help="pretrain on train of this split")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that align")
    parser.add_argument("--probe-frames", type=int, default=0, help="train frames of each probe; 0 takes all")
    parser.add_argument("--stage", help="run this stage alone")
    parser.add_argument("--redo", action="append", default=[], metavar="STAGE", help="make a kept stage anew")
    parser.add_argument("--dry-run", action="store_true", help="show the plan, with hours and disk; write nothing")
    options = parser.parse_args()
    try:
        if (options.train_list is None) != (options.test_list is None):
            raise ValueError("--train-list and --test-list: got one of them, expected both or none")
        stages = experiment(options)
        if options.dry_run:
            show_plan(stages, options)
        else:
            stages.run(options.stage, redo=options.redo)
    except KeyboardInterrupt as stop:
        sys.exit(f"{stop or 'interrupted'}; the same command goes on from here")
    except (ValueError, OSError) as error:
        print(f"librispeech: error: {error}", file=sys.stderr)
        sys.exit(2)


def experiment(options: argparse.Namespace) -> Stages:
    """The experiment, from top to bottom: what each stage reads and makes."""
    out: Path = options.out
    corpus = find(options.root) or options.root / "LibriSpeech" / SUBSET
    table, labels, checkpoint = out / "manifest.csv", out / "labels" / "phone_labels.txt", out / "best.pt"
    splits = {f"{split} split": out / "splits" / f"{split}.csv" for split in UNITS}
    closed = {"utterance split": splits["utterance split"]}
    lists = given(train_list=options.train_list, test_list=options.test_list)
    labels_from = given(labels=options.labels, phones=options.phones) if options.labels else {"transcripts": corpus}
    config = configured(options)
    toplines = {target: supervised(config, target, options) for target in ("phone", "speaker")}

    folders = {stage: [out / "features" / name for name in names] for stage, names in FRAMES.items()}
    results = {stage: [out / p.file for p in PROBES if p.frames in names] for stage, names in FRAMES.items()}
    cpc = {folder.name: folder / "features.json" for folder in folders["probes"]}
    probing = {"seed": options.seed, "Cs": CS, "probe_frames": options.probe_frames, "mlp_frames": MLP_FRAMES}

    def baselines() -> None:
        extract("baselines", options)
        probe("baselines", options)

    def topline() -> None:
        for target, with_labels in toplines.items():
            complete(with_labels, out / "topline" / target)
        extract("topline", options)
        probe("topline", options)

    stages = Stages(
        out,
        [
            Stage("download", lambda: download(options), outputs=[corpus]),
            Stage("manifest", lambda: make_manifest(corpus, table), inputs={"corpus": corpus}, outputs=[table]),
            Stage(
                "split",
                lambda: make_splits(options, table),
                inputs={"manifest": table, **lists},
                outputs=list(splits.values()),
                settings={"seed": options.seed, "fractions": FRACTIONS},
            ),
            Stage(
                "labels",
                lambda: make_labels(options, corpus, labels),
                inputs={**closed, **labels_from},
                outputs=[labels],
                keep=True,
            ),
            Stage(
                "train",
                lambda: pretrain(config, out),
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
                inputs={**cpc, **splits, "labels": labels},
                outputs=[*results["probes"], out / PREDICTIONS],
                settings=probing,
            ),
            Stage(
                "baselines",
                baselines,
                inputs={"checkpoint": checkpoint, **splits, "labels": labels},  # for the architecture, and its seed
                outputs=[*folders["baselines"], *results["baselines"]],
                settings={**probing, "dtype": DTYPE},
            ),
            Stage(
                "topline",
                topline,
                inputs={**closed, "labels": labels},
                outputs=[*(out / "topline" / target for target in toplines), *folders["topline"], *results["topline"]],
                settings={
                    **probing,
                    "dtype": DTYPE,
                    **{name: config_identity(c) for name, c in toplines.items()},
                },
                keep=True,
            ),
            Stage(
                "report",
                lambda: write_report(out, stages.seconds),
                inputs={"checkpoint": checkpoint, **{p.file: out / p.file for p in PROBES}},
                outputs=[out / name for name in ("results.json", "table.md", "report.html")],
            ),
        ],
    )
    return stages


def given(**paths: Path | None) -> dict[str, Path]:
    """The files that the command line names."""
    return {role: path for role, path in paths.items() if path is not None}


def find(root: Path) -> Path | None:
    """train-clean-100, wherever --root points: above LibriSpeech, at it, or at train-clean-100 itself."""
    places = (root / "LibriSpeech" / SUBSET, root / SUBSET, root)
    return next((place for place in places if place.name == SUBSET and place.is_dir()), None)


def download(options: argparse.Namespace) -> None:
    """Fetch and unpack train-clean-100; it appears in --root when it is whole, not before."""
    root: Path = options.root
    if not options.download:
        raise ValueError(
            f"{root}: no LibriSpeech/{SUBSET} in it; pass --root the folder that holds LibriSpeech, or --download to "
            f"fetch it ({ARCHIVE_GB} GB, and as much again to unpack)"
        )
    unfinished = root / f"{SUBSET}.unfinished"
    unfinished.mkdir(parents=True, exist_ok=True)
    archive, fetched_before = unfinished / f"{SUBSET}.tar.gz", root / f"{SUBSET}.tar.gz"
    if fetched_before.exists():
        fetched_before.rename(archive)
    # torchaudio takes a folder that is there for a whole one, however little of it was unpacked.
    shutil.rmtree(unfinished / "LibriSpeech", ignore_errors=True)
    try:
        LIBRISPEECH(unfinished, url=SUBSET, download=True)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(f"{archive}: cannot be unpacked ({error}); it is cut short or damaged, remove it") from None
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{SUBSET} could not be fetched ({error}); the same command tries again, or fetch "
            f"https://www.openslr.org/resources/12/{SUBSET}.tar.gz to {root} yourself"
        ) from None
    (root / "LibriSpeech").mkdir(exist_ok=True)
    (unfinished / "LibriSpeech" / SUBSET).rename(root / "LibriSpeech" / SUBSET)
    archive.rename(fetched_before)
    shutil.rmtree(unfinished)
    print(f"download: unpacked; {fetched_before} is not needed any more", file=sys.stderr)


def make_manifest(corpus: Path, table: Path) -> None:
    """List the utterances, each decoded to its end; sound and transcripts must name the same ones."""
    scan = scan_folder(corpus)
    print(scan_summary(scan))
    sounds = {Path(path).stem for path in [*scan.manifest.table["path"], *(path for path, _ in scan.left_out)]}
    lonely = sorted(sounds ^ read_transcripts(corpus).keys())
    if lonely:
        raise ValueError(
            f"{corpus}: {len(lonely)} utterances have a sound file or a transcript but not both (e.g. {lonely[0]}); "
            "it was not unpacked or copied completely: do that again"
        )
    if len(sounds) != NUM_UTTERANCES:
        print(f"note: {len(sounds)} utterances, where {SUBSET} has {NUM_UTTERANCES}")
    write_manifest(scan.manifest, table)


def make_splits(options: argparse.Namespace, table: Path) -> None:
    """The closed set, by the authors' lists or our own; and the same utterances apart by chapter and by speaker."""
    utterances = read_manifest(table)
    if options.train_list:
        train, test = read_utterance_list(options.train_list), read_utterance_list(options.test_list)
        closed = split_as_listed(utterances, train, test, dev_fraction=DEV_OF_TRAIN, seed=options.seed)
        print(f"in neither list, left out: {len(utterances) - len(closed)} of {len(utterances)} utterances")
    else:
        closed = split_manifest(utterances, by="utterance", fractions=FRACTIONS, seed=options.seed)
    for by in UNITS:
        split = closed if by == "utterance" else split_manifest(closed, by=by, fractions=FRACTIONS, seed=options.seed)
        counts = split.table["split"].value_counts()
        print(f"split by {by}: " + ", ".join(f"{name} {counts.get(name, 0)}" for name in SPLITS))
        write_manifest(split, options.out / "splits" / f"{by}.csv")


def make_labels(options: argparse.Namespace, corpus: Path, labels: Path) -> None:
    """A phone every 10 ms: the authors' file, its lengths checked against the audio; or our forced alignment."""
    utterances = read_manifest(options.out / "splits" / "utterance.csv")
    if options.labels:
        known = labelled_utterances(utterances, read_labels(options.labels))
        print(f"labels: {len(known)} of {len(utterances)} utterances have them")
        if options.phones:
            read_phones(options.phones)
            write_bytes(labels.with_name("phones.txt"), options.phones.read_bytes())
        write_bytes(labels, options.labels.read_bytes())
    else:
        align(utterances, read_transcripts(corpus), labels.parent, jobs=options.jobs)


def configured(options: argparse.Namespace) -> Config:
    """The preset, on this corpus."""
    preset = read_config(options.preset)
    return dataclasses.replace(
        preset,
        seed=options.seed,
        device=options.device,
        data=dataclasses.replace(preset.data, manifest=str(options.out / "splits" / f"{options.pretrain_split}.csv")),
        train=dataclasses.replace(preset.train, num_updates=options.updates or preset.train.num_updates),
    )


def supervised(config: Config, target: str, options: argparse.Namespace) -> Config:
    """The same networks, trained end to end to name the phone or the speaker; on the closed set."""
    labels = str(options.out / "labels" / "phone_labels.txt") if target == "phone" else ""
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, manifest=str(options.out / "splits" / "utterance.csv")),
        loss=dataclasses.replace(config.loss, name="supervised", target=target, labels=labels),
    )


def pretrain(config: Config, out: Path) -> None:
    """Train CPC, or go on; draw how it learned."""
    complete(config, out)
    draw_learning_curves(out, out / "learning_curves.png")
    draw_accuracy_by_k(out, out / "accuracy_by_k.png", which="best")


def extract(stage: str, options: argparse.Namespace) -> None:
    """Frames of every utterance of the closed set."""
    out, device = options.out, resolve_device(options.device)
    utterances = read_manifest(out / "splits" / "utterance.csv")
    extractors: dict[str, Callable[[], Extractor]] = {
        "cpc_z": lambda: extractor_of_run(out, "z", device=device),
        "cpc_c": lambda: extractor_of_run(out, "c", device=device),
        "mfcc": lambda: SpectralExtractor("mfcc"),
        "untrained": lambda: extractor_of_run(out, "c", untrained=True, device=device),
        "supervised_phone": lambda: extractor_of_run(out / "topline" / "phone", "c", device=device),
        "supervised_speaker": lambda: extractor_of_run(out / "topline" / "speaker", "c", device=device),
    }
    for name in FRAMES[stage]:
        extract_features(extractors[name](), utterances, out / "features" / name, dtype=DTYPE)


def probe(stage: str, options: argparse.Namespace) -> None:
    """What classifiers read out of a stage's frames, a file each. A file that is there was made from these inputs."""
    out: Path = options.out
    labels = read_labels(out / "labels" / "phone_labels.txt")
    phones = out / "labels" / "phones.txt"
    phone_names = read_phones(phones) if phones.exists() else None
    phone_classes = read_phone_classes(DATA / "phone_classes.csv") if phone_names else None
    for asked in (asked for asked in PROBES if asked.frames in FRAMES[stage] and not (out / asked.file).exists()):
        print(f"-- {asked.file}", file=sys.stderr)
        split = read_manifest(out / "splits" / f"{asked.split}.csv")
        max_frames = options.probe_frames or (MLP_FRAMES if asked.classifier == "mlp" else 0)
        how: dict[str, Any] = {
            "max_frames": max_frames, "Cs": CS, "seed": options.seed, "classifier": asked.classifier,
            "shuffle_labels": asked.shuffled, "progress": tqdm.write,
        }  # fmt: skip
        if asked.task == "phone":
            opened = open_features(out / "features" / asked.frames, split)
            predictions = out / PREDICTIONS if asked == Probe("phone", "cpc_c") else None
            named = {"phone_names": phone_names, "phone_classes": phone_classes}
            result = probe_phones(opened, labels, predictions=predictions, **named, **how)
        else:
            known = of_known_speakers(split)
            opened = open_features(out / "features" / asked.frames, known)
            result = probe_speakers(opened, **how)
            result["num_left_out_utterances"] = len(split) - len(known)
        save(result, out / asked.file)


def of_known_speakers(split: Manifest) -> Manifest:
    """Without the utterances of speakers who are not in train: some read one chapter alone."""
    table = split.table
    known = table["speaker"].isin(table["speaker"][table["split"] == "train"])
    return Manifest(split.root, table[known].reset_index(drop=True))


def write_report(out: Path, seconds: dict[str, float]) -> None:
    """The tables, ours beside the paper's, and a page to look at."""
    found = {asked: json.loads((out / asked.file).read_text()) for asked in PROBES}
    results: dict[str, dict[str, Any]] = {"phone": {}, "speaker": {}}
    for asked, result in found.items():
        if asked.split == "utterance":
            results[asked.task] |= {"majority": result["majority"], asked.row: result}
    write_bytes(out / "results.json", (json.dumps({**results, "seconds": seconds}) + "\n").encode())
    times = ", ".join(f"{name} {value / 3600:.2f} h" for name, value in seconds.items())
    text = "\n\n".join([closed_set(results), side_by_side(found), f"Time: {times}."]) + "\n"
    write_bytes(out / "table.md", text.encode())
    write_page(out, out / "report.html", labels=out / "labels" / "phone_labels.txt")
    print(text)


def closed_set(results: dict[str, dict[str, Any]]) -> str:
    """The paper's tables: ours, with 95 % intervals, and the paper's values."""
    rows = [["accuracy in %", "phone, frame", "paper", "speaker, frame", "paper", "speaker, utterance"]]
    for key, (name, *paper) in ROWS.items():
        phone, speaker = (results[task].get(key, {}) for task in ("phone", "speaker"))
        said = ["–" if value is None else f"{value:g}" for value in paper]
        frame, utterance = percent(speaker, "accuracy"), percent(speaker, "utterance_accuracy")
        rows.append([name, percent(phone, "accuracy"), said[0], frame, said[1], utterance])
    return markdown_table(rows)


def side_by_side(found: dict[Probe, dict[str, Any]]) -> str:
    """The same probes with train and test apart by utterance (the closed set), by chapter, and by speaker."""
    columns = [("phone", split, "accuracy") for split in UNITS]
    columns += [("speaker", split, kind) for kind in ("accuracy", "utterance_accuracy") for split in UNITS[:2]]
    units = {"accuracy": "frame", "utterance_accuracy": "utterance"}
    rows = [["accuracy in %", *(f"{task}, {units[kind]}; by {split}" for task, split, kind in columns)]]
    for frames in ("untrained", "mfcc", "cpc_c"):
        cells = [percent(found[Probe(task, frames, split)], kind) for task, split, kind in columns]
        rows.append([ROWS[frames][0], *cells])
    return markdown_table(rows)


def percent(result: dict[str, Any], kind: str) -> str:
    """An accuracy with its 95 % interval, where there are such."""
    if kind not in result:
        return "–"
    interval = [f"{100 * value:.1f}" for value in result.get(f"{kind}_interval", ())]
    return f"{100 * result[kind]:.1f}" + (f" ({' to '.join(interval)})" if interval else "")


def show_plan(stages: Stages, options: argparse.Namespace) -> None:
    """What would be done, with hours and gigabytes: speed measured here, the corpus's size as found or as known."""
    config, corpus = configured(options), find(options.root)
    print(f"measuring the speed of {options.preset} on {resolve_device(options.device)}", file=sys.stderr)
    speed = measure_speed(config)
    corpus_gb = sum(file.stat().st_size for file in corpus.rglob("*.flac")) / 1e9 if corpus else ARCHIVE_GB
    hours = HOURS * corpus_gb / ARCHIVE_GB
    frames = hours * 3600 * 100
    dimension_gb = frames * np.dtype(DTYPE).itemsize / 1e9
    z, c = config.encoder.channels * dimension_gb, config.autoregressor.hidden * dimension_gb
    training, extraction = config.train.num_updates * speed.update_seconds / 3600, hours / speed.extraction
    cores = min(os.cpu_count() or 1, 8)
    rows = options.probe_frames or 4 * FRACTIONS[0] * frames  # of them all, streaming makes four passes
    probing = {
        stage: sum(rows / (PROBED[p.task] * cores) / 3600 for p in PROBES if p.frames in names)
        for stage, names in FRAMES.items()
    }
    costs = {
        "download": (corpus_gb / DOWNLOAD_GB_AN_HOUR, 2 * corpus_gb),
        "manifest": (hours / (DECODING * (os.cpu_count() or 1)), 0.0),
        "labels": (0.0 if options.labels else hours / (ALIGNING * options.jobs), 3 * frames / 1e9),
        "train": (training, 0.0),
        "features": (2 * extraction, z + c),
        "probes": (probing["probes"], 0.0),
        "baselines": (2 * extraction + probing["baselines"], c + 39 * dimension_gb),
        "topline": (2 * training + 2 * extraction + probing["topline"], 2 * c),
    }
    print(plan(stages, costs))
    place = next(folder for folder in (options.out.resolve(), *options.out.resolve().parents) if folder.exists())
    print(
        f"\n{hours:.1f} hours of audio; measured here: {speed.update_seconds:.3g} s an update, features "
        f"{speed.extraction:.0f} × real time; assumed: {ASSUMED}; free at {place}: "
        f"{shutil.disk_usage(place).free / 1e9:.0f} GB"
    )
    command = f"cpc train {options.preset} --data.manifest {config.data.manifest} --seed {config.seed}"
    print(f"stage train is: {command} --train.num-updates {config.train.num_updates} --out {options.out}")


DOWNLOAD_GB_AN_HOUR, DECODING, ALIGNING = 36, 300, 28  # the last two: times real time, a core
PROBED = {"phone": 20_000, "speaker": 6_000}  # frames a second and core, on a busy machine
ASSUMED = (
    f"{DOWNLOAD_GB_AN_HOUR / 3.6:.0f} MB/s of download; that a core decodes {DECODING} × and aligns {ALIGNING} × real "
    f"time, and probes {PROBED['phone']} frames a second for phones, {PROBED['speaker']} for speakers; that supervised "
    "updates take as long as CPC's"
)


if __name__ == "__main__":
    main()
