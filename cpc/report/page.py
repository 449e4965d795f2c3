"""A run as one self-contained HTML page: tables, figures, and some utterances to listen to.

The page is made from files only. Where something is missing, it says so and names the command that makes it.
"""

from __future__ import annotations

import html
import io
import json
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cpc.config import Config, read_config
from cpc.features import Features, open_features
from cpc.files import write_bytes
from cpc.labels import PhoneLabels, read_labels, read_phone_labels
from cpc.probes import Result
from cpc.report.figures import (
    Figure,
    ReportError,
    accuracy_figure,
    best_measurement,
    confusion_figure,
    learning_figure,
    metrics_of_run,
    render,
    steps_figure,
)
from cpc.report.findings import findings_html, read_findings
from cpc.report.projections import phone_map_figure, speaker_map_figure
from cpc.report.results import Results, html_table
from cpc.report.tables import NO_VALUE, percent
from cpc.report.viewer import MARKUP, data_url, viewer_data

TEMPLATE = Path(__file__).parent / "page.html"
_DPI = 110


def write_page(
    run: str | Path,
    out_html: str | Path,
    *,
    probes: Path | None = None,
    features: Path | None = None,
    labels: Path | None = None,
    phones: Path | None = None,
    predictions: Path | None = None,
    num_utterances: int = 5,
) -> None:
    """Write the page of a run: settings, probe results, utterances, learning curves, confusions and maps of c.

    Args:
        run: the run folder.
        out_html: the file to write.
        probes: folder of probe results (JSON); by default RUN/probes.
        features: folder of the run's c; by default RUN/features/cpc_c.
        labels: file of phone labels.
        phones: file of phone names; by default phones.txt beside the labels.
        predictions: file of predicted phones (see `probe_phones`); by default the first *.predictions.txt in `probes`.
        num_utterances: maximum number of utterances to listen to.

    Raises:
        ValueError: the run folder is missing, or one of the files exists but cannot be read.
    """
    run = Path(run)
    if not (run / "config.toml").exists():
        raise ReportError(f"{run}: no such run folder; `cpc train … --out {run}` makes it")
    probes, features = probes or run / "probes", features or run / "features" / "cpc_c"
    if labels is not None and phones is None and (beside := labels.parent / "phones.txt").exists():
        phones = beside
    predictions = predictions or next(iter(sorted(probes.glob("*.predictions.txt"))), None)
    found = _Found(
        run,
        probes,
        features,
        Results.read(probes),
        features=open_features(features) if (features / "features.json").exists() else None,
        labels=read_phone_labels(labels, names=phones) if labels else None,
        predictions=read_labels(predictions) if predictions and predictions.exists() else None,
    )
    utterances: list[dict[str, Any]] = []
    if found.features and found.labels and found.predictions:
        utterances = viewer_data(found.features, found.labels, found.predictions, num_utterances)
    sections = (
        _introduction(run, read_config(run / "config.toml")),
        _probe_results(found),
        _utterances(found, utterances),
        _training(found),
        _soundness(found),
        _phones(found),
        _maps(found),
    )
    filled = string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=html.escape(f"cpc: {run.resolve().name}"),
        body="\n".join(sections),
        utterances=json.dumps(utterances).replace("<", "\\u003c"),  # no text may end the script element
    )
    write_bytes(Path(out_html), filled.encode())


@dataclass(frozen=True)
class _Found:
    """What the run folder and the given files hold; None or empty where something is missing."""

    run: Path
    probes: Path
    features_folder: Path
    results: Results
    features: Features | None
    labels: PhoneLabels | None
    predictions: Mapping[str, NDArray[Any]] | None


# --- sections


def _introduction(run: Path, config: Config) -> str:
    """Describe the experiment in a few sentences."""
    lines = metrics_of_run(run)
    last, criterion = lines[-1], config.criterion
    seconds = config.data.window_samples / config.audio.sample_rate
    windows = config.batches.num_windows * config.batches.accumulate
    negatives = " and ".join(
        f"{f'{of.number} negatives drawn' if of.number else 'all negatives'} under the scheme {of.scheme}"
        for of in criterion.sets
    )
    objective = (
        f"CPC, which predicts {len(criterion.steps)} steps up to k = {max(criterion.steps)}, with {negatives}"
        if config.loss.name == "cpc"
        else config.loss.name
    )
    has = "maps log-mel energies to" if config.encoder.kind == "logmel" else "has"
    each = " in each direction" if config.autoregressor.directions == "both" else ""
    text = (
        f"g_enc {has} {config.encoder.channels} channels; g_ar is a {config.autoregressor.kind.upper()} with "
        f"{config.autoregressor.hidden} units{each}. The objective is {objective}. The run trains on "
        f"{config.data.manifest} with {windows} windows of {seconds:.2f} s per update, {config.optim.name} with "
        f"learning rate {config.optim.lr:g}, and seed {config.seed}. It has made {last['update']} of "
        f"{config.train.num_updates} updates in {last['seconds'] / 60:.1f} minutes."
    )
    if dev := [line for line in lines if line["kind"] == "dev"]:
        best = best_measurement(dev)
        text += (
            f" The best dev loss is {best['loss']:.3f} nats, at update {best['update']}; chance is log N = "
            f"{best['log_n']:.2f} nats."
        )
    return f"<p>{html.escape(text)}</p>"


