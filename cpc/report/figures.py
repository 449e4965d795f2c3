"""What a run has to show: learning curves, accuracy by predicted step, the table of probes.

Reads files only: `RUN/metrics.jsonl`, one JSON object a line as training writes it, and the probes' results.
"""

import math
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cpc.files import replacing
from cpc.runs import read_metrics

METRICS_FILE = "metrics.jsonl"
DPI = 150

# Okabe and Ito's colours: apart for colour-blind readers, and in grey.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"

Metrics = list[dict[str, Any]]


class ReportError(ValueError):
    """A run folder without the numbers that a picture needs."""


def metrics_of_run(path: str | Path) -> Metrics:
    """Reads the metrics of a run; a last line that was cut off while being written is left out.

    Args:
        path: the file, or the run folder it lies in.

    Returns:
        The lines' objects, in their order.

    Raises:
        MetricsError: no such file, or a line before the last that is not JSON.
        ReportError: no whole line in it.
    """
    path = Path(path)
    if path.suffix != Path(METRICS_FILE).suffix:
        path = path / METRICS_FILE
    lines = read_metrics(path)
    if not lines:
        raise ReportError(f"{path}: empty; the run has not measured anything yet")
    return lines


def draw_learning_curves(run: str | Path, out_png: str | Path) -> None:
    """Draws loss, accuracy and learning rate over the updates.

    Args:
        run: the run folder.
        out_png: the picture to write.

    Raises:
        MetricsError, ReportError: see `read_metrics`.
    """
    _write(learning_figure(run), out_png)


def learning_figure(run: str | Path) -> Figure:
    """The picture of `learning_curves`."""
    lines = metrics_of_run(run)
    train, dev = _series(lines, "train"), _series(lines, "dev")
    figure = Figure(figsize=(7.0, 7.2), layout="constrained")
    loss, accuracy, rate = figure.subplots(3, 1, sharex=True, height_ratios=[3, 2, 1])
    figure.suptitle(f"{Path(run).resolve().name}: learning curves", fontsize=12)

    _curves(loss, train, dev, "loss")
    chance = [line["log_n"] for line in lines]
    if max(chance) - min(chance) < 0.01:  # less than the label shows
        loss.axhline(chance[-1], color=GREY, linestyle="--", linewidth=1, label=f"log N = {chance[-1]:.2f} (chance)")
    else:  # N may differ from batch to batch, and between train and dev
        for color, part in ((BLUE, train), (ORANGE, dev)):
            updates, log_n = [line["update"] for line in part], [line["log_n"] for line in part]
            loss.plot(updates, log_n, color=color, linestyle="--", linewidth=1, label="its log N (chance)")
    loss.set_ylabel("loss (nats)")
    loss.set_ylim(bottom=0)
    loss.legend(loc="best", frameon=False)

    _curves(accuracy, train, dev, "accuracy", scale=100)
    accuracy.set_ylabel("top-1 accuracy (%)")
    accuracy.set_ylim(bottom=0)

    rates = [line for line in train if "lr" in line]
    rate.plot([line["update"] for line in rates], [line["lr"] for line in rates], color=GREEN, linewidth=1.5)
    rate.set_ylabel("learning rate")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    rate.set_ylim(bottom=0)
    rate.set_xlabel("update")
    rate.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (loss, accuracy, rate):
        _tidy(axes)
    figure.align_ylabels()
    return figure


def draw_accuracy_by_k(
    run: str | Path,
    out_png: str | Path,
    *,
    which: Literal["last", "best"] = "last",
    hop_seconds: float = 0.010,
) -> None:
    """Draws what is predicted how far ahead: accuracy, pairwise win rate and bound for each step k.

    Source: the paper's figure 3 (pairwise win rate by k), and its section 2.3 (the bound).

    Args:
        run: the run folder.
        out_png: the picture to write.
        which: the last dev measurement, or the one with the smallest loss.
        hop_seconds: time from one frame to the next.

    Raises:
        ReportError: no dev measurement, and see `read_metrics`.
    """
    _write(steps_figure(run, which=which, hop_seconds=hop_seconds), out_png)


def steps_figure(run: str | Path, *, which: Literal["last", "best"] = "last", hop_seconds: float = 0.010) -> Figure:
    """The picture of `accuracy_by_k`."""
    dev = _series(metrics_of_run(run), "dev")
    if not dev:
        raise ReportError(f"{run}: no dev measurement yet; accuracy by step is drawn from one")
    line = dev[-1] if which == "last" else min(dev, key=lambda entry: float(entry["loss"]))
    if "accuracy_k" not in line:
        raise ReportError(
            f"{run}: trained with another loss than CPC's, it predicts no steps; accuracy by step is CPC's"
        )
    steps = range(1, len(line["accuracy_k"]) + 1)
    log_n = float(line["log_n"])

    figure = Figure(figsize=(9.0, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    figure.suptitle(f"{Path(run).resolve().name}: {which} dev measurement, update {line['update']}", fontsize=12)
    win_rates, accuracies = ([100 * value for value in line[key]] for key in ("win_rate_k", "accuracy_k"))
    left.plot(steps, win_rates, "s-", color=ORANGE, label="pairwise win rate (chance 50)", clip_on=False)
    left.plot(
        steps,
        accuracies,
        "o-",
        color=BLUE,
        label=f"top-1 accuracy (chance {100 / math.exp(log_n):.2g})",
        clip_on=False,
    )
    left.axhline(50, color=ORANGE, linestyle=":", linewidth=1)
    left.set_ylim(0, 100)
    left.set_ylabel("share (%)")
    left.set_title("telling frame t + k from the negatives", fontsize=10)

    right.plot(steps, line["bound_k"], "o-", color=BLUE, label="log N − loss")
    ceilings = line.get("log_n_k", [log_n] * len(steps))  # by step: fewer frames have a t + k
    right.plot(steps, ceilings, color=GREY, linestyle="--", linewidth=1, label=f"ceiling log N = {log_n:.2f}")
    right.set_ylim(min(0.0, *line["bound_k"]), max(ceilings) * 1.05)
    right.set_ylabel("nats")
    right.set_title(_bound_title(str(line["bound_kind"])), fontsize=10)
    for axes in (left, right):
        axes.set_xlabel(f"k, steps of {1000 * hop_seconds:g} ms predicted ahead")
        axes.set_xlim(0.5, len(steps) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)  # off the curves
        _tidy(axes)
    return figure


def _series(lines: Metrics, kind: str) -> Metrics:
    """One kind's lines."""
    return [line for line in lines if line["kind"] == kind]


def _curves(axes: Axes, train: Metrics, dev: Metrics, key: str, scale: float = 1) -> None:
    """Train as a thin line, dev with markers: dev is measured rarely, train at every few updates."""
    thin: dict[str, Any] = {"color": BLUE, "linewidth": 0.8, "alpha": 0.7, "label": "train"}
    marked: dict[str, Any] = {
        "color": ORANGE,
        "linewidth": 1.5,
        "marker": "o",
        "markersize": 4,
        "label": "dev",
    }
    for lines, style in ((train, thin), (dev, marked)):
        if lines:
            axes.plot([line["update"] for line in lines], [scale * line[key] for line in lines], **style)


def _bound_title(kind: str) -> str:
    if kind == "conditional":
        return "bound on conditional information:\nnegatives share the anchor's speaker or sequence"
    return f"lower bound on {kind}"


def _tidy(axes: Axes) -> None:
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _write(figure: Figure, out_png: str | Path) -> None:
    with replacing(Path(out_png)) as partial:
        figure.savefig(partial, dpi=DPI, format="png")
