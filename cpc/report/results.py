"""The probes' results on the page of a run: classifiers of phones and speakers, of other columns, numbers, and ABX."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpc.probes import CONDITIONS, AbxResult, Regression, Result
from cpc.report.provenance import Expected, refuse_foreign_results
from cpc.report.tables import COLUMNS, NO_VALUE, ROWS, markdown_table, notes_on, percent, tidy_csv

_OF_PAPER = ("phone", "speaker")

Cell = str | tuple[str, str]  # text; or text and smaller text behind it


@dataclass(frozen=True)
class Table:
    """A table of the page; the first cell of each row is its heading."""

    caption: str
    header: list[str]
    rows: list[list[Cell]]

    def markdown(self) -> str:
        """Format it for a README."""
        rows = [[cell if isinstance(cell, str) else " ".join(cell) for cell in row] for row in self.rows]
        return f"{self.caption}:\n\n{markdown_table([self.header, *rows])}"


@dataclass(frozen=True)
class Results:
    """The results of a folder, by file name without suffix."""

    classified: Mapping[str, Result]
    regressed: Mapping[str, Regression]
    abx: Mapping[str, AbxResult]

    @classmethod
    def read(cls, folder: Path) -> Results:
        """Read all JSON files of a folder.

        Raises:
            ProbeError: one is not the result of a probe.
        """
        classified: dict[str, Result] = {}
        regressed: dict[str, Regression] = {}
        abx: dict[str, AbxResult] = {}
        for path in sorted(folder.glob("*.json")):
            keys = _keys(path)
            if keys.get("task") == "abx":
                abx[path.stem] = AbxResult.read(path)
            elif "r2" in keys:
                regressed[path.stem] = Regression.read(path)
            else:
                classified[path.stem] = Result.read(path)
        return cls(classified, regressed, abx)

    @property
    def all(self) -> dict[str, Result | Regression | AbxResult]:
        """All results."""
        return {**self.classified, **self.regressed, **self.abx}

    def of(self, expected: Expected, folder: Path) -> tuple[Results, list[str]]:
        """Keep the results of a run and its corpus.

        Returns:
            These, and one line for each result that is refused.
        """
        refused, lines = refuse_foreign_results(self.all, expected, folder)
        classified = {name: result for name, result in self.classified.items() if name not in refused}
        regressed = {name: result for name, result in self.regressed.items() if name not in refused}
        abx = {name: result for name, result in self.abx.items() if name not in refused}
        return Results(classified, regressed, abx), lines

    def tables(self) -> list[Table]:
        """Format all of them as tables."""
        by_split: dict[str, dict[str, Result]] = {}
        for stem, result in self.classified.items():
            if _is_of_paper(result):
                by_split.setdefault(result.evaluate, {})[stem] = result
        groups = dict.fromkeys(column.rpartition(", ")[0] for column in COLUMNS)
        tables = [_paper_table(split, g, of) for split, of in sorted(by_split.items(), reverse=True) for g in groups]
        others = {stem: result for stem, result in self.classified.items() if not _is_of_paper(result)}
        tables += [_columns_table(others), _numbers_table(self.regressed), _abx_table(self.abx)]
        return [table for table in tables if table.rows]

    def notes(self) -> list[str]:
        """Say what the tables do not."""
        of_paper = {stem: result for stem, result in self.classified.items() if _is_of_paper(result)}
        notes = []
        if of_paper:
            notes.append(
                "The small numbers are 95 % bootstrap intervals. They hold for other utterances, but not for another "
                "training run. The majority class is that of each row's own train frames: it says what always giving "
                f"the most frequent answer would reach. {notes_on({_row(*item) for item in of_paper.items()})}"
            )
        if self.abx:
            notes.append(
                "ABX needs no classifier: the error says how often a phone is closer to another phone than to another "
                "instance of itself. Chance is 50 %; a dash stands where too few phones can be compared."
            )
        return notes

    def as_json(self) -> str:
        """Format all results as one JSON object, by file name."""
        return json.dumps({stem: dataclasses.asdict(result) for stem, result in self.all.items()})

    def as_csv(self) -> str:
        """Format the numbers of all results as a tidy CSV table, one number a row."""
        named: dict[tuple[str, ...], Mapping[str, Any]] = {
            (stem, result.task, result.evaluate or NO_VALUE): dataclasses.asdict(result)
            for stem, result in self.all.items()
        }
        return tidy_csv(("result", "task", "evaluate"), named)


def _keys(path: Path) -> dict[str, object]:
    """Read a file's keys; none if it is no JSON object, as reading the result will say."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _paper_table(split: str, group: str, results: Mapping[str, Result]) -> Table:
    """List the accuracies of some columns of COLUMNS on a split, each row with that of its majority class."""
    columns = {name: of for name, of in COLUMNS.items() if name.rpartition(", ")[0] == group}
    rows: dict[tuple[str, str], dict[str, Cell]] = {}  # by features and majority: other labels have another majority
    for stem, result in results.items():
        for column, (task, classifier, measure) in columns.items():
            share = getattr(result, measure)
            if (result.task, result.classifier) == (task, classifier) and share is not None:
                low, high = getattr(result, f"{measure}_interval")
                key = _row(stem, result), percent(result.majority[measure])
                rows.setdefault(key, {})[column] = percent(share), f"{percent(low)}–{percent(high)}"
    order = {row: place for place, row in enumerate(ROWS)}
    filled = [column for column in columns if any(column in cells for cells in rows.values())]
    return Table(
        f"{group.capitalize()}, accuracy in % on {split}",
        ["features", *(column.rpartition(", ")[2] for column in filled), "majority class"],
        [
            [ROWS.get(row, row), *(rows[row, majority].get(column, NO_VALUE) for column in filled), majority]
            for row, majority in sorted(rows, key=lambda key: order.get(key[0], len(order)))
        ],
    )


