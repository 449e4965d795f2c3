"""A run as one self-contained HTML page: tables, figures, and some utterances to listen to.

The page is made from files only. Where something is missing, it says so and names the command that makes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from numpy.typing import NDArray

from cpc.config import Config, config_text, hop_seconds, read_config
from cpc.data import Manifest, read_manifest
from cpc.features import Features, open_features
from cpc.files import write_bytes
from cpc.labels import PhoneLabels, read_labels
from cpc.probes import Result
from cpc.report.about import downloads, introduction, versions_of
from cpc.report.figures import (
    Figure,
    ReportError,
    accuracy_figure,
    learning_figure,
    steps_figure,
)
from cpc.report.findings import read_findings, worst_first
from cpc.report.pictures import confusion_matrix, figure_svg
from cpc.report.projections import SIDE, Map, phone_map, speaker_map
from cpc.report.provenance import Expected, without_provenance
from cpc.report.results import Results, grouping_table, phone_result
from cpc.report.sounds import Sounds
from cpc.report.viewer import Frames, viewer_data

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Missing:
    """What a page lacks, and the command that makes it; none if there is no such command."""

    what: str
    command: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure of the page."""

    name: str
    svg: Markup
    caption: str


def write_page(
    run: str | Path,
    out_html: str | Path,
    *,
    probes: Path | None = None,
    features: Path | None = None,
    labels: PhoneLabels | None = None,
    predictions: Path | None = None,
    num_utterances: int = 5,
) -> list[str]:
    """Write the page of a run: settings, probe results, utterances, learning curves, confusions and maps of c.

    Args:
        run: the run folder.
        out_html: the file to write.
        probes: folder of probe results (JSON); by default RUN/probes.
        features: folder of the run's c; by default RUN/features/cpc_c.
        labels: phone labels.
        predictions: file of predicted phones (see `probe_phones`); by default the first *.predictions.txt in `probes`.
        num_utterances: maximum number of utterances to listen to.

    Returns:
        One line for each result that is refused, because it is of another run or corpus; the page shows these, too.

    Raises:
        ValueError: the run folder is missing, the features are of another run, or one of the files exists but cannot be
            read.
    """
    run = Path(run)
    if not (run / "config.toml").exists():
        raise ReportError(f"{run}: no such run folder; `cpc train … --out {run}` makes it")
    probes, folder = probes or run / "probes", features or run / "features" / "cpc_c"
    predictions = predictions or next(iter(sorted(probes.glob("*.predictions.txt"))), None)
    opened = open_features(folder) if (folder / "features.json").exists() else None
    expected = Expected.of(run, opened)
    identity = opened.meta.get("run_identity") if opened else None
    if opened and identity is not None and identity not in expected.runs:
        raise ReportError(f"{folder}: features of another run, {opened.meta.get('run')}; this page is of {run}")
    results, refused = Results.read(probes).of(expected, probes)
    found = _Found(
        run,
        read_config(run / "config.toml"),
        probes,
        folder,
        results,
        features=opened,
        labels=labels,
        predictions=read_labels(predictions) if predictions and predictions.exists() else None,
    )
    filled = _template().render(**_content(found, refused, num_utterances))
    write_bytes(Path(out_html), filled.encode())
    return refused


