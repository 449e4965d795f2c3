"""Markdown tables that also read well in a terminal, and the numbers in their cells."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from cpc.probes import CONDITIONS

NO_VALUE = "–"

ROWS = {  # the rows of a table of results, in this order
    "majority": "majority class",
    "untrained": "untrained network",
    "mfcc": "MFCC",
    "spectral": "strongest spectral",
    "cpc_z": "CPC z",
    "cpc_c": "CPC c",
    "cpc_c_cmvn": "CPC c, CMVN",
    "supervised": "supervised",
}
COLUMNS = {  # its columns: a probe's task, its classifier, and which of its accuracies is shown
    "phone, linear": ("phone", "linear", "accuracy"),
    "phone, hidden layer": ("phone", "mlp", "accuracy"),
    "speaker by frame, linear": ("speaker", "linear", "accuracy"),
    "speaker by frame, hidden layer": ("speaker", "mlp", "accuracy"),
    "speaker by utterance, linear": ("speaker", "linear", "utterance_accuracy"),
    "speaker by utterance, hidden layer": ("speaker", "mlp", "utterance_accuracy"),
}
NOTES = {  # what the name of a row does not say
    "spectral": (
        "The strongest spectral features are MFCC stacked with their neighbours up to 8 frames away; for phones, they "
        "are first normalised over the utterance (CMVN), which helps phones and costs speakers nearly everything."
    ),
    "cpc_c_cmvn": "CPC c with CMVN is probed for phones only.",
}


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table; the first column is left-aligned, the others are right-aligned.

    Args:
        rows: the header, then the rows; all have equally many cells.

    Returns:
        Lines of equal width, without a final newline.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    header, *body = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *body))


def latex_table(rows: Sequence[Sequence[str]]) -> str:
    """Format a LaTeX tabular, to be put into a table; the first column is left-aligned, the others are right-aligned.

    Args:
        rows: as for `markdown_table`.
    """
    header, *body = (" & ".join(map(_latex, row)) + " \\\\" for row in rows)
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}", r"\hline", header, r"\hline", *body, r"\hline"]
    return "\n".join([*lines, r"\end{tabular}"])


def _latex(text: str) -> str:
    """Escape a cell's text; the sign between a mean and its deviation is mathematics."""
    words = {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
    words |= {sign: f"\\{sign}" for sign in "&%$#_{}"} | {"±": r"$\pm$", NO_VALUE: "--"}
    return "".join(words.get(sign, sign) for sign in text)


def tidy_csv(columns: Sequence[str], found: Mapping[tuple[str, ...], Mapping[str, Any]]) -> str:
    """Format results as a CSV table with one number a row.

    Args:
        columns: names of the keys.
        found: from the keys of each result to its fields. Of these, numbers are taken, and pairs of numbers as NAME_low
            and NAME_high; all else is left out.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, "measure", "value"])
    for keys, fields in found.items():
        for name, value in fields.items():
            pair = isinstance(value, list | tuple) and len(value) == 2
            named = {f"{name}_low": value[0], f"{name}_high": value[1]} if pair else {name: value}
            for measure, number in named.items():
                if isinstance(number, int | float) and not isinstance(number, bool):
                    writer.writerow([*keys, measure, number])
    return text.getvalue()


def percent(value: float | None, interval: Sequence[float] | None = None) -> str:
    """Format a share as a percentage with one decimal.

        >>> percent(0.6456), percent(0.6456, (0.631, 0.66)), percent(None)
        ('64.6', '64.6 (63.1 to 66.0)', '–')

    Args:
        value: a share in [0, 1]; None if there is no such value.
        interval: lower and upper end of its confidence interval, in [0, 1]; None or empty leaves it out.

    Returns:
        The number without a % sign; a dash if there is no value.
    """
    if value is None:
        return NO_VALUE
    ends = f" ({' to '.join(f'{100 * end:.1f}' for end in interval)})" if interval else ""
    return f"{100 * value:.1f}{ends}"


def mean_and_deviation(values: Sequence[float], *, decimals: int = 1) -> str:
    """Format a mean with the sample standard deviation (n − 1 in the denominator).

        >>> mean_and_deviation([64.0, 66.0]), mean_and_deviation([64.0]), mean_and_deviation([])
        ('65.0 ± 1.4', '64.0', '–')

    Args:
        values: the numbers, e.g. one per seed, in the unit to show (percentages: `100 * share`).
        decimals: digits after the decimal point.

    Returns:
        The mean; its deviation if there are two values or more; a dash if there are none.
    """
    if not values:
        return NO_VALUE
    deviation = f" ± {statistics.stdev(values):.{decimals}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{decimals}f}{deviation}"


def row_key(row: str, classifier: str) -> str:
    """Name a row's result with a classifier: the row itself for "linear", else with the classifier after it.

    >>> row_key("cpc_c", "linear"), row_key("cpc_c", "mlp")
    ('cpc_c', 'cpc_c_mlp')
    """
    return row if classifier == "linear" else f"{row}_{classifier}"


def notes_on(rows: Collection[str]) -> str:
    """Say what the names of some rows do not; empty if they say everything."""
    return " ".join(note for row, note in NOTES.items() if row in rows)


def results_table(*runs: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the probes' accuracies, and below them the errors of ABX where there are any, as Markdown tables.

    Args:
        runs: the results of one run, or of several that differ in the seed. For each task ("phone", "speaker"), a
            mapping from rows (see ROWS; others follow these) to the probe's result, which holds accuracies in [0, 1].
            The result with a hidden layer stands under the row's `row_key`. For "abx", a mapping from rows to the error
            in each condition. The optional key "seconds" maps stages to the time that each took.

    Returns:
        Numbers in %, as the mean and the deviation over several runs, without columns that would be empty, "–" where
        there is no value; below, what the rows' names do not say, and the (mean) times; without a final newline.
    """
    found = [row.removesuffix("_mlp") for run in runs for task in ("phone", "speaker") for row in run.get(task, {})]
    accuracies: dict[str, dict[str, list[float]]] = {}
    for name, (task, classifier, measure) in COLUMNS.items():
        accuracies[name] = {
            row: _values(runs, task, row if row == "majority" else row_key(row, classifier), measure) for row in found
        }
        if not any(values for row, values in accuracies[name].items() if row != "majority"):
            del accuracies[name]
    parts = [_table_of("accuracy in %", _in_order(found), accuracies)]
    if of_abx := [row for run in runs for row in run.get("abx", {})]:
        errors = {
            words: {row: _values(runs, "abx", row, condition) for row in of_abx}
            for condition, words in CONDITIONS.items()
        }
        parts.append(_table_of("ABX error in %, chance 50", _in_order(of_abx), errors))
    parts.append(notes_on(found))
    if seconds := [run["seconds"] for run in runs if run.get("seconds")]:
        times = {stage: statistics.mean(run[stage] for run in seconds if stage in run) for stage in seconds[0]}
        stages = ", ".join(f"{stage} {value:.0f} s" for stage, value in times.items())
        parts.append(f"Time: {stages}; {sum(times.values()):.0f} s in total.")
    return "\n\n".join(filter(None, parts))


def _values(runs: Sequence[Mapping[str, Mapping[str, Any]]], task: str, row: str, measure: str) -> list[float]:
    """Collect a number of each run, in %, where it has one."""
    values = [run.get(task, {}).get(row, {}).get(measure) for run in runs]
    return [100 * value for value in values if value is not None]


def _in_order(rows: Collection[str]) -> list[str]:
    """Name each row once, in the order of ROWS; others follow these."""
    return [*(row for row in ROWS if row in rows), *dict.fromkeys(row for row in rows if row not in ROWS)]


def _table_of(title: str, rows: Sequence[str], columns: Mapping[str, Mapping[str, list[float]]]) -> str:
    """Format the numbers of some rows, by column and row, under a title."""
    lines = [[title, *columns]]
    lines += [[ROWS.get(row, row), *(mean_and_deviation(of[row]) for of in columns.values())] for row in rows]
    return markdown_table(lines)
