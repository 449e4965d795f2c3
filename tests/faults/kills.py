"""Kill processes at random moments, let them resume, and compare what they leave with an uninterrupted run's."""

import json
import multiprocessing
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory

from cpc.config import OptimConfig, TrainConfig
from cpc.data import read_manifest
from cpc.experiments import read_ablation, run_ablation
from cpc.features import SpectralExtractor, extract_features
from cpc.labels import align, num_labels, write_labels
from cpc.runs import checksum, read_checkpoint
from cpc.train import complete
from tests.conftest import make_corpus, measured, tiny_config
from tests.faults.files import Tally

# Children are forked from a server that has loaded these, so that a kill hits the work and not the start of Python.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tests.faults.kills"])


@dataclass(frozen=True)
class Job:
    """Work that can be killed.

    Attributes:
        run: does the work into a folder, or goes on with it; the first argument is the folder of the corpus.
        result: identifies what is in the folder in the end.
    """

    run: Callable[[Path, Path], object]
    result: Callable[[Path], str]


def kill(name: str, number: int, seed: int = 0) -> Tally:
    """Kill a job at random moments, resume it, and compare it with the uninterrupted one.

    Args:
        name: one of JOBS.
        number: how many kills.
        seed: of the moments.

    Returns:
        As `refused`, the kills that hit and were survived; as `read`, those that came too late.
    """
    tally, job, rng = Tally(f"kill {name}"), JOBS[name], random.Random(f"{name} {seed}")
    with TemporaryDirectory() as scratch:
        corpus, whole = Path(scratch) / "corpus", Path(scratch) / "whole"
        _make_corpus(corpus)
        _run(job, corpus, whole)  # the first one also loads what the server has not
        expected = job.result(whole)
        began = time.monotonic()
        _run(job, corpus, Path(scratch) / "timed")
        duration = time.monotonic() - began
        for i in range(number):
            out, moment = Path(scratch) / f"killed-{i}", rng.uniform(0, 1.1 * duration)
            hit = _run(job, corpus, out, moment)
            try:
                if _run(job, corpus, out) or job.result(out) != expected:
                    tally.faults.append(f"killed after {moment:.3f} of {duration:.3f} s: another result")
                    continue
            except RuntimeError as error:
                tally.faults.append(f"killed after {moment:.3f} of {duration:.3f} s: {error}")
                continue
            if hit:
                tally.refused += 1
            else:
                tally.read += 1
    return tally


def _run(job: Job, corpus: Path, out: Path, kill_after: float | None = None) -> bool:
    """Run a job in a process of its own.

    Returns:
        Whether it was killed.

    Raises:
        RuntimeError: it ended by itself, with an error.
    """
    process = _PROCESSES.Process(target=_work, args=(job, corpus, out))
    process.start()
    process.join(kill_after)
    was_killed = process.is_alive()
    if was_killed:
        process.kill()
        process.join()
    elif process.exitcode:
        raise RuntimeError(f"exit status {process.exitcode}, see {out}.stderr")
    return was_killed


def _work(job: Job, corpus: Path, out: Path) -> None:
    with open(f"{out}.stderr", "w", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        job.run(corpus, out)


def fill_disk(number: int, seed: int = 0) -> Tally:
    """Let no file grow beyond a random size while a run trains, then resume it without the limit.

    Returns:
        As `refused`, the runs that stopped with one line and were completed; as `read`, those that needed less.
    """
    tally, rng, job = Tally("full disk"), random.Random(f"disk {seed}"), JOBS["train"]
    with TemporaryDirectory() as scratch:
        corpus = Path(scratch) / "corpus"
        _make_corpus(corpus)
        _run(job, corpus, Path(scratch) / "whole")
        expected = job.result(Path(scratch) / "whole")
        largest = max(path.stat().st_size for path in (Path(scratch) / "whole").rglob("*.pt"))
        for i in range(number):
            out, limit = Path(scratch) / f"limited-{i}", rng.randrange(1, int(1.2 * largest))
            limited = Job(partial(_train_in_little_space, limit), job.result)
            try:
                _run(limited, corpus, out)
                stopped = Path(f"{out}.stderr").read_text().count("file too large")
                _run(job, corpus, out)
            except RuntimeError as error:
                tally.faults.append(f"limit {limit}: {error}")
                continue
            if job.result(out) != expected:
                tally.faults.append(f"limit {limit}: another result")
            elif stopped:
                tally.refused += 1
            else:
                tally.read += 1
    return tally


def _train_in_little_space(limit: int, corpus: Path, out: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        _train(corpus, out)
    except OSError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print((error.strerror or "").lower(), file=sys.stderr)


# --- the jobs


def _make_corpus(folder: Path) -> None:
    """Write a corpus with labels, transcripts and an ablation."""
    manifest = read_manifest(make_corpus(folder))
    lengths = zip(manifest.utterances, manifest.num_samples.tolist(), strict=True)
    write_labels(folder / "labels.txt", {u: [i // 10 % 3 for i in range(num_labels(n, 16000))] for u, n in lengths})
    config = tiny_config(folder / "manifest.csv")
    rows = "".join(f'\n[[row]]\nname = "row {k}"\nset = {{ "criterion.num_steps" = {k} }}\n' for k in (2, 3))
    base = {"data.window_samples": 4000, "batches.num_windows": 4, "encoder.channels": 16, "autoregressor.hidden": 8}
    base |= {"train.num_updates": 6, "train.checkpoint_every": 1, "data.manifest": config.data.manifest}
    changes = ", ".join(f'"{key}" = {json.dumps(value)}' for key, value in base.items())
    text = f'title = "t"\nbase = "small"\nseeds = [0]\nset = {{ {changes} }}\n{rows}'
    (folder / "table.toml").write_text(text, encoding="utf-8")


def _train(corpus: Path, out: Path) -> None:
    """Train; nearly all the time goes into writing files."""
    often = TrainConfig(
        num_updates=12, log_every=1, validate_every=3, validate_batches=1, checkpoint_every=1, keep_every=4
    )
    config = tiny_config(corpus / "manifest.csv", train=often, optim=OptimConfig(lr=1e-3), threads=1)
    complete(replace(config, seed=1), out)


def _trained(out: Path) -> str:
    models = [
        read_checkpoint(out / name)[1]["model"] for name in ("last.pt", "best.safetensors", "kept/0000004.safetensors")
    ]
    return checksum([measured(out), models])


def _extract(corpus: Path, out: Path) -> None:
    extract_features(SpectralExtractor("mfcc"), read_manifest(corpus / "manifest.csv"), out, threads=1, progress=False)


def _align(corpus: Path, out: Path) -> None:
    manifest = read_manifest(corpus / "manifest.csv")
    align(manifest, dict.fromkeys(manifest.utterances, "one two"), out)


def _ablate(corpus: Path, out: Path) -> None:
    labels = corpus / "labels.txt"
    table = read_ablation(corpus / "table.toml", labels=str(labels))
    run_ablation(table, out, labels=labels, evaluate="dev", max_frames=500)


def _rows(out: Path) -> str:
    return (out / "table.md").read_text(encoding="utf-8").partition("| accuracy")[2]


def _files(out: Path, pattern: str) -> str:
    digest = blake2b()
    for path in sorted(out.glob(pattern)):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


JOBS = {
    "train": Job(_train, _trained),
    "features": Job(_extract, partial(_files, pattern="frames/*.npy")),
    "align": Job(_align, partial(_files, pattern="*.c*")),
    "ablate": Job(_ablate, _rows),
}