def _template() -> Template:
    # Names of utterances, speakers and phones come from files: all text is escaped.
    environment = Environment(
        loader=FileSystemLoader(FOLDER, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


@dataclass(frozen=True)
class _Found:
    """What the run folder and the given files hold; None or empty where something is missing."""

    run: Path
    config: Config
    probes: Path
    features_folder: Path
    results: Results
    features: Features | None
    labels: PhoneLabels | None
    predictions: Mapping[str, NDArray[Any]] | None


def _content(found: _Found, refused: list[str], num_utterances: int) -> dict[str, Any]:
    """Collect what the template shows, by the names that it uses."""
    results, phone = found.results, phone_result(found.results.classified)
    confusion = confusion_matrix(phone) if phone else None
    maps, sounds = _maps(found), _sounds(found)
    utterances: list[dict[str, Any]] = []
    if sounds:
        utterances = viewer_data(sounds, _frames(found), found.labels, found.predictions, num_utterances)
        for one in (one for one in maps.values() if isinstance(one, Map)):
            for utterance, seconds in one.seconds().items():
                sounds.want(utterance, seconds)
    probe = f"cpc probe phone {found.features_folder} --labels FILE --out {found.probes}/phone.json"
    findings = read_findings(found.run)
    return {
        "name": found.run.resolve().name,
        "introduction": introduction(found.run, found.config),
        "tables": results.tables(),
        "notes": results.notes(),
        "no_results": None if results.all else Missing("No probe results yet.", probe),
        "refused": refused,
        "num_without_provenance": without_provenance(results.all),
        "no_utterances": None if utterances else _no_utterances(found, sounds),
        "inaudible": sounds.resampled if sounds else "",
        "unreadable": sounds.left_out if sounds else [],
        "training": _training(found),
        "findings": None if findings is None else worst_first(findings),
        "no_findings": Missing("The run has not been examined yet.", f"cpc doctor {found.run}"),
        "no_phones": None if phone else Missing("No phone probe yet.", probe),
        "confusion": confusion,
        "accuracies": _accuracies(phone) if phone else None,
        "groups": [grouping_table(phone, kind) for kind in phone.by] if phone else [],
        "maps": maps,
        "side": SIDE,
        "settings": config_text(found.config),
        "made": versions_of(found.run, found.features, results),
        "downloads": downloads(found.config, results),
        "data": _script(
            {
                "utterances": utterances,
                "sounds": sounds.encoded() if sounds else {},
                "maps": _points(maps),
                "confusion": {key: confusion[key] for key in ("names", "counts")} if confusion else None,
            }
        ),
    }


def _script(data: Mapping[str, Any]) -> Markup:
    """Format data for a script element, whose end no text may contain."""
    return Markup(json.dumps(data).replace("<", "\\u003c"))


def _points(maps: Mapping[str, Map | Missing]) -> dict[str, Any]:
    """Describe the points of each map: what they show, the utterance, and the start of their second."""
    return {
        name: [[of.names[point.group], point.utterance, point.start] for point in of.points]
        for name, of in maps.items()
        if isinstance(of, Map)
    }


# --- sections


def _training(found: _Found) -> list[Picture | Missing]:
    return [
        _picture("learning", lambda: learning_figure(found.run), "Loss, accuracy and learning rate during training."),
        _picture(
            "steps",
            lambda: steps_figure(found.run, which="best"),
            "Accuracy on dev windows for each prediction step (the paper's Fig. 3), and log N − loss with its "
            "ceiling log N; its title says what it bounds, if anything.",
        ),
    ]


def _accuracies(phone: Result) -> Picture | Missing:
    return _picture("accuracies", lambda: accuracy_figure(phone), "Accuracy of the phone probe for each phone.")


def _maps(found: _Found) -> dict[str, Map | Missing]:
    """Make the maps of c, by name."""
    features, labels = found.features, found.labels
    if features is None:
        command = f"cpc features {found.run} --out {found.features_folder} --layer c"
        return {"speakers": Missing("No features of c yet.", command)}
    maps = {"speakers": _map(lambda: speaker_map(features))}
    return maps | ({"phones": _map(lambda: phone_map(features, labels))} if labels else {})


def _sounds(found: _Found) -> Sounds | None:
    """Find the sound files: those of the features, or those that the run trains on; None without a manifest."""
    if found.features:
        return Sounds(found.features.manifest, found.features.sample_rate)
    path = Path(found.config.data.manifest)
    manifest: Manifest | None = read_manifest(path) if path.is_file() else None
    return Sounds(manifest, found.config.audio.sample_rate) if manifest else None


def _frames(found: _Found) -> Frames:
    """Say where predicted phones lie in time."""
    if found.features is None:
        return Frames(0.0, hop_seconds(found.config))
    rate = found.features.sample_rate
    return Frames(found.features.first_centre_samples / rate, found.features.hop_samples / rate)


def _no_utterances(found: _Found, sounds: Sounds | None) -> Missing:
    if sounds is None:
        return Missing(f"No utterances: there is no manifest {found.config.data.manifest} here, and no features.")
    if sounds.left_out:
        return Missing("No utterances: their sound files cannot be read.")
    return Missing("No utterances: none has labels and predictions.")


# --- their parts


def _picture(name: str, draw: Callable[[], Figure], caption: str) -> Picture | Missing:
    """Draw a figure; if its numbers are missing, say which."""
    try:
        return Picture(name, figure_svg(draw(), name, caption), caption)
    except ReportError as error:
        return Missing(str(error))


def _map(place: Callable[[], Map]) -> Map | Missing:
    try:
        return place()
    except ReportError as error:
        return Missing(str(error))
