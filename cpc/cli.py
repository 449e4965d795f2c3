"""The `cpc` command: one thin command for each stage.

cpc manifest DIR -o manifest.csv --split utterance     list sound files and split them into train, dev and test
cpc align --manifest manifest.csv --transcripts DIR …   make phone labels from the words
cpc train small --data.manifest manifest.csv --out RUN train a network
cpc doctor RUN                                         say whether the run is sound, and what to try
cpc features RUN --out FEATURES --layer c              extract frames of every utterance
cpc probe phone FEATURES --labels phone_labels.txt     measure what a classifier reads from them
cpc ablate TABLE.toml --labels phone_labels.txt …      compare settings, with seeds and the paper's values
cpc export onnx RUN                                    write the network for other runtimes
cpc report RUN                                         make a page with results, pictures and sound
"""

from __future__ import annotations

import io
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from cpc.config import Config, ConfigError, check_config, map_paths, read_config, write_config
from cpc.export import Target
from cpc.files import Shard, refuse_foreign
from cpc.probes import Evaluate, Options

if TYPE_CHECKING:
    import pandas as pd

    from cpc.data import Listing, Manifest
    from cpc.features import Extractor, Features
    from cpc.labels import LabelGrid, PhoneLabels
    from cpc.probes import AbxResult, Regression, Result

_HEADER = r"path,num_samples,sample_rate,speaker,utterance\b"  # of a manifest that we have made
_PATTERN = "{speaker}/{chapter}/*"  # of paths, as LibriSpeech has them
_REPORT_SECONDS = 5.0  # for which the other processes leave the first one time to report what all of them refuse


def _refuse_missing(*, run: Path | None = None, manifest: Path | None = None, labels: Path | None = None) -> None:
    """Refuse what does not exist by the error of its reader, but before torch is imported, which takes seconds."""
    from cpc.data import read_manifest
    from cpc.labels import read_labels
    from cpc.runs import locate_checkpoint

    if run is not None and not run.exists():
        locate_checkpoint(run)
    if manifest is not None and not manifest.is_file():
        read_manifest(manifest)
    if labels is not None and not labels.is_file():
        read_labels(labels)


