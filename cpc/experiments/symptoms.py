"""What metrics.jsonl tells about a run: whether it learns, and whether it learns what it should.

Each check returns a finding, or None if the metrics do not hold what it needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from cpc.report import Finding, Level
from cpc.runs import gain, steps_of
from cpc.train import STUCK_NATS

Line = dict[str, Any]  # of metrics.jsonl

# A guess has a loss of log N, and the presets start within 0.1 nats of it: only growing weights lead so far above.
_WORSE_THAN_A_GUESS_NATS = 1.0
# Neighbouring frames share samples, so a sound run solves their steps. The presets reach 0.97 at k = 2.
_SOLVED_ACCURACY = 0.95
# Dev is measured on the same windows every time, so only training moves it. This is 5 % of the presets' final loss.
_OVERFITTING_NATS = 0.05
# At 0.95 log N, less than 5 % of the scale is left to tell a better network from a worse one.
_CEILING_SHARE = 0.95
_NUM_LINES = 5  # of the train loss, averaged because each covers few batches


def judge(name: str, level: Level, seen: str, advice: str, **measured: float) -> Finding:
    """Make a finding.

    Args:
        name: what was checked.
        level: how bad it is.
        seen: what was measured, in words.
        advice: what usually causes it and what to try; left out if the level is ok.
        measured: the numbers, by name.
    """
    return Finding(name, level, seen if level == "ok" else f"{seen}; {advice}", measured)


def check_metrics(lines: Sequence[Line], num_overlapping: int, *, is_early: bool) -> list[Finding]:
    """Make all checks of the metrics.

    Args:
        lines: the lines of metrics.jsonl, at least one.
        num_overlapping: number of steps k whose frame shares samples with the anchor's frame.
        is_early: whether a sound run may still guess; then only divergence and overfitting are judged.
    """
    finite = [line for line in lines if math.isfinite(line["loss"])]
    findings = [check_divergence(lines), check_overfitting(finite)]
    if not is_early:
        findings += [
            check_chance(finite),
            check_shortcuts(finite, num_overlapping),
            check_ceiling(finite, num_overlapping),
        ]
    return [finding for finding in findings if finding]


def check_divergence(lines: Sequence[Line]) -> Finding:
    """Check whether a loss is not finite, exactly 0, or far above that of a guess."""
    bad = [line for line in lines if not math.isfinite(line["loss"])]
    zero = [line for line in lines if line["loss"] == 0]
    worse = [line for line in _of_kind(lines, "train")[-1:] if gain(line) < -_WORSE_THAN_A_GUESS_NATS]
    if bad or worse:
        first = (bad or worse)[0]
        return judge(
            "divergence",
            "broken",
            f"the {first['kind']} loss is {first['loss']:.3g} at update {first['update']}, where a guess has "
            f"{first['log_n']:.2f}",
            "the weights grow without bound, usually because the learning rate is too high: try a lower --optim.lr, "
            "--optim.clip-norm 1 and --optim.warmup-updates",
            update=first["update"],
            num_not_finite=len(bad),
        )
    sound = f"the losses of all {len(lines)} lines of metrics.jsonl are finite and above 0"
    return judge(
        "divergence",
        "broken" if zero else "ok",
        f"the {zero[0]['kind']} loss is exactly 0 at update {zero[0]['update']}" if zero else sound,
        "either the positive has no rival, or scores are so large that rounding hides the others: check that batches "
        "hold several utterances, and try --criterion.tau sqrt_dim, a lower --optim.lr and --precision float32",
        num_zero=len(zero),
    )


def check_chance(lines: Sequence[Line]) -> Finding | None:
    """Check whether the train loss is still that of a guess."""
    train = _of_kind(lines, "train")
    if not train:
        return None
    loss, log_n, update = train[-1]["loss"], train[-1]["log_n"], train[-1]["update"]
    is_guess = abs(log_n - loss) < STUCK_NATS
    return judge(
        "chance level",
        "broken" if is_guess else "ok",
        f"the train loss is {loss:.3f} nats at update {update}, where a guess has log N = {log_n:.3f}",
        "usually the waveform is not normalised, the first scores are too large, or the learning rate is too low or "
        "far too high: try --audio.normalise utterance, --criterion.tau sqrt_dim, and another --optim.lr",
        loss=loss,
        log_n=log_n,
        update=update,
    )


def check_shortcuts(lines: Sequence[Line], num_overlapping: int) -> Finding | None:
    """Check whether only the steps that share samples are solved, or all steps are."""
    line = _line_with_steps(lines)
    if line is None:
        return None
    accuracies, steps = line["accuracy_k"], steps_of(line)
    near = sum(k <= num_overlapping for k in steps)
    gains = [log_n - loss for log_n, loss in zip(line["log_n_k"], line["loss_k"], strict=True)]
    solved = [accuracy >= _SOLVED_ACCURACY for accuracy in accuracies]
    near_alone = all(solved[:near]) and len(gains) > near > 0 and max(gains[near:]) < STUCK_NATS
    advice = (
        f"frames up to k = {num_overlapping} share samples with the anchor's, so copying solves these steps, and "
        "nothing else is learned: train longer, try another --optim.lr, and listen to the recordings, since noise "
        "cannot be predicted"
        if near_alone
        else "something simple tells negatives apart, such as channel, loudness or a recording that occurs twice: "
        "try --audio.normalise utterance, --criterion.scheme current_sequence or same_speaker, --encoder.norm channel, "
        "and check the manifest for copies"
    )
    return judge(
        "shortcuts",
        "broken" if near_alone or (_all_solved(line) and len(gains) > near) else "ok",
        f"{line['kind']} accuracy is {accuracies[0]:.2f} at k = {steps[0]} and {accuracies[-1]:.2f} at "
        f"k = {steps[-1]}, update {line['update']}",
        advice,
        num_solved=sum(solved),
        first_accuracy=accuracies[0],
        last_accuracy=accuracies[-1],
    )


def check_ceiling(lines: Sequence[Line], num_overlapping: int) -> Finding | None:
    """Check whether log N − loss is nearly log N where frames share no samples: N is then too small to tell more."""
    line = _line_with_steps(lines)
    if line is None or max(steps_of(line)) <= num_overlapping or _all_solved(line):
        return None
    by_step = zip(steps_of(line), line["log_n_k"], line["loss_k"], strict=True)
    pairs = [(log_n, loss) for k, log_n, loss in by_step if k > num_overlapping]
    shares = [1 - loss / log_n for log_n, loss in pairs]
    num_full = sum(share > _CEILING_SHARE for share in shares)
    return judge(
        "ceiling",
        "warning" if num_full else "ok",
        f"log N − loss is {100 * max(shares):.0f} % of log N = {line['log_n']:.2f} nats at its highest, of the steps "
        f"k > {num_overlapping}; {num_full} of {len(shares)} are above {100 * _CEILING_SHARE:.0f} %",
        "with so few candidates these steps are nearly solved and teach little more: try more negatives "
        "(--criterion.num-negatives, 0 takes all), larger --batches.num-windows, or harder ones "
        "(--criterion.scheme same_speaker or current_sequence)",
        highest_share=max(shares),
        num_full=num_full,
    )


def check_overfitting(lines: Sequence[Line]) -> Finding | None:
    """Check whether dev has become worse since its best measurement, while train improved."""
    dev, train = _of_kind(lines, "dev"), _of_kind(lines, "train")
    if len(dev) < 2 or not train:
        return None
    best, last = max(dev, key=gain), dev[-1]
    ahead = gain(best) - gain(last)
    train_gain = _mean_gain(train, last["update"]) - _mean_gain(train, best["update"])
    seen = f"the dev loss is lowest at update {best['update']}, {best['loss']:.3f} nats"
    if ahead > _OVERFITTING_NATS:
        change = f"{'better' if train_gain > 0 else 'worse'} by {abs(train_gain):.3f}"
        seen += (
            f", and {last['loss']:.3f} at update {last['update']}, while the train loss became {change}; "
            f"best.safetensors is ahead of last.pt by {ahead:.3f} nats"
        )
    return judge(
        "overfitting",
        "warning" if ahead > _OVERFITTING_NATS else "ok",
        seen,
        "the network learns the training utterances by heart: use best.safetensors (the default of cpc features), "
        "fewer --train.num-updates, a smaller network, or more audio"
        if train_gain > 0
        else "training has become unstable: use best.safetensors, and try a lower --optim.lr or --optim.clip-norm 1",
        best_update=best["update"],
        last_update=last["update"],
        ahead_nats=ahead,
        train_gain_nats=train_gain,
    )


def _of_kind(lines: Iterable[Line], kind: str) -> list[Line]:
    return [line for line in lines if line["kind"] == kind]


def _line_with_steps(lines: Sequence[Line]) -> Line | None:
    """Return the last dev line that has values by step, else the last train line; None with other objectives."""
    with_steps = [line for line in lines if "loss_k" in line]
    return next(reversed(_of_kind(with_steps, "dev") or with_steps), None)


def _all_solved(line: Line) -> bool:
    return bool(min(line["accuracy_k"]) >= _SOLVED_ACCURACY)


def _mean_gain(train: Sequence[Line], update: int) -> float:
    """Average log N − loss over the last few train lines up to an update, or the first line if there is none."""
    gains = [gain(line) for line in train if line["update"] <= update][-_NUM_LINES:] or [gain(train[0])]
    return sum(gains) / len(gains)
