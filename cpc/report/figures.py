"""Figures of a run and of its probes. They read files, never a model."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib import figure as mpl_figure
from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from cpc.config import hop_seconds, read_config
from cpc.files import replacing
from cpc.runs import gain, read_metrics, steps_of

if TYPE_CHECKING:
    from cpc.probes import Result

METRICS_FILE = "metrics.jsonl"
DPI = 150

# Okabe and Ito's colours can be told apart by colour-blind readers, and in greyscale.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"

Metrics = list[dict[str, Any]]


class ReportError(ValueError):
    """A run folder without the numbers that a figure needs."""


class Figure(mpl_figure.Figure):
    """A figure of matplotlib's that Jupyter displays. It belongs to no window, so `pyplot` is not needed."""

    def _repr_png_(self) -> bytes:
        """Return the picture as Jupyter asks for it."""
        png = io.BytesIO()
        take_text_as_it_is(self)
        self.savefig(png, format="png", facecolor="white")
        return png.getvalue()


def save_figure(figure: mpl_figure.Figure, path: str | Path, *, dpi: int = DPI) -> None:
    """Write a figure as PNG, atomically; missing folders are created.

    Args:
        figure: the figure.
        path: the file.
        dpi: pixels per inch.
    """
    with replacing(Path(path)) as partial:
        take_text_as_it_is(figure)
        figure.savefig(partial, dpi=dpi, format="png", facecolor="white")


def take_text_as_it_is(figure: mpl_figure.Figure) -> None:
    """Draw a figure's text as it is: a phone may be called `$`, which matplotlib takes for TeX."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)


def metrics_of_run(path: str | Path) -> Metrics:
    """Read the metrics of a run, except a last line that a crash tore.

    Args:
        path: the run folder, or its metrics file.

    Returns:
        One mapping for each line, in the order of the file.

    Raises:
        MetricsError: no such file, or a line before the last that is not JSON.
        ReportError: there is no complete line.
    """
    path = Path(path)
    if path.suffix != Path(METRICS_FILE).suffix:
        path = path / METRICS_FILE
    lines = read_metrics(path)
    if not lines:
        raise ReportError(f"{path}: empty; the run has not measured anything yet")
    return lines


def best_measurement(dev: Metrics) -> dict[str, Any]:
    """Return the dev measurement with the largest log N − loss; N grows while MoCo's queue fills."""
    return max(dev, key=gain)


# --- training


def learning_figure(run: str | Path) -> Figure:
    """Plot loss, accuracy and learning rate against the number of updates.

    Args:
        run: the run folder.

    Raises:
        MetricsError, ReportError: see `metrics_of_run`.
    """
    lines = metrics_of_run(run)
    train, dev = _of_kind(lines, "train"), _of_kind(lines, "dev")
    figure = Figure(figsize=(7.0, 7.2), layout="constrained")
    loss, accuracy, rate = figure.subplots(3, 1, sharex=True, height_ratios=[3, 2, 1])
    figure.suptitle(f"{Path(run).resolve().name}: learning curves", fontsize=12)

    _plot_curves(loss, train, dev, "loss")
    _plot_chance(loss, lines)
    loss.set_ylabel("loss (nats)")
    loss.set_ylim(bottom=0)
    loss.legend(loc="best", frameon=False)

    _plot_curves(accuracy, train, dev, "accuracy", scale=100)
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


