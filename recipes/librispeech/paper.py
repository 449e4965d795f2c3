"""Section 3.1 of van den Oord et al. 2018 at full size: frames in half precision, streaming probes, three splits.

The closed set gives the paper's table, but there a speaker probe can recognise the recording session instead of the
voice, so a second table compares it with the splits by chapter and by speaker. By speaker, no speaker of test is known
from train.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus import UNITS

from cpc.config import Config
from cpc.data import read_manifest
from cpc.devices import resolve_device
from cpc.experiments import Pipeline, Probe, Stage, Task, extract_row, override, run_probes, table_rows
from cpc.features import Dtype
from cpc.files import write_json
from cpc.labels import read_phone_labels
from cpc.report import markdown_table, percent
from cpc.train import complete

DTYPE: Dtype = "float16"  # type of frames on disk: c of 100 hours takes 18.5 GB, in float32 37
TASKS: tuple[Task, ...] = ("phone", "speaker")
# The rows that are compared between splits.
COMPARED = {"untrained": "untrained network", "mfcc": "MFCC", "spectral": "strongest spectral", "cpc_c": "CPC c"}
PAPER = (  # the paper's accuracies in %, by frame
    ("the paper, accuracy in %", "phone, linear", "phone, hidden layer", "speaker by frame, linear"),
    ("untrained network", "27.6", "–", "1.87"),
    ("MFCC", "39.7", "–", "17.6"),
    ("CPC c", "64.6", "72.5", "97.4"),
    ("supervised", "74.6", "–", "98.5"),
)


@dataclass(frozen=True)
class Paper:
    """The experiment on a corpus that has splits and phone labels, with the methods of `cpc.experiments.Pipeline`."""

    config: Config
    """The pretraining run; its manifest may be any of the splits."""
    closed: Pipeline
    """The standard experiment on the closed set, with topline."""
    splits: Mapping[str, Path]
    """Manifest of each split, by the unit that stays together; "utterance" is the closed set."""

    def probes(self) -> list[Probe]:
        """List the probes: those of the standard experiment, controls, and some rows on the other splits."""
        return [*self.closed.probes(), *self._more_probes()]

    def stages(self) -> list[Stage]:
        """List the stages: train, features, probes, topline, its probes, probes of controls and of the other splits."""
        out, closed = self.closed.out, self.closed
        train, *_ = Pipeline(out, self.config, closed.labels).stages()
        _, features, probes, topline, topline_probes, *abx = closed.stages()
        folders = features.outputs
        extract = dataclasses.replace(
            features, make=lambda: self._extract({path.name: path for path in folders}), settings={"dtype": DTYPE}
        )
        supervise = dataclasses.replace(
            topline, make=self._train_topline, settings={**topline.settings, "dtype": DTYPE}
        )
        more, evaluate = self._more_probes(), closed.options.evaluate
        compare = Stage(
            "splits" if evaluate == "test" else f"splits_{evaluate}",
            lambda: run_probes(more, read_phone_labels(closed.labels), jobs=closed.jobs),
            inputs={
                "labels": closed.labels,
                **{f"{unit} split": path for unit, path in self.splits.items()},
                **{probe.frames.name: probe.frames / "features.json" for probe in more},
            },
            outputs=[probe.result for probe in more],
            settings={key: value for key, value in dataclasses.asdict(closed.options).items() if key != "evaluate"},
        )
        return [train, extract, probes, supervise, topline_probes, *abx, compare]

    def report(self, seconds: Mapping[str, float]) -> str:
        """Write results.json and report.html.

        Args:
            seconds: the time that each stage took.

        Returns:
            The tables (Markdown): the closed set, the paper's values, the other splits.
        """
        table, path = self.closed.report(seconds), self.closed.out / "results.json"
        found: dict[str, Any] = {"utterance": json.loads(path.read_text(encoding="utf-8"))}
        more = self._more_probes()
        found |= {unit: table_rows(probe for probe in more if probe.splits == self.splits[unit]) for unit in UNITS[1:]}
        controls = table_rows(probe for probe in more if probe.splits == self.splits["utterance"])
        write_json(path, {**found["utterance"], "controls": controls, "splits": {u: found[u] for u in UNITS[1:]}})
        shuffled = ", ".join(f"{task} {percent(controls[task]['shuffled']['accuracy'])}" for task in TASKS)
        control = f"CPC c with shuffled labels, by frame: {shuffled}."
        return "\n\n".join([table, control, markdown_table(PAPER), side_by_side(found)])

    def _more_probes(self) -> list[Probe]:
        """List the linear probes of c with shuffled labels, and those of some rows by chapter and by speaker."""
        linear = {(p.task, p.row): p for p in self.closed.probes() if p.row in COMPARED}
        asked = [(linear[task, "cpc_c"], "shuffled", "utterance") for task in TASKS]
        asked += [(linear["phone", row], row, unit) for row in COMPARED for unit in ("chapter", "speaker")]
        asked += [(linear["speaker", row], row, "chapter") for row in COMPARED]
        return [
            dataclasses.replace(
                probe,
                row=row,
                result=probe.result.parent / unit / f"{probe.task}-{row}-{probe.options.evaluate}.json",
                options=dataclasses.replace(probe.options, shuffle_labels=row == "shuffled"),
                splits=self.splits[unit],
                predictions=None,
                unknown_speakers="leave out",  # some speakers read one chapter alone
            )
            for probe, row, unit in asked
        ]

    def _extract(self, folders: Mapping[str, Path]) -> None:
        """Write the frames of every utterance of the closed set, by row of `extract_row`."""
        utterances, device = read_manifest(self.splits["utterance"]), resolve_device(self.config.device)
        for row, folder in folders.items():
            extract_row(row, self.closed.out, utterances, folder, device=device, dtype=DTYPE)

    def _train_topline(self) -> None:
        """Train the same networks end to end to name the phone or the speaker."""
        for task in TASKS:
            changes = {"loss.name": "supervised", "loss.target": task, "loss.labels": str(self.closed.labels)}
            run = self.closed.out / "topline" / task
            complete(override(self.closed.config, changes, where="topline"), run)
            self._extract({f"supervised_{task}": run / "features"})


def side_by_side(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Compare the same linear probes under the splits by utterance (the closed set), by chapter and by speaker."""
    columns = [("phone", "frame", "accuracy", unit) for unit in UNITS]
    columns += [("speaker", "frame", "accuracy", unit) for unit in UNITS[:2]]
    columns += [("speaker", "utterance", "utterance_accuracy", unit) for unit in UNITS[:2]]
    rows = [["accuracy in %", *(f"{task}, {kind}; by {unit}" for task, kind, _, unit in columns)]]
    for row, name in COMPARED.items():
        results = [(found[unit][task][row], key) for task, _, key, unit in columns]
        rows.append([name, *(percent(result[key], result[f"{key}_interval"]) for result, key in results)])
    return markdown_table(rows)
