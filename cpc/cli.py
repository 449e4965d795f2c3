"""The `cpc` command: one thin command a stage.

cpc manifest DIR -o manifest.csv --split utterance     which files there are, and their train/dev/test splits
cpc align --manifest manifest.csv --transcripts DIR …   phone labels, from the words
cpc train small --data.manifest manifest.csv --out RUN train on them
cpc features RUN --out FEATURES --layer c              frames of every utterance
cpc probe phone FEATURES --labels phone_labels.txt     what a linear classifier reads from them
cpc ablate TABLE.toml --labels phone_labels.txt …      settings side by side, with seeds and the paper's values
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from cpc.config import Config, ConfigError, check_config, read_config


def manifest(
    source: Positional[Path],
    /,
    *,
    out: Annotated[Path | None, arg(aliases=["-o"])] = None,
    speaker: str = "{speaker}/{chapter}/*",
    split: Literal["utterance", "chapter", "speaker"] | None = None,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> None:
    """List the sound files of a folder, and split them into train, dev and test.

    Every file is decoded once. What is unreadable, truncated, empty or silent is listed with the reason and left out.

        cpc manifest LibriSpeech/train-clean-100 -o manifest.csv --split utterance
        cpc manifest fsdd -o fsdd.csv --speaker '{digit}_{speaker}_*' --split utterance
        cpc manifest manifest.csv --split speaker        (an existing table, split anew)

    Args:
        source: A folder of wav, flac, ogg, mp3, … files, or an existing manifest to split.
        out: The table to write (CSV); by default the manifest given, or manifest.csv in the folder.
        speaker: Where the speaker stands in a file's path: {speaker} and other {names} become columns, * is any text.
            The word none: all files are of one unknown speaker.
        split: Make train, dev and test by utterance (speakers shared), by chapter, or by speaker.
        fractions: Shares of train, dev and test.
        seed: Of the split.
    """
    from cpc.data import SPLITS, read_manifest, scan_folder, scan_summary, split_manifest, write_manifest

    if source.is_file():
        if split is None:
            raise ConfigError(f"{source}: a manifest already; pass --split to split it, or a folder to scan")
        table, target = read_manifest(source), out or source
    else:
        scan = scan_folder(source, speaker=speaker)
        table, target = scan.manifest, out or source / "manifest.csv"
        print(scan_summary(scan))
    if split is not None:
        table = split_manifest(table, by=split, fractions=fractions, seed=seed)
        counts = table.table["split"].value_counts()
        print(f"split by {split}: " + ", ".join(f"{name} {counts.get(name, 0)}" for name in SPLITS))
    write_manifest(table, target)
    print(f"wrote {target}")


def align(
    *,
    manifest: Path,
    out: Path,
    transcripts: Path | None = None,
    intervals: Path | None = None,
    tier: str = "phones",
    phones: Path | None = None,
    dictionary: Path | None = None,
    resample: bool = False,
    textgrids: bool = False,
    jobs: int = os.cpu_count() or 1,
) -> None:
    """Make phone labels: from the words, by forced alignment; or from another aligner's TextGrids or CTM.

    English, ARPAbet's 39 phones and silence, about 28 × real time a core. An utterance with a word that the dictionary
    lacks is left out and listed in left_out.csv; --dictionary adds words. What was interrupted goes on.

        cpc align --manifest manifest.csv --transcripts LibriSpeech/train-clean-100 --out labels
        cpc align --manifest manifest.csv --transcripts words.txt --out labels --textgrids
        cpc align --manifest manifest.csv --intervals mfa_output --out labels      (a folder of TextGrids)
        cpc align --manifest manifest.csv --intervals phones.ctm --out labels

    Args:
        manifest: Utterances (CSV).
        out: Folder to write: phone_labels.txt and phones.txt, for `cpc probe phone`; left_out.csv; intervals.ctm.
        transcripts: `utterance-id words …` a line; or a folder of such *.trans.txt, or of UTTERANCE.txt.
        intervals: A CTM file or a folder of TextGrids to import, instead of aligning.
        tier: Of the TextGrids.
        phones: Ids for the imported phones, `id name` a line; by default silence is 0, then the others by name.
        dictionary: Words that the dictionary lacks, `word P H O N E S` a line.
        resample: Bring files of another rate to 16 kHz.
        textgrids: Also write OUT/textgrids/UTTERANCE.TextGrid, to look at in Praat.
        jobs: Processes.
    """
    from cpc.data import read_manifest
    from cpc.labels import align, import_labels, read_transcripts, write_textgrids

    table = read_manifest(manifest)
    if (transcripts is None) == (intervals is None):
        raise ConfigError("align: pass --transcripts, the words, or --intervals, what another aligner found")
    if intervals is not None:
        without = import_labels(table, intervals, out, tier=tier, phones=phones)
        print(f"imported: {len(table) - len(without)} utterances; without intervals: {len(without)} {without[:3]}")
    elif transcripts is not None:
        words = read_transcripts(transcripts)
        print(align(table, words, out, jobs=jobs, dictionary=dictionary, resample=resample))
        if textgrids:
            write_textgrids(table, out)
    print(f"wrote {out}/phone_labels.txt")


def _train_command(default: Config) -> Callable[..., None]:
    """The train command with the defaults of the configuration that was named on the command line."""

    def train(
        toml: Positional[str] = "",
        /,
        *,
        out: Path | None = None,
        resume: Path | None = None,
        profile: bool = False,
        config: Annotated[Config, arg(name="")] = default,
    ) -> None:
        """Train CPC: a preset (small, paper) or a TOML file, and any field changed on the command line.

            cpc train small --data.manifest manifest.csv --out runs/first
            cpc train small --data.manifest manifest.csv --out runs/second --optim.lr 1e-4 --criterion.num-steps 8
            cpc train --resume runs/first

        Args:
            toml: A preset or a TOML file; what it leaves out keeps the default shown here.
            out: Run folder to make: config.toml, metrics.jsonl, last.pt, best.pt.
            resume: Run folder to continue; its own configuration is used, only --device may be given with it.
            profile: Time the stages of some early updates: a table on the screen, and trace.json in the run folder.
            config: Any field of the configuration.
        """
        from cpc.train import train as run

        if resume is not None:
            import dataclasses

            from cpc.runs import locate_checkpoint, read_checkpoint

            if toml or out:
                raise ConfigError("--resume RUN continues with that run's configuration; pass no TOML and no --out")
            saved, _ = read_checkpoint(locate_checkpoint(resume, "last"))
            if dataclasses.replace(config, device="auto") != Config():
                raise ConfigError("--resume RUN continues with that run's configuration; only --device can be given")
            device = config.device if config.device != "auto" else saved.device
            run(dataclasses.replace(saved, device=device), resume, resume=True, profile=profile)
            return
        if not toml:
            raise ConfigError("train: no configuration given; pass a TOML file or a preset: small, paper")
        if out is None:
            raise ConfigError("train: pass --out RUN, the folder to write to")
        check_config(config, where="command line")
        run(config, out, profile=profile)

    return train


def features(
    run: Positional[Path | None] = None,
    /,
    *,
    out: Path,
    manifest: Path | None = None,
    layer: Literal["z", "c"] = "c",
    baseline: Literal["mfcc", "logmel", "untrained"] | None = None,
    checkpoint: Literal["best", "last"] = "best",
    sample_rate: int = 16000,
    resample: bool = False,
    dtype: Literal["float32", "float16"] = "float32",
    precision: Literal["float32", "bf16"] = "float32",
    device: str = "auto",
) -> None:
    """Write the frames of whole utterances: z or c of a run, or a baseline's.

    Long files are streamed in constant memory. A command that was interrupted goes on where it stopped.

        cpc features runs/first --out features/c --layer c
        cpc features runs/first --out features/untrained --baseline untrained
        cpc features --baseline mfcc --manifest manifest.csv --out features/mfcc

    Args:
        run: Run folder of `cpc train`; not needed for mfcc and logmel.
        out: Folder to write: features.json, manifest.csv, frames/UTTERANCE.npy.
        manifest: Utterances (CSV); by default those that the run was trained with.
        layer: z, the latents of g_enc; or c, the contexts of g_ar.
        baseline: mfcc: 39 dimensions; logmel: 40; untrained: the run's network as it was before training.
        checkpoint: The one with the lowest dev loss, or the last.
        sample_rate: Hz, for mfcc and logmel; a run has its own.
        resample: Resample files of another rate; a run that was trained so does it anyway.
        dtype: Of the numbers on disk.
        precision: Of the network's products; bf16 is about twice as fast where the device has it, and good to 1 in 100.
        device: auto, cpu, cuda, mps.
    """
    from cpc.data import read_manifest
    from cpc.features import Extractor, extract_features, extractor_of_run
    from cpc.runs import locate_checkpoint, read_checkpoint

    extractor: Extractor
    if baseline in ("mfcc", "logmel"):
        from cpc.features import SpectralExtractor

        extractor = SpectralExtractor(baseline, sample_rate)
    else:
        from cpc.devices import resolve_device

        if run is None:
            raise ConfigError("features: no run given; pass RUN, or --baseline mfcc or logmel, which need none")
        saved, _ = read_checkpoint(locate_checkpoint(run, checkpoint))
        resample = resample or saved.audio.resample
        manifest = manifest or Path(saved.data.manifest)
        extractor = extractor_of_run(
            run,
            layer,
            which=checkpoint,
            untrained=baseline == "untrained",
            device=resolve_device(device),
            precision=precision,
        )
    if manifest is None:
        raise ConfigError("features: pass --manifest, the CSV that lists the utterances")
    extract_features(extractor, read_manifest(manifest), out, resample=resample, dtype=dtype)
    print(f"wrote {out}")


def probe(
    task: Positional[Literal["phone", "speaker"]],
    features: Positional[Path],
    /,
    *,
    labels: Path | None = None,
    phones: Path | None = None,
    out: Path | None = None,
    evaluate: Literal["test", "dev"] = "test",
    classifier: Literal["linear", "mlp"] = "linear",
    hidden: int = 256,
    max_frames: int = 100_000,
    Cs: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0),
    shuffle_labels: bool = False,
    classes: Path | None = None,
    predictions: Path | None = None,
    seed: int = 0,
) -> None:
    """Ask a classifier what features hold: which phone, which speaker.

    Logistic regression on standardised frames of the train split; its regularisation is chosen on dev, its accuracy
    measured on test, each frame at its own time. Or a network with one hidden layer.

        cpc probe phone features/c --labels phone_labels.txt --phones phones.txt --out phone.json
        cpc probe speaker features/c --out speaker.json
        cpc probe phone features/c --labels phone_labels.txt --classifier mlp
        cpc probe phone features/c --labels phone_labels.txt --max-frames 0      (all frames, in bounded memory)

    Args:
        task: phone: accuracy by frame; speaker: by frame, and by the mean over an utterance.
        features: Folder that `cpc features` wrote, of a manifest with splits.
        labels: For phone: `utterance-id l_0 l_1 …` a line, an integer each 10 ms (the CPC authors' format).
        phones: Names of the phones: `id name` a line.
        out: Where to write the result (JSON).
        evaluate: The split that accuracy is measured on; dev while you still choose.
        classifier: linear; or mlp, one hidden layer, whose epoch is chosen on dev.
        hidden: Units of the hidden layer.
        max_frames: Train frames drawn, which bounds memory and time; 0 streams all of them from disk.
        Cs: Inverse strengths of the regularisation to choose from.
        shuffle_labels: A control: train frames get each other's labels.
        classes: What phones have in common (CSV: phone, manner, place, …; data/phone_classes.csv), to score by.
        predictions: For phone: file to write with the phone predicted at every evaluated frame.
        seed: Of the draw.
    """
    from cpc.features import open_features
    from cpc.labels import read_labels, read_phone_classes, read_phones
    from cpc.probes import probe_phones, probe_speakers, save, summary

    opened = open_features(features)
    options: dict[str, Any] = {
        "max_frames": max_frames, "Cs": Cs, "seed": seed, "evaluate": evaluate, "classifier": classifier,
        "hidden": hidden, "shuffle_labels": shuffle_labels, "progress": partial(print, file=sys.stderr),
    }  # fmt: skip
    if task == "phone":
        if labels is None:
            raise ConfigError("probe phone: pass --labels, the file of phone labels")
        names = read_phones(phones) if phones else None
        phone_classes = read_phone_classes(classes) if classes else None
        if classes and not names:
            raise ConfigError("probe phone: --classes goes by the phones' names; pass --phones as well")
        result = probe_phones(
            opened, read_labels(labels), phone_names=names, phone_classes=phone_classes,
            predictions=predictions, **options,
        )  # fmt: skip
    else:
        result = probe_speakers(opened, **options)
    print(summary(result))
    if out is not None:
        save(result, out)
        print(f"wrote {out}")


def ablate(
    table: Positional[Path],
    /,
    *,
    out: Path,
    labels: Path,
    manifest: Path | None = None,
    evaluate: Literal["test", "dev"] = "test",
    max_frames: int = 30_000,
    jobs: int = 1,
) -> None:
    """Compare settings: a base run with some fields changed a row, several seeds, and a table with the paper's values.

    Finished runs are skipped and an interrupted one goes on, so the same command can be given again.

        cpc ablate ablate_steps.toml --manifest manifest.csv --labels phone_labels.txt --out runs/steps

    Args:
        table: TOML: base, seeds, and [[row]] tables or a [grid]; recipes/minispeech/ablate_*.toml are examples.
        out: Folder to write: a run for each row and seed, results.json, table.md, table.png.
        labels: `utterance-id l_0 l_1 …` a line, an integer each 10 ms.
        manifest: Utterances with splits, instead of those that the base names.
        evaluate: The split that accuracy is measured on; dev while you still choose.
        max_frames: Train frames of each probe.
        jobs: Runs side by side, each with its share of the cores.
    """
    from cpc.experiments import read_ablation, run_ablation

    rows = read_ablation(table, manifest_csv=str(manifest or ""), labels=str(labels))
    written = run_ablation(rows, out, labels=labels, evaluate=evaluate, max_frames=max_frames, jobs=jobs)
    print(written.read_text())
    print(f"wrote {written}")


def report(
    run: Positional[Path],
    /,
    *,
    out: Annotated[Path | None, arg(aliases=["-o"])] = None,
    probes: Path | None = None,
    features: Path | None = None,
    labels: Path | None = None,
    phones: Path | None = None,
    predictions: Path | None = None,
    num_utterances: int = 5,
) -> None:
    """Make a page to look at: results, learning curves, confusions, maps of c, and utterances to listen to.

    One file with everything inside. What is not there yet it says, with the command that makes it.

        cpc report runs/first
        cpc report runs/first -o first.html --features features/c --probes probes --labels phone_labels.txt

    Args:
        run: Run folder of `cpc train`, finished or not.
        out: The page (HTML); by default report.html in the run folder.
        probes: Folder of results of `cpc probe --out` (JSON); by default `probes` in the run folder.
        features: Features of c; by default features/cpc_c in the run folder.
        labels: Phone labels, for the maps and the utterances.
        phones: Names of the phones; by default phones.txt beside the labels.
        predictions: What `cpc probe phone --predictions` wrote; by default *.predictions.txt among the probes.
        num_utterances: To listen to.
    """
    from cpc.report import write_page

    target = out or run / "report.html"
    write_page(
        run, target, probes=probes, features=features, labels=labels, phones=phones, predictions=predictions,
        num_utterances=num_utterances,
    )  # fmt: skip
    print(f"wrote {target}")


def _named_configuration(arguments: list[str]) -> Config:
    """The configuration whose preset or TOML file stands first among the train command's arguments."""
    if len(arguments) > 1 and arguments[0] == "train" and not arguments[1].startswith("-"):
        return read_config(arguments[1])
    return Config()


def main() -> None:
    """Run a command; bad input is one line on stderr and exit status 2."""
    arguments = sys.argv[1:]
    try:
        commands: dict[str, Callable[..., None]] = {
            "manifest": manifest,
            "align": align,
            "train": _train_command(_named_configuration(arguments)),
            "features": features,
            "probe": probe,
            "ablate": ablate,
            "report": report,
        }
        if not arguments or arguments[0].startswith("-"):  # the list of commands: a sentence each
            for command in commands.values():
                command.__doc__ = (command.__doc__ or "").partition("\n\n")[0]
        tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="cpc",
            description="Contrastive predictive coding on audio, a command for each stage.",
            args=arguments,
        )
    except KeyboardInterrupt as stop:
        print(f"cpc: {stop or 'interrupted'}", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        if os.environ.get("CPC_DEBUG"):
            raise
        # Of several processes (torchrun) all refuse bad input alike, and the first says it; what went wrong later in
        # one of them, only that one can say.
        if os.environ.get("RANK", "0") == "0" or hasattr(error, "rank"):
            print(f"cpc: error: {_one_line(error)}", file=sys.stderr)
        sys.exit(2)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:  # a full disk, a folder without permission
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror.lower()}; nothing that was there before is changed"
    text = str(error)
    if text.startswith("Caught "):  # in a process that reads audio: its traceback ends in "cpc.audio.AudioError: ..."
        text = text.strip().splitlines()[-1].partition(": ")[2]
    return " ".join(text.split()) or type(error).__name__


if __name__ == "__main__":
    main()