@dataclass(frozen=True)
class TableOptions:
    """What is added to a manifest."""

    labels: Path | None = None
    """Table (CSV, or .tsv) with a column utterance or path, whose other columns are joined to the manifest."""
    split: str | None = None
    """Split by utterance (all splits share the speakers), by chapter, by speaker, or by another column of the table,
    such as sentence (all splits share the speakers, and no two share a sentence)."""
    stratify: str | None = None
    """Column whose values all splits have in equal shares, such as the diagnosis with --split patient; speakers are
    then shared only as it happens."""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of train, dev and test."""
    seed: int = 0
    """Seed of the split."""

    def check(self, verify: bool) -> None:
        """Refuse what does not go together, and a table of labels that cannot be joined, before hours of decoding."""
        from cpc.data import read_columns

        if self.stratify and not self.split:
            raise ConfigError("manifest: --stratify is for a split; pass --split, too")
        if verify and self != TableOptions():
            raise ConfigError("manifest: --verify writes nothing; pass no --labels and no --split with it")
        if self.labels is not None:
            read_columns(self.labels)

    def write(self, table: Manifest, target: Path) -> list[str]:
        """Join labels to a manifest and split it, if that is wanted, and write it; return what was done."""
        from cpc.data import SPLITS, join_columns, split_manifest, write_manifest

        done = []
        if self.labels is not None:
            joined = join_columns(table, self.labels)
            table, done = joined.manifest, [str(joined)]
        if self.split is not None:
            how = {"fractions": self.fractions, "seed": self.seed, "stratify": self.stratify}
            table = split_manifest(table, by=self.split, **how)  # type: ignore[arg-type]
            done += [f"split by {self.split}: " + ", ".join(f"{name} {table.splits.get(name, 0)}" for name in SPLITS)]
        write_manifest(table, target)
        return [*done, f"wrote {target}"]


def manifest(
    source: Positional[Path],
    /,
    *,
    out: Annotated[Path | None, arg(aliases=["-o"])] = None,
    speaker: Annotated[str, arg(name="pattern", aliases=["--speaker"])] = _PATTERN,
    segments: Path | None = None,
    verify: bool = False,
    shard: str = "",
    options: Annotated[TableOptions, arg(name="")] = TableOptions(),
) -> None:
    """List the sound files of a folder, or segments of them, and split them into train, dev and test.

    Every file is decoded once. Files that are unreadable, truncated, empty or silent are left out and listed with the
    reason.

        cpc manifest LibriSpeech/train-clean-100 -o manifest.csv --split utterance
        cpc manifest fsdd -o fsdd.csv --pattern '{digit}_{speaker}_*' --split utterance
        cpc manifest clinic --pattern none --labels patients.csv --split patient --stratify diagnosis
        cpc manifest recordings --pattern none --segments selections --split path
        cpc manifest kaldi/data/train -o train.csv
        cpc manifest manifest.csv --verify

    Args:
        source: A folder of sound files; a data folder of Kaldi (wav.scp, segments, utt2spk); lhotse's cuts (.jsonl,
            .jsonl.gz); a saved dataset of Hugging Face (extra datasets); or a manifest to split again.
        out: The table to write (CSV); by default the given manifest, or manifest.csv in the folder.
        speaker: Pattern of the paths: {speaker} and other {names} become columns, * matches any text; or a regular
            expression with named groups. The word none means that the paths tell nothing.
        segments: Take these segments of the files for utterances: a table (CSV, or .tsv) with the columns path or
            utterance, start and end in seconds, and any others; a CTM file; or a folder of Raven's selection tables,
            Audacity's labels or TextGrids (tier "phones") named after the files, whose labels become column label.
        verify: Decode all files of a manifest again, and name those that changed; other commands compare some bytes.
        shard: K/N, such as 3/16: decode one of N shares, as a job of an array; the last one to end writes the table.
        options: What is added to the table.
    """
    from cpc.data import is_of_other_tool, read_manifest, refuse_changed_files

    foreign = is_of_other_tool(source)
    is_manifest = source.is_file() and not foreign
    if (shard and (verify or is_manifest)) or (segments is not None and (verify or foreign or is_manifest)):
        raise ConfigError(f"manifest: --{'shard' if shard else 'segments'} is for scanning a folder")
    if source.is_file() and foreign and out is None:
        raise ConfigError(f"{source}: cuts; pass -o with the manifest to write")
    options.check(verify)
    if verify:
        refuse_changed_files(read_manifest(source))
        return print(f"{source}: all sound files are as they were")
    target = out or (source if is_manifest else source / "manifest.csv")
    write = partial(options.write, target=target)
    if is_manifest:
        if target != source:
            refuse_foreign(target, _HEADER, what="a manifest")
        if options.split is None and options.labels is None:
            raise ConfigError(f"{source}: a manifest already; pass --split or --labels, or a folder to scan")
        done = write(read_manifest(source))
    else:  # without -o, only what a scan has made is replaced
        refuse_foreign(target, _HEADER + ("" if out else r".*\baudio_hash\b"), what="a manifest that a scan has made")
        done = _scan(_listing(source, target, speaker, segments), target, shard, write)
    print(*done, sep="\n")  # once the table is written: a closed pipe must not lose it


def _listing(source: Path, target: Path, pattern: str, segments: Path | None) -> Listing:
    """List what `cpc manifest` scans: a folder's files or segments of them, or what another tool's table names."""
    from cpc.data import is_of_other_tool, list_folder, list_other, read_segments

    if is_of_other_tool(source):
        if pattern != _PATTERN:
            raise ConfigError(f"{source}: names its speakers itself; pass no --pattern")
        return list_other(source, target.parent / f"{target.stem}_sounds")
    if segments is not None and segments.is_file() and segments.suffix.lower() in (".csv", ".tsv"):
        table = read_segments(segments)  # first: a mistake in it is found before a large folder is listed
        return list_folder(source, pattern).cut(table, segments)
    listing = list_folder(source, pattern)
    return listing if segments is None else listing.cut(_segments_with_labels(listing, segments), segments)


def _segments_with_labels(listing: Listing, source: Path) -> pd.DataFrame:
    """Make a table of segments from the intervals that label files have."""
    import pandas as pd

    from cpc.labels import SILENCE, read_intervals

    files = listing.utterances
    _, found, unknown = read_intervals(files, source)
    without = [file for file in files if file not in found]
    for what, names in (("labels without a sound file", unknown), ("sound files without labels", without)):
        if names:
            print(f"{what}: {len(names)}, e.g. {', '.join(names[:3])}", file=sys.stderr)
    rows = [(file, *interval) for file in files for interval in found.get(file, []) if interval.phone != SILENCE]
    return pd.DataFrame(rows, columns=["utterance", "start", "end", "label"]).astype(str)


def _scan(listing: Listing, target: Path, shard: str, write: Callable[[Manifest], list[str]]) -> list[str]:
    """Scan a listing, or a share of it, and write the manifest once all is scanned; return what was done."""
    from cpc.data import Scan, scan_listing, scan_shard

    done: list[str] = []

    def take(scan: Scan) -> None:
        done.extend([str(scan), *write(scan.manifest)])

    if shard:
        work = target.with_name(f"{target.name}.shares")
        waiting = scan_shard(Shard.of(shard), listing, work, take)
        done.insert(0, f"share {shard} is done" + (f"; {waiting} are not yet" if waiting else ""))
    else:
        take(scan_listing(listing))
    return done


@dataclass(frozen=True)
class AlignOptions:
    """How labels are made."""

    format: Literal["textgrid", "phn", "htk", "seconds", "ctm"] | None = None
    """Format of imported intervals: TextGrid; .phn with sample numbers at 16 kHz, as TIMIT has them; HTK's .lab in
    units of 100 ns; seconds: three columns start, end, phone, Audacity's labels, or Raven's selections; CTM. By
    default, a file is CTM, and a folder has the format of the first of .TextGrid, .phn, .lab and .txt that it has."""
    normalise: Literal["verbatim", "arpabet"] = "verbatim"
    """Names of imported labels: as they stand, or an English aligner's marks as phones (AH0 and ah_B become ah; sp, spn
    and noise become sil)."""
    fold: Path | None = None
    """Table of imported phones that share a label (CSV: phone, folded), such as data/timit_39.csv for TIMIT's 61. A
    phone without a label, there the glottal stop q, becomes silence."""
    tier: str = "phones"
    """Tier of the TextGrids to import."""
    phones: Path | None = None
    """Ids of the imported phones, one `id name` a line; by default silence is 0, and the others follow by name."""
    dictionary: Path | None = None
    """Words to add to the dictionary, one `word P H O N E S` a line."""
    resample: bool = False
    """Resample files of another rate to 16 kHz."""
    textgrids: bool = False
    """Also write OUT/textgrids/UTTERANCE.TextGrid, to look at in Praat."""
    jobs: int = os.cpu_count() or 1
    """Number of processes."""
    shard: str = ""
    """K/N, such as 3/16: align one of N shares, as a job of an array; the last one to end writes the labels."""


def align(
    *,
    manifest: Path,
    out: Path,
    transcripts: Path | None = None,
    intervals: Path | None = None,
    options: Annotated[AlignOptions, arg(name="")] = AlignOptions(),
) -> None:
    """Make phone labels from words by forced alignment, or import the labels of a corpus or of another aligner.

    The acoustic model is English, with ARPAbet's 39 phones and silence; a core aligns about 28 × real time. An
    utterance with a word that the dictionary lacks is left out and listed in left_out.csv; --dictionary adds words. An
    interrupted alignment resumes.

        cpc align --manifest manifest.csv --transcripts LibriSpeech/train-clean-100 --out labels
        cpc align --manifest manifest.csv --transcripts words.txt --out labels --textgrids
        cpc align --manifest manifest.csv --intervals calls.ctm --out labels
        cpc align --manifest manifest.csv --intervals mfa_output --normalise arpabet --out labels      (TextGrids)
        cpc align --manifest manifest.csv --intervals TIMIT --fold data/timit_39.csv --out labels      (.phn files)

    Args:
        manifest: Utterances (CSV).
        out: Folder to write: phone_labels.txt and phones.txt, for `cpc probe phone`; left_out.csv; intervals.ctm.
        transcripts: A file with one `utterance-id words …` a line, a folder of such *.trans.txt files, or a folder of
            UTTERANCE.txt files.
        intervals: A CTM file, or a folder with a TextGrid, .phn, .lab or .txt file for each utterance, to import
            instead of aligning.
        options: How labels are made.
    """
    from cpc.data import read_manifest
    from cpc.labels import align, import_labels, read_transcripts, write_textgrids

    table = read_manifest(manifest)
    if (transcripts is None) == (intervals is None):
        raise ConfigError("align: pass either --transcripts with the words, or --intervals from another aligner")
    if intervals is not None and options.shard:
        raise ConfigError("align: --shard is for aligning words; --intervals are imported in one call")
    if intervals is not None:
        how = {"label_format": options.format, "tier": options.tier, "phones": options.phones, "fold": options.fold}
        found = import_labels(table, intervals, out, naming=options.normalise, **how)  # type: ignore[arg-type]
        without = found.without
        print(f"imported: {len(table) - len(without)} utterances; without intervals: {len(without)} {without[:3]}")
        print(f"{len(found.counts)} classes, by labels: {', '.join(f'{k} {n}' for k, n in found.counts.items())}")
    elif transcripts is not None:
        words = read_transcripts(transcripts)
        aligning = {"jobs": options.jobs, "dictionary": options.dictionary, "resample": options.resample}
        shard = Shard.of(options.shard) if options.shard else None
        summary = align(table, words, out, shard=shard, **aligning)  # type: ignore[arg-type]  # each has its argument's type
        print(summary)
        if summary.num_waiting:
            return
        if options.textgrids:
            write_textgrids(table, out)
    print(f"wrote {out}/phone_labels.txt")


def _continued(config: Config) -> dict[str, Any]:
    """Return what a run shall be continued with: more updates, and new places of its files. Refuse other settings."""
    plain = Config()
    train = replace(config.train, num_updates=plain.train.num_updates)
    others = map_paths(config, lambda _: "")
    if replace(others, device="auto", threads="auto", train=train) != plain:
        raise ConfigError(
            "--resume RUN takes no other settings than --device, --threads, --train.num-updates, and new places of "
            "files by --data.manifest, --data.cache and --loss.labels"
        )
    places = {"data.manifest": config.data.manifest, "data.cache": config.data.cache, "loss.labels": config.loss.labels}
    is_given = any(re.match(r"--train\.num[-_]updates\b", argument) for argument in sys.argv)
    return {
        "num_updates": config.train.num_updates if is_given else None,
        "moved": {name: path for name, path in places.items() if path},
    }


def _train_command(default: Config, named: list[str] | None = None) -> Callable[..., None]:
    """Make the train command, with the configuration named on the command line as its defaults.

    Given a list, the command only appends to it the name of the configuration, and trains nothing.
    """

    def train(
        toml: Positional[str] = "",
        /,
        *,
        out: Path | None = None,
        resume: Path | None = None,
        profile: bool = False,
        tensorboard: bool = False,
        max_hours: float = math.inf,
        config: Annotated[Config, arg(name="")] = default,
    ) -> None:
        """Train CPC from a preset or a TOML file; any field can be changed on the command line.

            cpc train small --data.manifest manifest.csv --out runs/first
            cpc train small --data.manifest manifest.csv --out runs/second --optim.lr 1e-4 --criterion.num-steps 8
            cpc train --resume runs/first
            cpc train --resume runs/first --max-hours 3.9      (in a job of four hours)
            cpc train --resume runs/first --train.num-updates 4800      (go on after its end)

        Ctrl-C, SIGTERM and SIGHUP stop the run between two updates with everything saved; the exit status is 128 + the
        signal's number, and 75 after --max-hours.

        Args:
            toml: A preset or a TOML file. Fields that it leaves out keep the defaults shown here.
            out: Run folder to make: config.toml, metrics.jsonl, last.pt, best.safetensors.
            resume: Run folder to continue; of settings, it takes --device, --threads, --train.num-updates, and
                --data.manifest for a manifest that moved.
            profile: Time the stages of some early updates: a table on the screen, and trace.json in the run folder.
            tensorboard: Also write the measurements for TensorBoard, into RUN/tensorboard (pip install
                'cpc-audio[tensorboard]').
            max_hours: Hours after which the run stops, to be resumed.
            config: Any field of the configuration.
        """
        if named is not None:
            named.append(toml)
            return
        _refuse_missing(run=resume, manifest=Path(config.data.manifest) if config.data.manifest else None)
        how: dict[str, Any] = {"profile": profile, "max_hours": max_hours}
        if resume is not None:
            if toml or out:
                raise ConfigError("--resume RUN continues with that run's configuration; pass no TOML and no --out")
            how |= _continued(config)
        elif not toml:
            raise ConfigError(
                "train: no configuration given; pass a TOML file or a preset: logmel, bidirectional, small, paper"
            )
        elif out is None:
            raise ConfigError("train: pass --out RUN, the folder to write to")
        _run_training(config, resume, out, how, tensorboard=tensorboard)

    return train


def _run_training(
    config: Config, resumed: Path | None, out: Path | None, how: dict[str, Any], *, tensorboard: bool
) -> None:
    """Continue a run, or begin one in the folder `out`."""
    from cpc.train import TensorBoard, resume, train

    on_log = TensorBoard() if tensorboard else None
    if resumed is not None:
        resume(resumed, config.device, config.threads, on_log=on_log, **how)
        return
    assert out is not None
    check_config(config, where="command line")
    train(config, out, on_log=on_log, **how)


def doctor(run: Positional[Path], /) -> None:
    """Say whether a run is sound: what is wrong, what usually causes it, and what to try.

    Examine the metrics, the weights, the speakers, a sample of 60 sound files, and z and c of them; a few seconds are
    enough, and the run may still be training. Each fault is one line, the worst first:

        broken: the loss stays at log N, is not finite or exactly 0; accuracy 1 at all steps, or only at those that
                share samples; z or c is constant, or varies in one direction
        warning: dev gets worse while train improves (since which update); N is too small to tell more; constant units;
                too few speakers or dev windows; clipped or silent audio, DC offset, uneven levels

        cpc doctor runs/first

    What was found is no failure: the exit status is 0 unless the run cannot be read.

    Args:
        run: Run folder of `cpc train`, finished or not; doctor.json is written into it, and `cpc report` shows it.
    """
    _refuse_missing(run=run)
    from cpc.experiments import examine_run
    from cpc.report import findings_text

    print(findings_text(examine_run(run)))
    print(f"wrote {run / 'doctor.json'}")


@dataclass(frozen=True)
class ExtractOptions:
    """How frames are extracted."""

    cmvn: bool = False
    """Normalise each dimension to zero mean and unit variance over the utterance."""
    context: int = 0
    """Stack each frame with its neighbours up to so many frames away, every second one: 8 gives 9 taps over ± 8
    frames.
    """
    checkpoint: Literal["best", "last"] = "best"
    """The checkpoint with the lowest dev loss, or the last one."""
    sample_rate: int = 16000
    """Sample rate in Hz for mfcc and logmel; a run has its own."""
    resample: bool = False
    """Resample files of another rate; a run that was trained this way does so anyway."""
    dtype: Literal["float32", "float16"] = "float32"
    """Type of the numbers on disk."""
    precision: Literal["float32", "bf16"] = "float32"
    """Type of the network's products; bf16 is about twice as fast where the device has it, and precise to 1 in 100."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    on_bad_audio: Literal["error", "skip"] = "error"
    """What happens at a sound file that cannot be read: stop, or leave it out, up to 1 % of all; those are named."""
    threads: int | Literal["auto"] = "auto"
    """Threads on a CPU; auto uses all cores, but no more than other processes leave."""
    shard: str = ""
    """K/N: extract one of N shares, beside processes or machines that extract the others into the same folder. The last
    one to end makes it whole."""

    def extract(self, extractor: Extractor, table: Manifest, out: Path, *, resample: bool) -> str:
        """Write the frames, and return what was done."""
        from cpc.features import extract_features, extract_shard

        how: dict[str, Any] = {"dtype": self.dtype, "on_bad_audio": self.on_bad_audio, "threads": self.threads}
        if not self.shard:
            extract_features(extractor, table, out, resample=resample, **how)
            return f"wrote {out}"
        waiting = extract_shard(Shard.of(self.shard), extractor, table, out, resample=resample, **how)
        return f"share {self.shard} is done; " + (f"{waiting} are not yet" if waiting else f"wrote {out}")


