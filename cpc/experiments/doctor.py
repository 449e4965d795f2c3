"""Is this run broken? Examine what it wrote and a sample of its audio, and say what is wrong and what to try.

`symptoms` has the checks of metrics.jsonl, `signals` those of the sound files and of z and c. What cannot be read is a
finding too, so a run whose audio has moved is still examined.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cpc.config import Config, LossConfig, read_config
from cpc.experiments.signals import check_audio, check_representations
from cpc.experiments.symptoms import check_metrics, judge
from cpc.infonce import Rule
from cpc.model import Geometry
from cpc.report import Finding, write_findings
from cpc.runs import best_weights, build_model, locate_checkpoint, read_checkpoint, read_metrics
from cpc.train import PATIENCE_UPDATES, Data, build_data

_MIN_DEV_WINDOWS = 50  # minispeech's windows deviate by 0.22 nats, so the mean of 50 is known to 0.03


class DoctorError(ValueError):
    """A run folder without what an examination needs."""


def examine_run(run: str | Path) -> list[Finding]:
    """Examine a run, and write the findings to RUN/doctor.json.

    Args:
        run: run folder of `cpc train`, finished or not.

    Returns:
        A finding for each check that could be made, and a warning for what could not be read.

    Raises:
        DoctorError: no run folder, or nothing was measured yet.
        ValueError: config.toml or metrics.jsonl cannot be read.
    """
    run = Path(run)
    if not (run / "config.toml").exists():
        raise DoctorError(f"{run}: no such run folder; `cpc train … --out {run}` makes it")
    config, lines = read_config(run / "config.toml"), read_metrics(run / "metrics.jsonl")
    if not lines:
        raise DoctorError(f"{run}/metrics.jsonl: empty; the run has not measured anything yet, try again later")
    geometry = build_model(config).g_enc.geometry
    num_overlapping = (geometry.receptive_field_samples - 1) // geometry.hop_samples
    update, patience = lines[-1]["update"], config.optim.warmup_updates + PATIENCE_UPDATES
    is_early = update < patience
    findings = check_metrics(lines, num_overlapping, is_early=is_early)
    findings += _or_unread("weights", lambda: [check_weights(run)])
    findings += _or_unread("data", lambda: check_data(run, config, geometry, is_early=is_early))
    if is_early:
        seen = f"{update} updates; whether the run learns, and what z and c are, is judged from update {patience} on"
        findings.append(judge("too early", "warning", seen, "examine it again then", update=update))
    write_findings(run, findings)
    return findings


def _or_unread(name: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    """Make checks; if their files cannot be read, say so in a finding."""
    try:
        return check()
    except (ValueError, OSError) as error:
        return [Finding(name, "warning", f"not examined: {error}")]


def check_weights(run: Path) -> Finding:
    """Check that the weights of best.safetensors and last.pt are finite."""
    bad: dict[str, int] = {}
    for path in _checkpoints(run):
        _, payload = read_checkpoint(path)
        bad[path.name] = sum(int((~torch.isfinite(weight)).sum()) for weight in payload["model"].values())
    seen = ", ".join(f"{count} weights of {name} are NaN or infinite" for name, count in bad.items() if count)
    return judge(
        "weights",
        "broken" if seen else "ok",
        seen or f"all weights of {' and '.join(bad)} are finite",
        "training diverged, usually because the learning rate is too high: start again with a lower --optim.lr and "
        "--optim.clip-norm 1",
        num_not_finite=sum(bad.values()),
    )


def check_data(run: Path, config: Config, geometry: Geometry, *, is_early: bool) -> list[Finding]:
    """Check the splits, the speakers and the sound files; and, unless it is early, z and c."""
    # Targets of other objectives are not needed, and a cache on disk must not be built.
    plain = replace(config, loss=LossConfig(), data=replace(config.data, cache=""))
    data = build_data(plain, geometry)
    findings = [check_dev_size(data, config)]
    if config.loss.name == "cpc":
        findings.append(check_speakers(data, config))
    findings += _or_unread("audio", lambda: check_audio(data, config))
    if not is_early:
        findings += _or_unread("representations", lambda: check_representations(_checkpoints(run)[0], data, config))
    return findings


# --- speakers and splits


def check_dev_size(data: Data, config: Config) -> Finding:
    """Check that enough dev windows are measured for the dev loss to be trusted."""
    used = min(len(data.dev), config.train.validate_batches * config.batches.num_windows)
    return judge(
        "dev split",
        "warning" if used < _MIN_DEV_WINDOWS else "ok",
        f"the dev loss is measured on {used} windows, of {len(np.unique(data.dev.utterance))} utterances",
        f"with fewer than {_MIN_DEV_WINDOWS} windows its noise is as large as what it should tell apart: give dev a "
        "larger share (cpc manifest --fractions), or raise --train.validate-batches",
        num_windows=used,
    )


def check_speakers(data: Data, config: Config) -> Finding:
    """Check that the train split has the speakers and utterances that the negatives ask for."""
    pairs = np.unique(np.stack([data.train.speaker, data.train.utterance]), axis=1)
    _, num_utterances = np.unique(pairs[0], return_counts=True)  # of each speaker
    _, num_windows = np.unique(data.train.speaker, return_counts=True)
    num_speakers, alone = len(num_utterances), int((num_utterances < 2).sum())
    rules = [Rule.of(one) for one in config.criterion.sets]
    few = int((num_windows < config.batches.windows_per_group).sum()) if config.batches.kind == "by_speaker" else 0
    seen = (
        f"train has {num_speakers} speakers; in the median a speaker has {int(np.median(num_windows))} windows of "
        f"{int(np.median(num_utterances))} utterances"
    )
    advice = ""
    if num_speakers == 1 and not all({"speaker", "utterance"} & set(rule.same) for rule in rules):
        advice = (
            "negatives of other speakers do not exist, so c need not know who speaks: name the speakers with cpc "
            "manifest --pattern, or expect no more than phones"
        )
    elif alone and any("speaker" in rule.same for rule in rules):
        advice = (
            f"{alone} speakers have a single utterance, so their negatives are frames of the anchor's own utterance, "
            "or their windows are left out: record more, or use --criterion.scheme mixed_speaker or current_sequence"
        )
    elif few:
        advice = (
            f"{few} speakers have fewer than --batches.windows-per-group {config.batches.windows_per_group} windows "
            "and are never drawn: pass a smaller number, or a smaller --data.window-samples"
        )
    measured = {"num_speakers": num_speakers, "num_of_one_utterance": alone, "num_never_drawn": few}
    return judge("speakers", "warning" if advice else "ok", seen, advice, **measured)


def _checkpoints(run: Path) -> list[Path]:
    """List the checkpoints of a run, best.safetensors first.

    Raises:
        CheckpointError: there is none.
    """
    return [path for path in (best_weights(run), run / "last.pt") if path.exists()] or [locate_checkpoint(run, "last")]