def _probe_results(found: _Found) -> str:
    heading, tables = "<h2>Probe results</h2>\n", found.results.tables()
    if not found.results.classified:
        return heading + _missing("No probe results yet.", _probe_command(found)) + tables
    return heading + tables


def _utterances(found: _Found, utterances: list[dict[str, Any]]) -> str:
    heading = "<h2>Utterances</h2>\n"
    if utterances:
        return heading + MARKUP
    return heading + _missing(
        "No utterances yet: they need features of c, phone labels and predictions.",
        f"cpc probe phone {found.features_folder} --labels FILE --predictions {found.probes}/c.predictions.txt",
    )


def _training(found: _Found) -> str:
    curves = _picture(lambda: learning_figure(found.run), "Loss, accuracy and learning rate during training.")
    hop_seconds = found.features.hop_samples / found.features.sample_rate if found.features else 0.010
    steps = _picture(
        lambda: steps_figure(found.run, which="best", hop_seconds=hop_seconds),
        "Accuracy on dev windows for each prediction step (the paper's Fig. 3), and log N − loss with its "
        "ceiling log N; its title says what it bounds, if anything.",
    )
    return f"<h2>Training</h2>\n{curves}\n{steps}"


def _soundness(found: _Found) -> str:
    heading, findings = "<h2>Is this run sound?</h2>\n", read_findings(found.run)
    if findings is None:
        return heading + _missing("The run has not been examined yet.", f"cpc doctor {found.run}")
    return heading + findings_html(findings)


def _phones(found: _Found) -> str:
    heading = "<h2>Phones</h2>\n"
    result = _phone_result(found.results.classified)
    if result is None:
        return heading + _missing("No phone probe yet.", _probe_command(found))
    parts = [
        _picture(lambda: confusion_figure(result), "Confusion matrix of the phone probe."),
        _picture(lambda: accuracy_figure(result), "Accuracy of the phone probe for each phone."),
        *(_grouping_table(result, kind) for kind in ("manner", "place") if kind in result.by),
    ]
    return heading + "\n".join(parts)


def _maps(found: _Found) -> str:
    heading, features, labels = "<h2>Maps of c</h2>\n", found.features, found.labels
    if features is None:
        command = f"cpc features {found.run} --out {found.features_folder} --layer c"
        return heading + _missing("No features of c yet.", command)
    speakers = _picture(
        lambda: speaker_map_figure(features),
        "t-SNE of c for up to ten speakers; each point is the mean of one second of an utterance (the paper's Fig. 2).",
    )
    if labels is None:
        return f'{heading}<div class="pair">\n{speakers}\n</div>'
    phones = _picture(
        lambda: phone_map_figure(features, labels),
        "t-SNE of single frames of c from all speakers; each phone's name is at the median of its frames.",
    )
    return f'{heading}<div class="pair">\n{speakers}\n{phones}\n</div>'


# --- their parts


def _missing(what: str, command: str) -> str:
    """Say what is missing, and which command makes it."""
    return f'<p class="missing">{html.escape(what)} Run <code>{html.escape(command)}</code></p>'


def _probe_command(found: _Found) -> str:
    return f"cpc probe phone {found.features_folder} --labels FILE --out {found.probes}/phone.json"


def _picture(draw: Callable[[], Figure], caption: str) -> str:
    """Embed a figure as PNG; if its numbers are missing, say which."""
    try:
        figure = draw()
    except ReportError as error:
        return f'<p class="missing">{html.escape(str(error))}</p>'
    buffer = io.BytesIO()
    render(figure, buffer, dpi=_DPI)
    text, source = html.escape(caption), data_url("image/png", buffer.getvalue())
    return f'<figure class="picture"><img alt="{text}" src="{source}"><figcaption>{text}</figcaption></figure>'


def _grouping_table(result: Result, kind: str) -> str:
    """List the accuracy of each group of phones, and the group that it is most often confused with."""
    grouping, rows = result.by[kind], []
    for group, counts in zip(grouping.classes, grouping.confusion, strict=True):
        if not group.count:
            continue
        others = [
            (count, other.name) for count, other in zip(counts, grouping.classes, strict=True) if other is not group
        ]
        count, other = max(others, default=(0, NO_VALUE))
        confused = f"{html.escape(other)} {percent(count / group.count)}"
        accuracies = percent(group.accuracy), percent(group.phone_accuracy)
        rows.append([html.escape(group.name), str(group.count), *accuracies, confused])
    return html_table([kind, "frames", f"{kind} accuracy, %", "phone accuracy, %", "most frequent confusion, %"], rows)


def _phone_result(results: Mapping[str, Result]) -> Result | None:
    """Choose the phone probe to show: preferably the linear one of c, never a control."""
    phones = [result for result in results.values() if result.task == "phone" and not result.control]
    of_c = [result for result in phones if (result.features.source, result.features.layer) == ("cpc", "c")]
    linear = [result for result in of_c if result.classifier == "linear"]
    return next(iter(linear or of_c or phones), None)
