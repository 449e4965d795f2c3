"""What a table of settings measures: runs and the baselines of their corpus, each made once and then read.

A result says which data, labels and options it was made with. If these have changed since, it is outdated: the probes
run again, and the training does not.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpc.config import Config, ConfigError, config_to_dict, read_config, without_places, write_config
from cpc.data import read_manifest
from cpc.experiments.evaluate import SPECTRAL, extractor_of_row, temporary_features
from cpc.experiments.probing import TASKS, Task
from cpc.files import difference, write_json
from cpc.labels import read_phone_labels
from cpc.probes import Options, probe_phones, probe_speakers
from cpc.runs import read_checkpoint
from cpc.train import complete
from cpc.versions import versions


@dataclass(frozen=True)
class Measured:
    """Something that is measured once, and whose result is a file."""

    config: Config
    folder: Path
    labels: Path
    options: Options
    """Options of the linear probes; those with a hidden layer differ in the classifier alone."""
    data: dict[str, str]
    """Digests of the manifest and the labels that are probed."""

    @property
    def result(self) -> Path:
        """The file of the result."""
        return self.folder / f"result-{self.options.evaluate}.json"

    @property
    def probed_with(self) -> dict[str, Any]:
        """Everything that decides the result, apart from the run itself."""
        return {**self.data, "options": self.options.identity(), "classifiers": ["linear", "mlp"]}

    def read(self) -> dict[str, Any] | None:
        """Read the result; None if there is none for these labels, this manifest and these options."""
        if not self.result.exists() or self.outdated():
            return None
        found: dict[str, Any] = json.loads(self.result.read_text(encoding="utf-8"))
        return found

    def outdated(self) -> str:
        """Say what the result was made with that has changed since; empty if nothing has, or if there is no result."""
        if not self.result.exists():
            return ""
        before = json.loads(self.result.read_text(encoding="utf-8")).get("probed_with")
        if before is None:  # a result of an earlier version
            return "the result does not say which labels it was probed with"
        return difference(before, self.probed_with)

    def make(self) -> None:
        """Make the result."""
        raise NotImplementedError


@dataclass(frozen=True)
class Run(Measured):
    """One row of a table with one seed."""

    trained_on: dict[str, str]
    """Digests of the data that the run learns from."""

    def refuse_mixing(self) -> None:
        """Refuse a folder whose run has other settings or was trained on other data.

        Raises:
            ConfigError: naming what differs.
        """
        there, record = self.folder / "config.toml", self.folder / "trained_on.json"
        differs = ""
        if there.exists():
            # Where files lie may change; trained_on.json says whether the data did.
            both = read_config(there), self.config
            differs = difference(*(config_to_dict(without_places(config)) for config in both))
        if not differs and record.exists():  # runs of earlier versions have none
            before = json.loads(record.read_text(encoding="utf-8"))
            changed = [name for name, digest in self.trained_on.items() if before.get(name) != digest]
            differs = f"the {' and the '.join(changed)} changed since it was trained" if changed else ""
        if differs:
            raise ConfigError(f"{self.folder}: holds another run: {differs}; pass another --out, or remove it")

    def make(self) -> None:
        """Train, extract, probe; skip or resume what exists."""
        print(f"== {self.folder}", flush=True)
        write_json(self.folder / "trained_on.json", self.trained_on)
        complete(self.config, self.folder)
        row = {
            **_probe(self, {"phone": "cpc_c", "speaker": "cpc_c"}),
            "seconds": read_checkpoint(self.folder / "last.pt")[1]["seconds"],
            "seed": self.config.seed,
            "max_frames": self.options.max_frames,
            "probed_with": self.probed_with,
            "versions": versions(),
        }
        write_json(self.result, row)


@dataclass(frozen=True)
class Baselines(Measured):
    """What every run on one corpus is compared with.

    That is the majority class, the untrained network of the table's first row, MFCC, and the strongest spectral
    features.
    """

    def make(self) -> None:
        """Extract and probe."""
        print(f"== {self.folder}", flush=True)
        write_config(self.config, self.folder / "config.toml")
        untrained, mfcc = (_probe(self, dict.fromkeys(TASKS, row)) for row in ("untrained", "mfcc"))
        spectral = _probe(self, SPECTRAL)
        rows = {"majority": mfcc["majority"], "untrained": untrained, "mfcc": mfcc, "spectral": spectral}
        write_json(self.result, {"rows": rows, "probed_with": self.probed_with, "versions": versions()})


def _probe(measured: Measured, features: Mapping[Task, str]) -> dict[str, Any]:
    """Extract frames, by the name of their row for each task, and probe them; they are removed at the end.

    Returns:
        Accuracies in [0, 1]: phones with both classifiers, speakers with the linear one; and those of the majority
        class.
    """
    config, labels = measured.config, read_phone_labels(measured.labels)
    manifest = read_manifest(config.data.manifest)
    with ExitStack() as stack:
        opened = {
            name: stack.enter_context(
                temporary_features(
                    extractor_of_row(name, measured.folder, config.audio.sample_rate),
                    manifest,
                    measured.folder / name,
                    resample=config.audio.resample,
                )
            )
            for name in dict.fromkeys(features.values())
        }
        hidden = dataclasses.replace(measured.options, classifier="mlp")
        phone, phone_mlp = (probe_phones(opened[features["phone"]], labels, o) for o in (measured.options, hidden))
        speaker = probe_speakers(opened[features["speaker"]], measured.options)
    return {
        "phone": phone.accuracy,
        "phone_mlp": phone_mlp.accuracy,
        "speaker": speaker.accuracy,
        "speaker_utterance": speaker.utterance_accuracy,
        "phone_interval": phone.accuracy_interval,
        "majority": {
            "phone": phone.majority["accuracy"],
            "phone_mlp": phone.majority["accuracy"],
            "speaker": speaker.majority["accuracy"],
            "speaker_utterance": speaker.majority["utterance_accuracy"],
        },
        "features": {result.task: dataclasses.asdict(result.features) for result in (phone, speaker)},
    }