def _columns_table(results: Mapping[str, Result]) -> Table:
    """List the results of columns of the manifest, by utterance and by frame."""
    header = ["column", "features", "majority", "by utterance", "UAR", "macro F1", "by frame", "UAR", "macro F1"]
    body: list[list[Cell]] = []
    for stem, result in sorted(results.items(), key=lambda item: (item[1].task, item[0])):
        majority = result.majority.get("utterance_accuracy", result.majority["accuracy"])
        by_utterance = (result.utterance_accuracy, result.utterance_balanced_accuracy, result.utterance_macro_f1)
        by_frame = (result.accuracy, result.balanced_accuracy, result.macro_f1) if not result.pooling else 3 * (None,)
        where = f"{result.task}, {result.evaluate}" + (", hidden layer" if result.classifier == "mlp" else "")
        where += _pooled(result)
        shares = map(percent, (majority, *by_utterance, *by_frame))
        body.append([where, ROWS.get(name := _row(stem, result), name), *shares])
    return Table("Other columns of the manifest, in %", header, body)


def _numbers_table(results: Mapping[str, Regression]) -> Table:
    """List the regressions of columns that hold numbers."""
    header = ["number", "features", "R² by utterance", "error", "error of the mean", "R² by frame", "error"]
    body: list[list[Cell]] = [
        [
            f"{result.task}, {result.evaluate}{_pooled(result)}",
            ROWS.get(name := _origin(result), name),
            *(f"{value:.3f}" for value in (result.utterance_r2, result.utterance_mae, result.mean_mae)),
            *(NO_VALUE if result.pooling else f"{value:.3f}" for value in (result.r2, result.mae)),
        ]
        for _, result in sorted(results.items())
    ]
    return Table("Numbers: R² and mean absolute error", header, body)


def _abx_table(results: Mapping[str, AbxResult]) -> Table:
    """List the errors of each result of ABX in each condition."""
    rows = {(_features_of(stem, result), result.evaluate or result.items): result for stem, result in results.items()}
    order = {row: i for i, row in enumerate(ROWS)}
    body: list[list[Cell]] = [
        [f"{ROWS.get(row, row)}, {of}", *(percent(rows[row, of].errors[c]) for c in CONDITIONS)]
        for row, of in sorted(rows, key=lambda key: (key[1], order.get(key[0], len(order))))
    ]
    return Table("ABX error in %", ["features", *CONDITIONS.values()], body)


def _is_of_paper(result: Result) -> bool:
    """Whether a result is one of the paper's probes, which learn from frames."""
    return result.task in _OF_PAPER and result.pooling is None


def _pooled(result: Result | Regression) -> str:
    """Say that a probe learned from pooled frames, and how they were pooled."""
    return f", pooled by {result.pooling.replace('_', ' and ')}" if result.pooling else ""


def _row(stem: str, result: Result) -> str:
    """Name the row of a result."""
    name = _features_of(stem.removesuffix(f"-{result.evaluate}").removesuffix(f"_{result.classifier}"), result)
    return f"{ROWS.get(name, name)} ({result.control})" if result.control else name


def _features_of(stem: str, result: Result | AbxResult) -> str:
    """Name the probed features, by the name of the result's file where possible."""
    name = stem.removesuffix(f"-{result.evaluate}").removeprefix(result.task).strip("-_")
    return name or _origin(result)


def _origin(result: Result | Regression | AbxResult) -> str:
    """Name the probed features by what made them."""
    return "_".join(filter(None, (result.features.source, result.features.layer)))


def grouping_table(result: Result, kind: str) -> Table:
    """List the accuracy of each group of phones, and the group that it is most often confused with."""
    grouping = result.by[kind]
    rows: list[list[Cell]] = []
    for group, counts in zip(grouping.classes, grouping.confusion, strict=True):
        if not group.count:
            continue
        others = [
            (count, other.name) for count, other in zip(counts, grouping.classes, strict=True) if other is not group
        ]
        count, other = max(others, default=(0, NO_VALUE))
        accuracies = percent(group.accuracy), percent(group.phone_accuracy)
        rows.append([group.name, str(group.count), *accuracies, f"{other} {percent(count / group.count)}"])
    header = [kind, "frames", f"{kind} accuracy, %", "phone accuracy, %", "most frequent confusion, %"]
    return Table(f"Phones by {kind}", header, rows)


def phone_result(results: Mapping[str, Result]) -> Result | None:
    """Choose the phone probe to show: preferably the linear one of c, never a control."""
    phones = [result for result in results.values() if result.task == "phone" and not result.control]
    of_c = [result for result in phones if (result.features.source, result.features.layer) == ("cpc", "c")]
    linear = [result for result in of_c if result.classifier == "linear"]
    return next(iter(linear or of_c or phones), None)