def features(
    run: Positional[Path | None] = None,
    /,
    *,
    out: Path,
    manifest: Path | None = None,
    layer: Literal["z", "c"] = "c",
    baseline: Literal["mfcc", "logmel", "untrained"] | None = None,
    options: Annotated[ExtractOptions, arg(name="")] = ExtractOptions(),
) -> None:
    """Write the frames of whole utterances: z or c of a run, or a baseline.

    Long files are streamed in constant memory. An interrupted command resumes where it stopped.

        cpc features runs/first --out features/c --layer c
        cpc features runs/first --out features/untrained --baseline untrained
        cpc features --baseline mfcc --manifest manifest.csv --out features/mfcc
        cpc features --baseline mfcc --cmvn --context 8 --manifest manifest.csv --out features/mfcc_cmvn_context8
        cpc features runs/first --out features/c --shard $SLURM_ARRAY_TASK_ID/16      (an array of 16 jobs, 1 to 16)

    Args:
        run: Run folder of `cpc train`; mfcc and logmel do not need one.
        out: Folder to write: features.json, manifest.csv, frames/UTTERANCE.npy.
        manifest: Utterances (CSV); by default those that the run was trained with.
        layer: z, the latents of g_enc, or c, the contexts of g_ar.
        baseline: mfcc (39 dimensions), logmel (40), or untrained: the run's network before training.
        options: How frames are extracted.
    """
    _refuse_missing(run=run, manifest=manifest)
    from cpc.data import read_manifest
    from cpc.devices import resolve_device
    from cpc.features import DerivedExtractor, SpectralExtractor, extractor_of_run
    from cpc.runs import config_of_run
    from cpc.train import manifest_of_run

    extractor: Extractor
    table: Manifest | None = None
    resample = options.resample
    if baseline in ("mfcc", "logmel"):
        extractor = SpectralExtractor(baseline, options.sample_rate)
    elif run is None:
        raise ConfigError("features: no run given; pass RUN, or --baseline mfcc or logmel, which need none")
    else:
        resample = resample or config_of_run(run, options.checkpoint).audio.resample
        table = manifest_of_run(run, options.checkpoint) if manifest is None else None
        extractor = extractor_of_run(
            run,
            layer,
            which=options.checkpoint,
            untrained=baseline == "untrained",
            device=resolve_device(options.device),
            precision=options.precision,
        )
    if options.cmvn or options.context:
        extractor = DerivedExtractor(extractor, cmvn=options.cmvn, context_frames=options.context)
    if table is None:
        if manifest is None:
            raise ConfigError("features: pass --manifest, the CSV that lists the utterances")
        table = read_manifest(manifest)
    print(options.extract(extractor, table, out, resample=resample))


