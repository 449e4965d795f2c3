"""The standard experiment on a corpus that has a manifest and phone labels: train, extract, probe, report.

ABX is measured where fastabx is installed, and otherwise left out, as the table then says.

pipeline = Pipeline(out, config, labels)
stages = Stages(out, [*stages_that_make_the_corpus, *pipeline.stages()])
stages.run()
print(pipeline.report(stages.seconds))
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cpc.config import Config, config_identity
from cpc.data import read_manifest
from cpc.experiments.doctor import examine_run
from cpc.experiments.evaluate import SPECTRAL, extract_row, train_run
from cpc.experiments.parallel import num_cores
from cpc.experiments.probing import TASKS, Probe, Task, run_probes, table_rows
from cpc.experiments.settings import override
from cpc.experiments.stages import Stage
from cpc.files import write_bytes, write_json
from cpc.labels import phones_beside, read_phone_labels
from cpc.probes import Options, missing_for_abx
from cpc.report import results_table, row_key, tidy_csv, write_page
from cpc.runs import best_weights
from cpc.train import complete

ROWS: Mapping[str, Mapping[Task, str]] = {  # the rows of the table, and which features are probed for each task
    **{row: dict.fromkeys(TASKS, row) for row in ("mfcc", "untrained", "cpc_z", "cpc_c")},
    "spectral": SPECTRAL,
    "cpc_c_cmvn": {"phone": "cpc_c_cmvn"},  # CMVN removes most of what tells speakers apart
}
FEATURES = tuple(dict.fromkeys(features for row in ROWS.values() for features in row.values()))


@dataclass(frozen=True)
class Pipeline:
    """One training run, and what probes read from its features."""

    out: Path
    """Run folder: best.safetensors, last.pt, features/, topline/, probes/, results.json, report.html."""
    config: Config
    """The run; its manifest has splits."""
    labels: Path
    """Phone labels; if phones.txt lies beside them, it names the phones."""
    phone_classes: Path | None = None
    """Table of phone classes (CSV), by which phone results are grouped; it needs phones.txt."""
    options: Options = field(default_factory=Options)
    """Options of the linear probes; those with a hidden layer differ in the classifier and in the number of frames."""
    hidden_layer_frames: int = 30_000
    """Train frames of each probe with a hidden layer."""
    with_topline: bool = False
    """Also train the same network with labels, once for phones and once for speakers."""
    with_abx: bool = field(default_factory=lambda: not missing_for_abx())
    """Also measure ABX, by default where fastabx is installed."""
    jobs: int = field(default_factory=num_cores)
    """Number of probes side by side."""

    def probes(self) -> list[Probe]:
        """List the probes: phones and speakers in the features of each row, with each classifier, and ABX."""
        probes = self._standard_probes() + (self._topline_probes() if self.with_topline else [])
        return probes + [probe for probe in self._abx_probes() if probe.result.exists() or self.with_abx]

    def stages(self) -> list[Stage]:
        """List the stages: train, features, topline if it is wanted, probes."""
        manifest, checkpoint = Path(self.config.data.manifest), best_weights(self.out)
        train = Stage(
            "train",
            lambda: train_run(self.config, self.out),
            inputs={"manifest": manifest},
            outputs=[*(self.out / name for name in ("config.toml", "metrics.jsonl", "last.pt")), checkpoint],
            settings=config_identity(self.config),
            keep=True,
        )
        features = Stage(
            "features",
            self._extract,
            inputs={"checkpoint": checkpoint, "manifest": manifest},
            outputs=[self._features(name) for name in FEATURES],
        )
        stages = [train, features, self._probing("probes", self._standard_probes())]
        if self.with_topline:
            topline = Stage(
                "topline",
                self._train_topline,
                inputs={"manifest": manifest, "labels": self.labels},
                outputs=[self.out / "topline"],
                settings={task: config_identity(self._supervised(task)) for task in TASKS},
                keep=True,
            )
            stages += [topline, self._probing("topline_probes", self._topline_probes())]
        if self.with_abx:
            stages.append(self._probing("abx", self._abx_probes()))
        return stages

    def report(self, seconds: Mapping[str, float]) -> str:
        """Write results.json, the same numbers as results.csv, doctor.json and report.html.

        Args:
            seconds: the time that each stage took.

        Returns:
            The table of results (Markdown).
        """
        rows = table_rows(self.probes())
        tidy: dict[tuple[str, ...], Any] = {
            (task, row): fields for task, of_task in rows.items() for row, fields in of_task.items()
        }
        write_bytes(self.out / "results.csv", tidy_csv(("task", "row"), tidy).encode())
        results: dict[str, Any] = {
            **rows,
            "evaluate": self.options.evaluate,
            "seconds": dict(seconds),
        }
        write_json(self.out / "results.json", results)
        examine_run(self.out)
        labels = read_phone_labels(self.labels, names=phones_beside(self.labels))
        for line in write_page(self.out, self.out / "report.html", labels=labels):
            sys.stderr.write(f"left out of report.html: {line}\n")
        missing = "" if "abx" in results else missing_for_abx()
        return results_table(results) + (f"\n\nABX is left out: {missing}" if missing else "")

    def _standard_probes(self) -> list[Probe]:
        return [
            probe
            for row, features in ROWS.items()
            for task, name in features.items()
            for probe in self._with_each_classifier(task, row, self._features(name))
        ]

    def _topline_probes(self) -> list[Probe]:
        return [
            probe
            for task in TASKS
            for probe in self._with_each_classifier(task, "supervised", self._topline(task) / "features")
        ]

    def _abx_probes(self) -> list[Probe]:
        folder, options = self.out / "probes", self.options
        return [
            Probe("abx", row, self._features(of["phone"]), folder / f"abx-{row}-{options.evaluate}.json", options)
            for row, of in ROWS.items()
        ]

    def _with_each_classifier(self, task: Task, row: str, features: Path) -> list[Probe]:
        hidden = dataclasses.replace(self.options, classifier="mlp", max_frames=self.hidden_layer_frames)
        probes = []
        for options in (self.options, hidden):
            key = row_key(row, options.classifier)
            result = self.out / "probes" / f"{task}-{key}-{options.evaluate}.json"
            predictions = result.with_suffix(".predictions.txt") if (task, key) == ("phone", "cpc_c") else None
            probes.append(Probe(task, key, features, result, options, predictions=predictions))
        return probes

    def _features(self, name: str) -> Path:
        return self.out / "features" / name

    def _topline(self, task: Task) -> Path:
        return self.out / "topline" / task

    def _supervised(self, task: Task) -> Config:
        changes = {"loss.name": "supervised", "loss.target": task, "loss.labels": str(self.labels)}
        return override(self.config, changes, where="topline")

    def _extract(self) -> None:
        for name in FEATURES:
            extract_row(name, self.out, read_manifest(self.config.data.manifest), self._features(name))

    def _train_topline(self) -> None:
        for task in TASKS:
            run = complete(self._supervised(task), self._topline(task))
            extract_row(f"supervised_{task}", self.out, read_manifest(self.config.data.manifest), run / "features")

    def _probing(self, name: str, probes: list[Probe]) -> Stage:
        """Make a stage of some probes; each split that is evaluated has its own stage, so its results are kept."""
        settings = {**self.options.identity(), "hidden_layer_frames": self.hidden_layer_frames}
        evaluate = settings.pop("evaluate")

        def make() -> None:
            names = phones_beside(self.labels)
            classes = self.phone_classes if names else None
            run_probes(probes, read_phone_labels(self.labels, names=names, classes=classes), jobs=self.jobs)

        return Stage(
            name if evaluate == "test" else f"{name}_{evaluate}",
            make,
            inputs={
                "labels": self.labels,
                **{str(p.frames.relative_to(self.out)): p.frames / "features.json" for p in probes},
            },
            outputs=[path for probe in probes for path in (probe.result, probe.predictions) if path],
            settings=settings,
        )
