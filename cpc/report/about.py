"""What a page says about its run: the experiment in words, what made the numbers, and files to download."""

from __future__ import annotations

from pathlib import Path

from cpc.config import Config, config_text, hop_seconds
from cpc.features import Features
from cpc.report.figures import METRICS_FILE, best_measurement, metrics_of_run
from cpc.report.provenance import code_of, list_versions
from cpc.report.results import Results
from cpc.report.sounds import data_url
from cpc.runs import read_starts
from cpc.versions import versions


def introduction(run: Path, config: Config) -> str:
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
    network = (
        f"g_enc {has} {config.encoder.channels} channels, one frame every {1000 * hop_seconds(config):.4g} ms of "
        f"{config.audio.sample_rate / 1000:g} kHz sound; g_ar is a {config.autoregressor.kind.upper()} with "
        f"{config.autoregressor.hidden} units{each}."
    )
    if own := _own_model(run):
        network = f"The network is {own}, a model of the user's; times on this page are those of the settings."
    text = (
        f"{network} The objective is {objective}. The run trains on {config.data.manifest} with {windows} windows of "
        f"{seconds:.3g} s per update, {config.optim.name} with learning rate {config.optim.lr:g}, and seed "
        f"{config.seed}. It has made {last['update']} of {config.train.num_updates} updates in "
        f"{last['seconds'] / 60:.1f} minutes."
    )
    if dev := [line for line in lines if line["kind"] == "dev"]:
        best = best_measurement(dev)
        text += (
            f" The best dev loss is {best['loss']:.3f} nats, at update {best['update']}; chance is log N = "
            f"{best['log_n']:.2f} nats."
        )
    return text


def _own_model(run: Path) -> str:
    """Name the class of a model of the user's; empty for cpc's own."""
    starts = read_starts(run / METRICS_FILE)
    return str(starts[-1].get("model_class", "")) if starts else ""


def versions_of(run: Path, frames: Features | None, results: Results) -> dict[str, str]:
    """Name what made the page's numbers, by what it is."""
    starts = read_starts(run / METRICS_FILE)
    trained = [
        f"{list_versions(start.get('versions', {}))}, on {start.get('device', 'an unknown device')}, from update "
        f"{start['update']}"
        for start in starts
    ]
    return {
        "run folder": str(run),
        "trained with": "; ".join(trained) or "not recorded: the run is of an earlier version",
        "features of c": f"{frames.folder}, identity {frames.meta.get('identity', 'unknown')}" if frames else "none",
        "corpus": f"{len(frames.manifest)} utterances, digest {frames.corpus}" if frames else "unknown: no features",
        "probed with": "; ".join(code_of(results.all)) or "not recorded",
        "page made with": list_versions(versions()),
    }


def downloads(config: Config, results: Results) -> list[tuple[str, str]]:
    """List the files to download: their names and URLs that contain them."""
    files = [("config.toml", "text/plain", config_text(config))]
    if results.all:
        files = [
            ("results.csv", "text/csv", results.as_csv()),
            ("results.json", "application/json", results.as_json()),
            *files,
        ]
    return [(name, data_url(kind, text.encode())) for name, kind, text in files]