@dataclass(frozen=True)
class LabelFiles:
    """Phone labels, and when they are."""

    labels: Path | None = None
    """Phone labels: `utterance-id l_0 l_1 …` a line, one integer each 10 ms (the CPC authors' format)."""
    label_hop: float | None = None
    """Milliseconds from one label to the next, for label files of another convention: with it or the next option, up
    to 3 labels more or fewer than the audio has are accepted. By default 10, and the number must be exact."""
    label_first_centre: float | None = None
    """Centre of the first label in milliseconds; 12.5 by default. Files with S // 160 labels have 5."""
    phones: Path | None = None
    """Names of the phones, one `id name` a line."""

    def grid(self) -> LabelGrid | None:
        """Return the times of the labels; None for the CPC authors' convention."""
        from cpc.labels import STANDARD_GRID, LabelGrid

        if self.label_hop is None and self.label_first_centre is None:
            return None
        hop = STANDARD_GRID.hop_seconds if self.label_hop is None else self.label_hop / 1000
        first = self.label_first_centre
        return LabelGrid(hop, STANDARD_GRID.first_centre_seconds if first is None else first / 1000)


@dataclass(frozen=True)
class ProbedLabels(LabelFiles):
    """What is known about the utterances of a probe."""

    classes: Path | None = None
    """What phones have in common (CSV: phone, manner, place, …; data/phone_classes.csv), to group scores by."""
    item: Path | None = None
    """Items of abx instead of those of the labels: `#file onset offset #phone prev-phone next-phone speaker` a line."""
    max_items: int = 10
    """Most items in each of A, B and X of an abx comparison."""

    def read(self) -> PhoneLabels:
        """Read the labels."""
        from cpc.labels import read_phone_labels

        if self.labels is None:
            raise ConfigError("probe: pass --labels, the file of phone labels")
        return read_phone_labels(self.labels, names=self.phones, classes=self.classes, grid=self.grid())


