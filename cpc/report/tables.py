"""Markdown tables that also read well in a terminal, and the numbers in their cells."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

NO_VALUE = "–"

ROWS = {  # the rows of `results_table`, in this order
    "majority": "majority class",
    "untrained": "untrained network",
    "mfcc": "MFCC",
    "cpc_z": "CPC z",
    "cpc_c": "CPC c",
    "supervised": "supervised",
}
COLUMNS = {  # its columns: a probe's task, and which of its accuracies is shown
    "phone, frame": ("phone", "accuracy"),
    "speaker, frame": ("speaker", "accuracy"),
    "speaker, utterance": ("speaker", "utterance_accuracy"),
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


def results_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the probes' accuracies as a Markdown table.

    Args:
        results: for each task ("phone", "speaker"), a mapping from features ("majority", "untrained", "mfcc", "cpc_z",
            "cpc_c"; others follow these) to the probe's result, which holds accuracies in [0, 1]. The optional
            key "seconds" maps stages to the time that each took.

    Returns:
        Accuracies in %, "–" where there is none, and a line with the times; without a final newline.
    """
    present = dict.fromkeys(row for task in ("phone", "speaker") for row in results.get(task, {}))
    keys = [key for key in ROWS if key in present] + [key for key in present if key not in ROWS]
    cells = [["accuracy in %", *COLUMNS]]
    for key in keys:
        values = [results.get(task, {}).get(key, {}).get(measure) for task, measure in COLUMNS.values()]
        cells.append([ROWS.get(key, key), *map(percent, values)])
    lines = [markdown_table(cells)]
    if seconds := results.get("seconds"):
        stages = ", ".join(f"{stage} {value:.0f} s" for stage, value in seconds.items())
        lines += ["", f"Time: {stages}; {sum(seconds.values()):.0f} s in total."]
    return "\n".join(lines)
