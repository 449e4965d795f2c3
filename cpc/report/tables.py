"""Markdown tables that also read well in a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A table of a header and rows, its first column to the left and the others to the right.

    Returns:
        Lines without a newline at the end, all of one width.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in (rows[0], *rows[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (lines[0], rule, *lines[1:]))


ROWS = {  # of the table, in its order
    "majority": "majority class",
    "untrained": "untrained network",
    "mfcc": "MFCC",
    "cpc_z": "CPC z",
    "cpc_c": "CPC c",
    "supervised": "supervised",
}
COLUMNS = {
    "phone, frame": ("phone", "accuracy"),
    "speaker, frame": ("speaker", "accuracy"),
    "speaker, utterance": ("speaker", "utterance_accuracy"),
}


def results_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The probes' accuracies as a Markdown table that also reads well in a terminal.

    Args:
        results: by task ("phone", "speaker"), by features ("majority", "untrained", "mfcc", "cpc_z", "cpc_c",
            others after them), a probe's result: its accuracies in [0, 1]. "seconds": the time of each stage.

    Returns:
        Lines without a newline at the end; accuracies in %, "–" where there is none.
    """
    present = dict.fromkeys(row for task in ("phone", "speaker") for row in results.get(task, {}))
    keys = [key for key in ROWS if key in present] + [key for key in present if key not in ROWS]
    cells = [["accuracy in %", *COLUMNS]]
    for key in keys:
        values = [results.get(task, {}).get(key, {}).get(measure) for task, measure in COLUMNS.values()]
        cells.append([ROWS.get(key, key), *("–" if value is None else f"{100 * value:.1f}" for value in values)])
    lines = [markdown_table(cells)]
    if results.get("seconds"):
        seconds = results["seconds"]
        stages = ", ".join(f"{stage} {value:.0f} s" for stage, value in seconds.items())
        lines += ["", f"Time: {stages}; in all {sum(seconds.values()):.0f} s."]
    return "\n".join(lines)