def probe(
    task: Positional[str],
    features: Positional[Path],
    /,
    *,
    known: Annotated[ProbedLabels, arg(name="")] = ProbedLabels(),
    regression: bool = False,
    predictions: Path | None = None,
    out: Path | None = None,
    options: Annotated[Options, arg(name="")] = Options(),  # noqa: B008  (frozen)
) -> None:
    """Measure what features tell: which phone, speaker or other label a classifier reads, or how well phones are apart.

    Train logistic regression, or a network with one hidden layer, on standardised frames of the train split; choose its
    regularisation on dev; measure its accuracy on test. Each label is placed at its own time.

        cpc probe phone features/c --labels phone_labels.txt --phones phones.txt --out phone.json
        cpc probe speaker features/c --out speaker.json
        cpc probe diagnosis features/c --out diagnosis.json      (any column of the manifest)
        cpc probe species features/c --pooling mean_deviation --out species.json      (whole clips)
        cpc probe age features/c --regression --out age.json
        cpc probe phone features/c --labels phone_labels.txt --classifier mlp
        cpc probe phone features/c --labels phone_labels.txt --max-frames 0      (all frames, in bounded memory)
        cpc probe abx features/c --labels phone_labels.txt --phones phones.txt --out abx.json
        cpc probe abx features/c --item dev-clean.item

    Args:
        task: phone: accuracy by frame. speaker, or any other column of the manifest: by frame and by the mean over an
            utterance, with balanced accuracy, F1 and, for two classes, AUC. abx: share of triplets in which a phone is
            closer to another phone than to itself, within and across speakers, in any and in the same context (pip
            install 'cpc-audio[abx]', Python 3.12); it trains nothing and takes only --evaluate and --seed.
        features: Folder that `cpc features` wrote from a manifest with splits.
        known: What is known about the utterances.
        regression: Predict the numbers of the column instead of classes: R² and mean absolute error.
        predictions: File to write with the phone predicted at every evaluated frame.
        out: File to write the result to (JSON).
        options: How the probe is trained and scored.
    """
    from cpc.features import open_features

    if out is not None:
        refuse_foreign(out, r'\s*\{\s*"task": ', what="a result of cpc probe")
    if predictions is not None:
        refuse_foreign(predictions, r"\S+( -?\d+)+(\n|$)", what="a file of predicted phones")
    if predictions is not None and (task != "phone" or regression):
        raise ConfigError(f"probe {task}: --predictions is for phones")
    opened = open_features(features)
    result = _probe_number(opened, task, options) if regression else _probe(opened, task, known, predictions, options)
    if out is not None:
        result.save(out)
    print(result)
    if out is not None:
        print(f"wrote {out}")


