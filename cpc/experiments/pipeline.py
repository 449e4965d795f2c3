"""The standard experiment on a corpus that has a manifest and phone labels: train, extract, probe, report.

pipeline = Pipeline(out, config, labels)
stages = Stages(out, [*stages_that_make_the_corpus, *pipeline.stages()])
stages.run()
print(pipeline.report(stages.seconds))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cpc.config import Config, config_identity
from cpc.data import read_manifest
from cpc.experiments.evaluate import Probe, Task, extract_row, run_probes, table_rows, train_run
from cpc.experiments.settings import override
from cpc.experiments.stages import Stage
from cpc.files import write_json
from cpc.labels import read_phone_labels
from cpc.probes import Options
from cpc.report import results_table, write_page
from cpc.train import complete

ROWS = ("mfcc", "untrained", "cpc_z", "cpc_c")
TASKS: tuple[Task, ...] = ("phone", "speaker")


@dataclass(frozen=True)
class Pipeline:
    """One training run, and what probes read from its features."""

    out: Path
    """Run folder: best.pt, last.pt, features/, topline/, probes/, results.json, report.html."""
    config: Config
    """The run; its manifest has splits."""
    labels: Path
    """Phone labels; if phones.txt lies beside them, it names the phones."""
    phone_classes: Path | None = None
    """Table of phone classes (CSV), by which phone results are grouped; it needs phones.txt."""
    options: Options = field(default_factory=Options)
    """Options of every probe."""
    with_topline: bool = False
    """Also train the same network with labels, once for phones and once for speakers."""

    def probes(self) -> list[Probe]:
        """List the probes: phones and speakers in the features of each row."""
        rows = [(task, row, self._features(row)) for row in ROWS for task in TASKS]
        if self.with_topline:
            rows += [(task, "supervised", self._topline(task) / "features") for task in TASKS]
        probes = []
        for task, row, features in rows:
            result = self.out / "probes" / f"{task}-{row}-{self.options.evaluate}.json"
            predictions = result.with_suffix(".predictions.txt") if (task, row) == ("phone", "cpc_c") else None
            probes.append(Probe(task, row, features, result, self.options, predictions=predictions))
        return probes

    def stages(self) -> list[Stage]:
        """List the stages: train, features, topline if it is wanted, probes."""
        manifest, checkpoint = Path(self.config.data.manifest), self.out / "best.pt"
        probes = self.probes()
        train = Stage(
            "train",
            lambda: train_run(self.config, self.out),
            inputs={"manifest": manifest},
            outputs=[self.out / name for name in ("config.toml", "metrics.jsonl", "last.pt", "best.pt")],
            settings=config_identity(self.config),
            keep=True,
        )
        features = Stage(
            "features",
            self._extract,
            inputs={"checkpoint": checkpoint, "manifest": manifest},
            outputs=[self._features(row) for row in ROWS],
        )
        stages = [train, features, self._probing("probes", [probe for probe in probes if probe.row in ROWS])]
        if self.with_topline:
            topline = Stage(
                "topline",
                self._train_topline,
                inputs={"manifest": manifest, "labels": self.labels},
                outputs=[self.out / "topline"],
                settings={task: config_identity(self._supervised(task)) for task in TASKS},
                keep=True,
            )
            stages += [topline, self._probing("topline_probes", [p for p in probes if p.row not in ROWS])]
        return stages

    def report(self, seconds: Mapping[str, float]) -> str:
        """Write results.json and report.html.

        Args:
            seconds: the time that each stage took.

        Returns:
            The table of results (Markdown).
        """
        results: dict[str, Any] = {
            **table_rows(self.probes()),
            "evaluate": self.options.evaluate,
            "seconds": dict(seconds),
        }
        write_json(self.out / "results.json", results)
        write_page(self.out, self.out / "report.html", labels=self.labels)
        return results_table(results)

    def _features(self, row: str) -> Path:
        return self.out / "features" / row

    def _topline(self, task: Task) -> Path:
        return self.out / "topline" / task

    def _supervised(self, task: Task) -> Config:
        changes = {"loss.name": "supervised", "loss.target": task, "loss.labels": str(self.labels)}
        return override(self.config, changes, where="topline")

    def _extract(self) -> None:
        for row in ROWS:
            extract_row(row, self.out, read_manifest(self.config.data.manifest), self._features(row))

    def _train_topline(self) -> None:
        for task in TASKS:
            run = complete(self._supervised(task), self._topline(task))
            extract_row(f"supervised_{task}", self.out, read_manifest(self.config.data.manifest), run / "features")

    def _probing(self, name: str, probes: list[Probe]) -> Stage:
        """Make a stage of some probes; each split that is evaluated has its own stage, so its results are kept."""
        settings = dataclasses.asdict(self.options)
        evaluate = settings.pop("evaluate")

        def make() -> None:
            phones = self.labels.with_name("phones.txt")
            names, classes = (phones, self.phone_classes) if phones.exists() else (None, None)
            run_probes(probes, read_phone_labels(self.labels, names=names, classes=classes))

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
