"""The probes' results on the page of a run: classifiers of phones and speakers, of other columns, numbers, and ABX."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cpc.probes import CONDITIONS, AbxResult, Regression, Result
from cpc.report.tables import COLUMNS, NO_VALUE, ROWS, notes_on, percent

_OF_PAPER = ("phone", "speaker")


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

    def tables(self) -> str:
        """Format all of them as tables; "" if there are none."""
        by_split: dict[str, dict[str, Result]] = {}
        for stem, result in self.classified.items():
            if result.task in _OF_PAPER:
                by_split.setdefault(result.evaluate, {})[stem] = result
        tables = [_results_table(evaluate, of) for evaluate, of in sorted(by_split.items(), reverse=True)]
        if by_split:
            names = {_row(stem, result) for of in by_split.values() for stem, result in of.items()}
            note = (
                "The small numbers are 95 % bootstrap intervals. They hold for other utterances, but not for another "
                f"training run. {notes_on(names)}"
            )
            tables.append(f'<p class="dim">{html.escape(note)}</p>')
        others = {stem: result for stem, result in self.classified.items() if result.task not in _OF_PAPER}
        tables += [_columns_table(others)] * bool(others) + [_numbers_table(self.regressed)] * bool(self.regressed)
        return "".join(tables) + (_abx_table(self.abx) if self.abx else "")


def _keys(path: Path) -> dict[str, object]:
    """Read a file's keys; none if it is no JSON object, as reading the result will say."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _results_table(evaluate: str, results: Mapping[str, Result]) -> str:
    """List each result on a split with its 95 % interval, below the accuracy of the majority class."""
    rows: dict[str, dict[str, str]] = {}  # by row and column
    majority: dict[str, set[str]] = {}  # one value a column, unless its probes had different labels
    for stem, result in results.items():
        for column, (task, classifier, measure) in COLUMNS.items():
            share = getattr(result, measure)
            if (result.task, result.classifier) == (task, classifier) and share is not None:
                low, high = getattr(result, f"{measure}_interval")
                interval = f"<small>{percent(low)}–{percent(high)}</small>"
                rows.setdefault(_row(stem, result), {})[column] = f"{percent(share)} {interval}"
                majority.setdefault(column, set()).add(percent(result.majority[measure]))
    cells = {"majority": {column: " or ".join(sorted(values)) for column, values in majority.items()}, **rows}
    order = [*(row for row in ROWS if row in cells), *(row for row in cells if row not in ROWS)]
    columns = [column for column in COLUMNS if column in majority]
    body = [[html.escape(ROWS.get(r, r)), *(cells[r].get(column, NO_VALUE) for column in columns)] for r in order]
    return html_table([f"accuracy in % on {html.escape(evaluate)}", *map(html.escape, columns)], body)


def _columns_table(results: Mapping[str, Result]) -> str:
    """List the results of columns of the manifest, by utterance and by frame."""
    header = ["column, in %", "features", "majority", "by utterance", "UAR", "macro F1", "by frame", "UAR", "macro F1"]
    body = []
    for stem, result in sorted(results.items(), key=lambda item: (item[1].task, item[0])):
        majority = result.majority.get("utterance_accuracy", result.majority["accuracy"])
        by_utterance = (result.utterance_accuracy, result.utterance_balanced_accuracy, result.utterance_macro_f1)
        by_frame = (result.accuracy, result.balanced_accuracy, result.macro_f1)
        where = f"{result.task}, {result.evaluate}" + (", hidden layer" if result.classifier == "mlp" else "")
        shares = map(percent, (majority, *by_utterance, *by_frame))
        body.append([html.escape(where), html.escape(ROWS.get(name := _row(stem, result), name)), *shares])
    return html_table(header, body)


def _numbers_table(results: Mapping[str, Regression]) -> str:
    """List the regressions of columns that hold numbers."""
    header = ["number", "features", "R² by utterance", "error", "error of the mean", "R² by frame", "error"]
    body = [
        [
            html.escape(f"{result.task}, {result.evaluate}"),
            html.escape(ROWS.get(name := _origin(result), name)),
            *(f"{value:.3f}" for value in (result.utterance_r2, result.utterance_mae, result.mean_mae)),
            *(f"{value:.3f}" for value in (result.r2, result.mae)),
        ]
        for _, result in sorted(results.items())
    ]
    return html_table(header, body)


def _abx_table(results: Mapping[str, AbxResult]) -> str:
    """List the errors of each result of ABX in each condition."""
    rows = {(_features_of(stem, result), result.evaluate or result.items): result for stem, result in results.items()}
    order = {row: i for i, row in enumerate(ROWS)}
    body = [
        [html.escape(f"{ROWS.get(row, row)}, {of}"), *(percent(rows[row, of].errors[c]) for c in CONDITIONS)]
        for row, of in sorted(rows, key=lambda key: (key[1], order.get(key[0], len(order))))
    ]
    note = (
        "ABX needs no classifier: the error says how often a phone is closer to another phone than to another instance "
        "of itself. Chance is 50 %; a dash stands where too few phones can be compared."
    )
    return html_table(["ABX error in %", *CONDITIONS.values()], body) + f'<p class="dim">{note}</p>'


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


def html_table(header: list[str], rows: list[list[str]]) -> str:
    """Format a table of cells that are HTML already."""
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