def _probe(
    features: Features, task: str, known: ProbedLabels, predictions: Path | None, options: Options
) -> Result | AbxResult:
    """Run the probe of a task."""
    from cpc.probes import probe_abx, probe_column, probe_phones, probe_speakers

    progress = partial(print, file=sys.stderr)
    if task == "speaker":
        return probe_speakers(features, options, progress=progress)
    if task not in ("phone", "abx"):
        return probe_column(features, task, options, progress=progress)
    if task == "phone":
        if known.classes and not known.phones:
            raise ConfigError("probe phone: --classes goes by the phones' names; pass --phones as well")
        return probe_phones(features, known.read(), options, predictions=predictions, progress=progress)
    if options != Options(evaluate=options.evaluate, seed=options.seed):
        raise ConfigError("probe abx: trains no classifier; of its options, pass only --evaluate and --seed")
    if known.item and known.labels:
        raise ConfigError("probe abx: pass either --labels or --item")
    how = {"evaluate": options.evaluate, "max_items": known.max_items, "seed": options.seed}
    return probe_abx(features, known.item or known.read(), progress=progress, **how)  # type: ignore[arg-type]


def _probe_number(features: Features, column: str, options: Options) -> Regression:
    """Run the probe of a column that holds numbers."""
    from cpc.probes import probe_number

    return probe_number(features, column, options, progress=partial(print, file=sys.stderr))


def import_(checkpoint: Positional[Path], /, *, out: Path) -> None:
    """Make a run folder of a checkpoint of facebookresearch/CPC_audio, for features, probes and `cpc.load`.

    z and c are equal to those of its own code (1e-5). What has no counterpart here, such as transformers as predictors,
    is named.

        cpc import 60k_epoch4-d0f474de.pt --out runs/librilight
        cpc features runs/librilight --manifest manifest.csv --out features/librilight

    Args:
        checkpoint: Its file; settings are read from it, or from checkpoint_args.json beside it.
        out: Run folder to make.
    """
    from cpc.foreign import import_cpc_audio

    if not checkpoint.is_file():
        raise ConfigError(f"{checkpoint}: no such checkpoint")
    print(import_cpc_audio(checkpoint, out))
    print(f"wrote {out}")


