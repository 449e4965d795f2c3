"""A run as one page to look at, with everything inside it: tables, pictures, and some utterances to listen to.

Reads files only. What is not there yet is said in one line, with the command that makes it.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import json
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import NDArray
from scipy.io import wavfile
from scipy.signal import spectrogram

from cpc.config import Config, read_config
from cpc.data import read_audio
from cpc.features import Features, open_features
from cpc.files import write_bytes
from cpc.labels import LABEL_FIRST_CENTRE_SECONDS, LABEL_HOP_SECONDS, read_labels, read_phones
from cpc.report.figures import ReportError, learning_figure, metrics_of_run, steps_figure
from cpc.report.maps import classes_figure, confusion_figure, phones_figure, speakers_figure
from cpc.report.tables import COLUMNS, ROWS

TEMPLATE = Path(__file__).parent / "page.html"
MAX_SECONDS = 15.0  # of an utterance in the viewer
_WAVE_POINTS = 800


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
    """Write the page of a run: what was done, results, learning curves, confusions, maps, utterances.

    Args:
        run: the run folder.
        out_html: the file to write.
        probes: folder of probes' results (JSON); by default RUN/probes.
        features: folder of the run's c; by default RUN/features/cpc_c.
        labels: phone labels.
        phones: names of the phones; by default phones.txt beside the labels.
        predictions: phones predicted by frame (`linear.phone`'s); by default the first *.predictions.txt in `probes`.
        num_utterances: in the viewer.

    Raises:
        ValueError: a run folder that is missing, or a file that is there and cannot be read.
    """
    run = Path(run)
    if not (run / "config.toml").exists():
        raise ReportError(f"{run}: no such run folder; `cpc train … --out {run}` makes it")
    config = read_config(run / "config.toml")
    probes, features = probes or run / "probes", features or run / "features" / "cpc_c"
    if labels is not None and phones is None and (labels.parent / "phones.txt").exists():
        phones = labels.parent / "phones.txt"
    results = {path.stem: json.loads(path.read_text()) for path in sorted(probes.glob("*.json"))}
    opened = open_features(features) if (features / "features.json").exists() else None
    known = read_labels(labels) if labels else None
    names = read_phones(phones) if phones else {}
    if predictions is None:
        predictions = next(iter(sorted(probes.glob("*.predictions.txt"))), None)

    make_features = f"cpc features {run} --out {features} --layer c"
    phone = _best_phone_result(results)
    utterances: list[dict[str, Any]] = []
    if opened and known and predictions and predictions.exists():
        utterances = _utterances(opened, known, names, read_labels(predictions), num_utterances)
    body = [
        _paragraph(run, config),
        "<h2>What a classifier reads out of it</h2>",
        _table(results)
        if results
        else _missing("no probe results", f"cpc probe phone {features} --labels … --out {probes}/phone.json"),
        "<h2>Listen and look</h2>",
        _VIEWER
        if utterances
        else _missing(
            "no utterances to show: they take features of c, phone labels, and predictions",
            f"cpc probe phone {features} --labels FILE --predictions {probes}/c.predictions.txt",
        ),
        "<h2>Training</h2>",
        _picture(lambda: learning_figure(run), "Loss, accuracy and learning rate over the updates."),
        _picture(
            lambda: steps_figure(run, which="best"),
            "What is predicted how far ahead, on held-out windows (the paper's Fig. 3), and the bound on mutual "
            "information with its ceiling log N.",
        ),
        "<h2>Phones</h2>",
    ]
    if phone:
        body += [
            _picture(lambda: confusion_figure(phone), "What each spoken phone was taken for."),
            _picture(lambda: classes_figure(phone), "Accuracy of each phone."),
            *(_classes_table(kind, phone[kind]) for kind in ("by_manner", "by_place") if kind in phone),
        ]
    else:
        body.append(_missing("no phone probe", f"cpc probe phone {features} --labels … --out {probes}/phone.json"))
    body.append("<h2>How the frames lie</h2>")
    if opened:
        body.append('<div class="pair">')
        body.append(
            _picture(
                lambda: speakers_figure(opened),
                "t-SNE of c, ten speakers: each point is a second of an utterance (the paper's Fig. 2).",
            )
        )
        if known:
            body.append(
                _picture(
                    lambda: phones_figure(opened, known, names),
                    "t-SNE of c, single frames of all speakers; names stand amid their frames.",
                )
            )
        body.append("</div>")
    else:
        body.append(_missing("no features of c", make_features))
    content = json.dumps(utterances).replace("<", "\\u003c")  # no text may end the script
    filled = string.Template(TEMPLATE.read_text()).substitute(
        title=html.escape(f"cpc: {run.resolve().name}"), body="\n".join(body), utterances=content
    )
    write_bytes(Path(out_html), filled.encode())


_VIEWER = """<div id="viewer">
<p><label>Utterance <select></select></label></p>
<audio controls preload="auto"></audio>
<div class="scroll">
<div class="axis" tabindex="0" role="slider" aria-label="time in the utterance, seconds" aria-valuemin="0">
<svg viewBox="0 0 800 100" preserveAspectRatio="none" role="img" aria-label="waveform"><path class="wave"/></svg>
<img alt="spectrogram, 0 to 8 kHz">
<div class="track spoken" aria-label="spoken phones"></div>
<div class="track heard" aria-label="predicted phones"></div>
<div class="cursor"></div>
</div></div>
<p class="dim"><span class="end"></span>; upper row: spoken; lower row: predicted by the probe, underlined where wrong.
Click to go there; with the keyboard, arrows move by 0.1 s and space plays.</p>
</div>"""


def _paragraph(run: Path, config: Config) -> str:
    """The experiment in a few sentences."""
    lines = metrics_of_run(run)
    last, encoder = lines[-1], config.encoder
    dev = [line for line in lines if line["kind"] == "dev"]
    seconds = config.data.window_samples / config.audio.sample_rate
    task = (
        f"predicting {config.criterion.num_steps} steps ahead, negatives: {config.criterion.scheme.replace('_', ' ')}"
        + (f", {config.criterion.num_negatives} drawn" if config.criterion.num_negatives else "")
        if config.loss.name == "cpc"
        else f"objective {config.loss.name}"
    )
    text = (
        f"g_enc of {encoder.channels} channels, g_ar a {config.autoregressor.kind.upper()} of "
        f"{config.autoregressor.hidden} units, {task}. Trained on {config.data.manifest}, "
        f"{config.batches.num_windows} windows of {seconds:.2f} s an update, "
        f"{config.optim.name} with learning rate {config.optim.lr:g}, seed {config.seed}: {last['update']} of "
        f"{config.train.num_updates} updates in {last['seconds'] / 60:.1f} minutes."
    )
    if dev:
        best = min(dev, key=lambda line: float(line["loss"]))
        text += (
            f" Lowest loss on dev: {best['loss']:.3f} nats (guessing: {best['log_n']:.2f}) at update {best['update']}."
        )
    return f"<p>{html.escape(text)}</p>"


def _table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Every result, with its 95 % interval."""
    rows: dict[str, dict[str, str]] = {}
    majority: dict[str, str] = {}
    evaluated = sorted({str(result["evaluate"]) for result in results.values()})
    for stem, result in results.items():
        task, of = result["task"], result["features"]
        name = stem.removesuffix(f"-{result['evaluate']}").removeprefix(task).strip("-_")
        name = name or "_".join(filter(None, (of["source"], of["layer"])))
        label = ROWS.get(name, name)
        if result.get("classifier", "linear") != "linear" and "mlp" not in label:
            label += " (one hidden layer)"
        if result.get("control"):
            label += f" ({result['control']})"
        for column, (asked, measure) in COLUMNS.items():
            if asked == task and measure in result:
                low, high = (100 * value for value in result[f"{measure}_interval"])
                rows.setdefault(label, {})[column] = f"{100 * result[measure]:.1f} <small>{low:.1f}–{high:.1f}</small>"
                majority[column] = f"{100 * result['majority'][measure]:.1f}"
    order = [label for label in ROWS.values() if label in rows] + [k for k in rows if k not in ROWS.values()]
    head = "".join(f"<th>{html.escape(column)}</th>" for column in COLUMNS)
    lines = [
        f"<tr><td>{html.escape(label)}</td>" + "".join(f"<td>{of.get(c, '–')}</td>" for c in COLUMNS) + "</tr>"
        for label, of in [("majority class", majority), *((label, rows[label]) for label in order)]
    ]
    return (
        '<div class="scroll"><table><thead><tr>'
        f"<th>accuracy in % on {html.escape(', '.join(evaluated))}</th>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
        '<p class="dim">Small: 95 % interval for other utterances, by resampling; not for another training run.</p>'
    )


def _classes_table(kind: str, of: Mapping[str, Any]) -> str:
    """Accuracy by manner or place of articulation, and what a class was taken for."""
    classes = of["classes"]
    rows = []
    for entry, row in zip(classes, of["confusion"], strict=True):
        if not entry["count"]:
            continue
        others = [(count, other["name"]) for count, other in zip(row, classes, strict=True) if other is not entry]
        count, other = max(others, default=(0, "–"))
        rows.append(
            f"<tr><td>{html.escape(entry['name'])}</td><td>{entry['count']}</td><td>{100 * entry['accuracy']:.1f}</td>"
            f"<td>{100 * entry['phone_accuracy']:.1f}</td>"
            f"<td>{html.escape(other)} {100 * count / entry['count']:.1f}</td></tr>"
        )
    name = kind.removeprefix("by_")
    return (
        f'<div class="scroll"><table><thead><tr><th>by {name}</th><th>frames</th><th>{name} right, %</th>'
        f"<th>phone right, %</th><th>most often taken for, %</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _best_phone_result(results: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The linear phone probe of c, if there is one; else any phone probe."""
    phones = [r for r in results.values() if r["task"] == "phone" and not r.get("control")]
    of_c = [r for r in phones if (r["features"]["source"], r["features"]["layer"]) == ("cpc", "c")]
    linear = [r for r in of_c if r.get("classifier", "linear") == "linear"]
    return next(iter(linear or of_c or phones), None)


def _missing(what: str, command: str) -> str:
    return f'<p class="missing">Not here yet: {html.escape(what)}. <code>{html.escape(command)}</code></p>'


def _picture(draw: Callable[[], Figure], caption: str) -> str:
    """A figure as PNG inside the page; what it lacks, in a line, if it cannot be drawn."""
    try:
        figure = draw()
    except ReportError as error:
        return f'<p class="missing">{html.escape(str(error))}</p>'
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, facecolor="white")
    data = _url("image/png", buffer.getvalue())
    text = html.escape(caption)
    return f'<figure class="picture"><img alt="{text}" src="{data}"><figcaption>{text}</figcaption></figure>'


def _url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _utterances(
    features: Features,
    labels: Mapping[str, NDArray[Any]],
    names: Mapping[int, str],
    predictions: Mapping[str, NDArray[Any]],
    count: int,
) -> list[dict[str, Any]]:
    """Sound, spectrogram, spoken and predicted phones of some utterances, of different speakers first."""
    table = features.manifest.table
    rows = [i for i, u in enumerate(table["utterance"].astype(str)) if u in predictions and u in labels]
    by_turn = table.iloc[rows].groupby("speaker").cumcount()  # the first of each speaker, then the second
    rows = [row for _, row in sorted(zip(by_turn.tolist(), rows, strict=True))][:count]
    found = []
    for row in rows:
        utterance = str(table["utterance"].iloc[row])
        waveform = read_audio(features.manifest.audio_path(row), sample_rate=features.sample_rate, resample=True)
        waveform = waveform[: round(MAX_SECONDS * features.sample_rate)]
        seconds = len(waveform) / features.sample_rate
        centres = LABEL_FIRST_CENTRE_SECONDS + LABEL_HOP_SECONDS * np.arange(len(labels[utterance]))
        predicted = predictions[utterance]
        hop = features.hop_samples / features.sample_rate
        found.append({
            "name": f"{utterance} (speaker {table['speaker'].iloc[row]})", "seconds": seconds,
            "audio": _sound(waveform, features.sample_rate), "wave": _wave(waveform),
            "spectrogram": _spectrogram(waveform, features.sample_rate),
            "spoken": _intervals(labels[utterance], centres, LABEL_HOP_SECONDS, names, seconds),
            "heard": _intervals(predicted, features.times(len(predicted)), hop, names, seconds),
        })  # fmt: skip
    return found


def _intervals(
    phones: NDArray[Any], centres: NDArray[np.floating[Any]], hop: float, names: Mapping[int, str], seconds: float
) -> list[tuple[float, float, str]]:
    """Runs of the same phone: start, end in seconds, name."""
    borders = [0, *(np.flatnonzero(phones[1:] != phones[:-1]) + 1).tolist(), len(phones)]
    runs = []
    for first, last in itertools.pairwise(borders):
        start, end = max(0.0, float(centres[first]) - hop / 2), min(seconds, float(centres[last - 1]) + hop / 2)
        if end > start:
            runs.append((round(start, 4), round(end, 4), names.get(int(phones[first]), str(phones[first]))))
    return runs


def _sound(waveform: NDArray[np.float32], rate: int) -> str:
    buffer = io.BytesIO()
    peak = max(1e-6, float(np.abs(waveform).max()))
    wavfile.write(buffer, rate, np.round(0.9 * 32767 * waveform / peak).astype(np.int16))
    return _url("audio/wav", buffer.getvalue())


def _wave(waveform: NDArray[np.float32]) -> str:
    """An SVG path through the extremes of _WAVE_POINTS pieces, in a box of 800 × 100."""
    pieces = np.array_split(waveform / max(1e-6, float(np.abs(waveform).max())), _WAVE_POINTS)
    steps: Sequence[str] = [
        f"M{i} {50 - 48 * float(p.max()):.0f}V{50 - 48 * float(p.min()):.0f}" for i, p in enumerate(pieces) if len(p)
    ]
    return "".join(steps)


def _spectrogram(waveform: NDArray[np.float32], rate: int) -> str:
    """The log power up to 8 kHz, 25 ms every 10 ms, 60 dB below its maximum, low frequencies below."""
    frequencies, _, power = spectrogram(
        waveform, rate, nperseg=round(0.025 * rate), noverlap=round(0.015 * rate), nfft=512
    )
    decibels = 10 * np.log10(power[frequencies <= 8000] + 1e-12)
    shades = np.clip((decibels - decibels.max() + 60) / 60, 0, 1)
    buffer = io.BytesIO()
    imsave(buffer, colormaps["magma"](shades[::-1]), format="png")
    return _url("image/png", buffer.getvalue())