def steps_figure(run: str | Path, *, which: Literal["last", "best"] = "last") -> Figure:
    """Plot accuracy, pairwise win rate and log N − loss for each prediction step k; say what the last bounds.

    Args:
        run: the run folder.
        which: the last dev measurement, or the one with the largest log N − loss, as in best.safetensors.

    Raises:
        MetricsError: see `metrics_of_run`.
        ReportError: no dev measurement yet, or a loss that does not predict steps.

    Source: the paper's figure 3 (pairwise win rate for each k) and section 2.3 (the bound).
    """
    line = _dev_measurement(run, which)
    figure = Figure(figsize=(9.0, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    figure.suptitle(f"{Path(run).resolve().name}: {which} dev measurement, update {line['update']}", fontsize=12)
    _plot_shares(left, line)
    _plot_bound(right, line)
    config = Path(run) / "config.toml"
    each = f", {1000 * hop_seconds(read_config(config)):.4g} ms each" if config.exists() else ""
    for axes in (left, right):
        axes.set_xlabel(f"prediction step k{each}")
        axes.set_xlim(0.5, max(steps_of(line)) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)  # below, clear of the curves
        _tidy(axes)
    return figure


def _of_kind(lines: Metrics, kind: str) -> Metrics:
    return [line for line in lines if line["kind"] == kind]


def _plot_curves(axes: Axes, train: Metrics, dev: Metrics, key: str, scale: float = 1) -> None:
    """Plot train as a thin line and dev with markers, because dev is measured far less often."""
    thin: dict[str, Any] = {"color": BLUE, "linewidth": 0.8, "alpha": 0.7, "label": "train"}
    marked: dict[str, Any] = {"color": ORANGE, "linewidth": 1.5, "marker": "o", "markersize": 4, "label": "dev"}
    for lines, style in ((train, thin), (dev, marked)):
        if lines:
            axes.plot([line["update"] for line in lines], [scale * line[key] for line in lines], **style)


def _plot_chance(axes: Axes, lines: Metrics) -> None:
    """Plot log N: one line if it is constant, else a curve for train and one for dev."""
    log_n = [line["log_n"] for line in lines]
    if max(log_n) - min(log_n) < 0.01:  # less than the label shows
        axes.axhline(log_n[-1], color=GREY, linestyle="--", linewidth=1, label=f"log N = {log_n[-1]:.2f} (chance)")
        return
    for color, kind in ((BLUE, "train"), (ORANGE, "dev")):
        measured = _of_kind(lines, kind)
        updates, values = [line["update"] for line in measured], [line["log_n"] for line in measured]
        axes.plot(updates, values, color=color, linestyle="--", linewidth=1, label=f"log N (chance), {kind}")


def _dev_measurement(run: str | Path, which: Literal["last", "best"]) -> dict[str, Any]:
    """Return the metrics of a dev measurement of CPC's loss."""
    dev = _of_kind(metrics_of_run(run), "dev")
    if not dev:
        raise ReportError(f"{run}: no dev measurement yet; the figure of prediction steps shows one")
    line = dev[-1] if which == "last" else best_measurement(dev)
    if "accuracy_k" not in line:
        raise ReportError(f"{run}: no prediction steps; only CPC's own loss has them, and this run used another loss")
    return line


def _plot_shares(axes: Axes, line: dict[str, Any]) -> None:
    steps, chance = steps_of(line), 100 * math.exp(-float(line["log_n"]))
    for key, style, color, label in (
        ("win_rate_k", "s-", ORANGE, "pairwise win rate (chance 50)"),
        ("accuracy_k", "o-", BLUE, f"top-1 accuracy (chance {chance:.2g})"),
    ):
        axes.plot(steps, [100 * value for value in line[key]], style, color=color, label=label, clip_on=False)
    axes.axhline(50, color=ORANGE, linestyle=":", linewidth=1)
    axes.set_ylim(0, 100)
    axes.set_ylabel("share (%)")
    axes.set_title("distinguishing frame t + k from the negatives", fontsize=10)


_BOUND_TITLES = {
    "I(x;c)": "lower bound on I(x;c)",
    "conditional": "bound on conditional information:\nnegatives share the anchor's speaker or group",
    "none": "log N − loss, no bound:\nc has seen some of the negatives",
}


def _plot_bound(axes: Axes, line: dict[str, Any]) -> None:
    bounds, log_n = line["bound_k"], float(line["log_n"])
    steps = steps_of(line)
    ceilings = line.get("log_n_k", [log_n] * len(bounds))  # varies with k: fewer frames have a frame t + k
    axes.plot(steps, bounds, "o-", color=BLUE, label="log N − loss")
    axes.plot(steps, ceilings, color=GREY, linestyle="--", linewidth=1, label=f"ceiling log N = {log_n:.2f}")
    axes.set_ylim(min(0.0, *bounds), max(ceilings) * 1.05)
    axes.set_ylabel("nats")
    axes.set_title(_BOUND_TITLES[str(line["bound_kind"])], fontsize=10)


def _tidy(axes: Axes) -> None:
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


# --- phone probes


def confusions(result: Result) -> tuple[list[str], NDArray[np.int64]]:
    """Return the phones' names in order, (n,), and the frames of each by what it was classified as, (n, n)."""
    order = phone_order(result)
    return [result.per_class[i].name for i in order], np.array(result.confusion)[np.ix_(order, order)]


def confusion_figure(result: Result) -> Figure:
    """Plot a phone probe's confusion matrix; each row shows what one true phone was classified as.

    Args:
        result: a phone probe's result.
    """
    names, counts = confusions(result)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    side = max(4.0, 1.6 + 0.17 * len(names))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set(xlabel="predicted phone", ylabel="true phone")
    figure.colorbar(image, label="% of the true phone's frames", shrink=0.8)
    return figure


def accuracy_figure(result: Result) -> Figure:
    """Plot a phone probe's accuracy for each phone that was evaluated.

    Args:
        result: a phone probe's result.
    """
    entries = [result.per_class[i] for i in phone_order(result)]
    scored = [(entry.name, entry.accuracy) for entry in entries if entry.accuracy is not None]
    figure = Figure(figsize=(8.5, 3.0), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(scored)), [100 * accuracy for _, accuracy in scored], color=BLUE)
    axes.set_xticks(range(len(scored)), [name for name, _ in scored], rotation=90, fontsize=8)
    axes.set(ylabel="frame accuracy (%)", ylim=(0, 100), xlim=(-0.7, len(scored) - 0.3))
    axes.axhline(100 * result.accuracy, color=GREY, linestyle="--", linewidth=1, label="all frames")
    axes.legend(frameon=False, loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def phone_order(result: Result) -> list[int]:
    """Order the phones by manner of articulation if it is known."""
    names = [entry.name for entry in result.per_class]
    if "manner" not in result.by:
        return list(range(len(names)))
    grouped = [name for group in result.by["manner"].classes for name in group.phones]
    return [names.index(name) for name in [*grouped, *(name for name in names if name not in grouped)]]