def export(
    target: Positional[Target],
    run: Positional[Path],
    /,
    *,
    out: Annotated[Path | None, arg(aliases=["-o"])] = None,
    streaming: bool = False,
    checkpoint: Literal["best", "last"] = "best",
) -> None:
    """Write the network of a run for ONNX runtimes or TorchScript, which need none of this package.

    It takes waveforms (batch, samples) of any number and length, normalises them as the run does, and returns z and c,
    which are compared with the run's own before anything is written. The metadata of the file say what it takes and
    when its frames are: sample_rate, hop_samples, first_centre_samples, receptive_field_samples, normalisation, ….

        cpc export onnx runs/first                   (pip install 'cpc-audio[onnx]')
        cpc export torchscript runs/first -o first.ts
        cpc export onnx runs/small --streaming

    Args:
        target: onnx or torchscript.
        run: Run folder of `cpc train` or `cpc import`, or one of its checkpoints.
        out: File to write; by default model.onnx or model.ts in the run folder.
        streaming: Take a waveform in blocks of any length, with the samples that later frames need and the hidden
            state as inputs and outputs; z and c of all blocks equal the whole. Nothing is normalised then, and g_ar
            must read forwards and g_enc must not pad.
        checkpoint: The checkpoint with the lowest dev loss, or the last one.
    """
    _refuse_missing(run=run)
    from cpc.export import export_run

    print(export_run(run, target, out, streaming=streaming, which=checkpoint))


def design(
    *,
    sample_rate: int,
    hop_ms: float = 10.0,
    preset: str = "small",
    out: Annotated[Path | None, arg(aliases=["-o"])] = None,
) -> None:
    """Propose an encoder for another sample rate or frame rate: strides, what a frame sees, what it costs.

    Each layer has kernel = 2 · stride, as in the paper, and the product of the strides is the hop.

        cpc design --sample-rate 44100
        cpc design --sample-rate 96000 --hop-ms 1 -o bats.toml
        cpc train bats.toml --data.manifest manifest.csv --out runs/bats

    Args:
        sample_rate: Of the sound files, Hz.
        hop_ms: From one frame to the next, milliseconds. Short sounds need a small one.
        preset: Preset or TOML file whose other settings are kept.
        out: File to write the whole configuration to (TOML).
    """
    from cpc.experiments import propose

    base = read_config(preset)
    proposed = propose(sample_rate, hop_ms, base.encoder.channels)
    config = proposed.configure(base)
    if out is not None:
        refuse_foreign(out, r"(#.*\n|\s)*(device|seed|\[)", what="a configuration")
        write_config(config, out)
    print(proposed)
    print(
        f"audio.sample_rate = {sample_rate}, encoder.strides = {list(proposed.strides)}, "
        f"data.window_samples = {config.data.window_samples}"
    )
    if out is not None:
        print(f"wrote {out}")


def ablate(
    table: Positional[Path],
    /,
    *,
    out: Path,
    labels: Path,
    manifest: Path | None = None,
    evaluate: Evaluate = "dev",
    max_frames: int = 30_000,
    jobs: int = 1,
) -> None:
    """Compare settings: a base run, some changed fields a row, several seeds, and a table with the paper's values.

    The table begins with the majority class, the untrained network of the first row, MFCC and the strongest spectral
    features.
    Finished runs are skipped and an interrupted one resumes, so the same command can be given again.

        cpc ablate ablate_steps.toml --manifest manifest.csv --labels phone_labels.txt --out runs/steps

    Args:
        table: TOML with base, seeds, and [[row]] tables or a [grid]; recipes/minispeech/ablate_*.toml are examples.
        out: Folder to write: a run for each row and seed, the corpus's baselines, results.json and .csv, table.md and
            .tex, and pictures: table.png of phones, tradeoff.png of speakers against phones.
        labels: Phone labels: `utterance-id l_0 l_1 …` a line, one integer each 10 ms.
        manifest: Utterances with splits, instead of those that the base names.
        evaluate: Split on which accuracy is measured; test only when nothing is chosen any more.
        max_frames: Train frames of each probe.
        jobs: Number of runs side by side, each with its share of the cores.
    """
    from cpc.experiments import read_ablation

    rows = read_ablation(table, manifest_csv=str(manifest or ""), labels=str(labels))
    _refuse_missing(manifest=manifest, labels=labels)
    from cpc.experiments import run_ablation

    written = run_ablation(rows, out, labels=labels, evaluate=evaluate, max_frames=max_frames, jobs=jobs)
    print(written.read_text(encoding="utf-8"))
    print(f"wrote {written}")


def report(
    run: Positional[Path],
    /,
    *,
    out: Annotated[Path | None, arg(aliases=["-o"])] = None,
    probes: Path | None = None,
    features: Path | None = None,
    known: Annotated[LabelFiles, arg(name="")] = LabelFiles(),
    predictions: Path | None = None,
    num_utterances: int = 5,
) -> None:
    """Make a page with results, learning curves, confusions, maps of c, and utterances to listen to.

    The page is one file. Where something is missing, it shows the command that makes it. Results of another run or
    corpus are refused, one line each.

        cpc report runs/first
        cpc report runs/first -o first.html --features features/c --probes probes --labels phone_labels.txt

    Args:
        run: Run folder of `cpc train`, finished or not.
        out: The page (HTML); by default report.html in the run folder.
        probes: Folder of results that `cpc probe --out` wrote (JSON); by default `probes` in the run folder.
        features: Features of c; by default features/cpc_c in the run folder.
        known: Phone labels, for the maps and the utterances, which are played without them, too; --phones is by default
            phones.txt beside them.
        predictions: Predicted phones that `cpc probe phone --predictions` wrote; by default *.predictions.txt among the
            probes.
        num_utterances: Number of utterances to listen to.
    """
    _refuse_missing(run=run, labels=known.labels)
    from cpc.labels import phones_beside, read_phone_labels
    from cpc.report import write_page

    target = out or run / "report.html"
    refuse_foreign(target, r"<!doctype html>\s*<html lang=.en.>\s*<head>", what="a page of cpc report")
    labels = None
    if known.labels is not None:
        names = known.phones or phones_beside(known.labels)
        labels = read_phone_labels(known.labels, names=names, grid=known.grid())
    refused = write_page(
        run,
        target,
        probes=probes,
        features=features,
        labels=labels,
        predictions=predictions,
        num_utterances=num_utterances,
    )
    for line in refused:
        print(f"left out: {line}", file=sys.stderr)
    print(f"wrote {target}")


def table(runs: Positional[tuple[Path, ...]], /) -> None:
    """Print the results of finished experiments: several seeds of one become a mean with its deviation.

    Runs that differ in anything but the seed are refused.

        cpc table runs/minispeech
        cpc table runs/minispeech-0 runs/minispeech-1 runs/minispeech-2

    Args:
        runs: Run folders with results.json, as the recipes write it.
    """
    from cpc.report import seeds_table

    if not runs:
        raise ConfigError("table: got no run folder; expected one or more")
    print(seeds_table(runs))


def _named_configuration(arguments: list[str]) -> Config:
    """Read the configuration whose preset or TOML file the train command names, wherever that stands."""
    if not arguments or arguments[0] != "train":
        return Config()
    if len(arguments) > 1 and not arguments[1].startswith("-"):
        return read_config(arguments[1])
    if not {"-h", "--help"}.isdisjoint(arguments):
        return Config()
    named: list[str] = []
    tyro.extras.subcommand_cli_from_dict({"train": _train_command(Config(), named=named)}, prog="cpc", args=arguments)
    return read_config(named[0]) if named[0] else Config()


def _commands(arguments: list[str]) -> dict[str, Callable[..., None]]:
    """Name the commands; the defaults of train are those of the configuration that its arguments name."""
    return {
        "manifest": manifest,
        "align": align,
        "train": _train_command(_named_configuration(arguments)),
        "design": design,
        "import": import_,
        "export": export,
        "doctor": doctor,
        "features": features,
        "probe": probe,
        "ablate": ablate,
        "report": report,
        "table": table,
    }


def main() -> None:
    """Run a command; bad input is one line on stderr and exit status 2."""
    arguments = sys.argv[1:]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # where it is not UTF-8, a sign becomes a question mark
            stream.reconfigure(errors="replace")
    try:
        try:
            _run(arguments)
        finally:
            sys.stdout.flush()  # here, also after --help, since a closed pipe is not caught when Python ends
    except KeyboardInterrupt as stop:
        print(f"cpc: {str(stop) or 'interrupted'}", file=sys.stderr)
        sys.exit(getattr(stop, "exit_status", 130))
    except BrokenPipeError:  # the reader of a pipe has seen enough, as `head` does
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (for what is left in the buffer when Python ends)
        sys.exit(128 + signal.SIGPIPE)
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if not isinstance(error, MemoryError) and "allocate memory" not in text and "out of memory" not in text:
            raise
        print(f"cpc: error: out of memory: {' '.join(text.split())[:200]}; take a smaller batch", file=sys.stderr)
        sys.exit(2)
    except (ValueError, OSError) as error:
        if os.environ.get("CPC_DEBUG"):
            raise
        # With several processes (torchrun) all of them refuse bad input alike, and the first reports it. What fails
        # later in one of them, only that one can report.
        if os.environ.get("RANK", "0") == "0" or hasattr(error, "rank"):
            print(f"cpc: error: {_one_line(error)}", file=sys.stderr)
        else:
            time.sleep(_REPORT_SECONDS)  # torchrun ends all processes once one has failed, the first one too
        sys.exit(2)


def _run(arguments: list[str]) -> None:
    """Run the command that the arguments name."""
    if arguments == ["--version"]:
        from cpc import __version__

        print(f"cpc {__version__}")
        return
    if "" in arguments:  # Path("") would be the folder where the command runs
        before = arguments[arguments.index("") - 1] if arguments.index("") else "cpc"
        raise ConfigError(f"{before}: got an empty text, expected a value")
    commands = _commands(arguments)
    if not arguments or arguments[0].startswith("-"):  # in the list of commands, each gets one sentence
        for command in commands.values():
            command.__doc__ = (command.__doc__ or "").partition("\n\n")[0]
    tyro.extras.subcommand_cli_from_dict(
        commands,
        prog="cpc",
        description="Contrastive predictive coding on audio: one command for each stage.",
        args=arguments,
    )


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:  # a full disk, a folder without permission
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror.lower()}; existing files are unchanged"
    text = str(error)
    if text.startswith("Caught "):  # from a process that reads audio: the traceback ends in "….AudioError: message"
        text = text.strip().splitlines()[-1].partition(": ")[2]
    return " ".join(text.split()) or type(error).__name__
