"""Pictures as SVG in the colours of the page, light or dark. Text stays text."""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from cpc.probes import Result
from cpc.report.figures import BLUE, GREEN, GREY, ORANGE, confusions, take_text_as_it_is
from cpc.report.tables import percent

# The figures' colours, and the page's that take their place; saved by itself, a picture keeps the former.
_COLOURS = {
    "#000000": "--ink",
    "#ffffff": "--ground",
    "#dddddd": "--line",
    BLUE: "--blue",
    ORANGE: "--orange",
    GREEN: "--right",
    GREY: "--dim",
}
# Whatever is not drawn. The style would apply to the whole page.
_PROLOGUE = re.compile(r"^.*?(?=<svg)|<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", re.S)
_SIZE = re.compile(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>')
_NAMES = re.compile(r'(\bid="|"#|url\(#)')  # of elements, and references to them
# Inherited by what has no style of its own: matplotlib names no colour for black text.
_INHERITED = 'fill="var(--ink, #000000)" stroke-linejoin="round" stroke-linecap="butt"'
_EMPTY_LINES = re.compile(r"\n\s*")


def figure_svg(figure: Figure, name: str, caption: str) -> Markup:
    """Draw a figure as an SVG element whose colours are the page's.

    Args:
        figure: the figure.
        name: with which the names of its elements begin, so that no two pictures of a page share any.
        caption: what it shows, for those who do not see it.
    """
    take_text_as_it_is(figure)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = _EMPTY_LINES.sub("\n", _PROLOGUE.sub("", buffer.getvalue()))
    text = _NAMES.sub(rf"\g<1>{name}-", text)
    for colour, variable in _COLOURS.items():
        text = re.sub(f"{colour}\\b", f"var({variable}, {colour.lower()})", text, flags=re.I)
    start = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {_INHERITED} '
    start += f'role="img" aria-label="{escape(caption)}"'
    text = _SIZE.sub(lambda found: f'{start} viewBox="{found[1]}">', text, count=1)
    return Markup(text)  # matplotlib escapes its text


def confusion_matrix(result: Result) -> dict[str, Any]:
    """Prepare a phone probe's confusion matrix: each row shows what one true phone was classified as.

    Args:
        result: a phone probe's result.

    Returns:
        names (n,), counts (n, n) of frames [true][predicted], and cells: row, column, share in [0, 1] and text of those
        that are not 0.
    """
    names, counts = confusions(result)
    totals = counts.sum(axis=1)
    cells = [
        {
            "row": row,
            "column": column,
            "share": round(float(counts[row, column] / totals[row]), 3),
            "text": f"{names[row]} as {names[column]}: {percent(counts[row, column] / totals[row])} %",
        }
        for row, column in np.argwhere(counts).tolist()
    ]
    return {"names": names, "counts": counts.tolist(), "cells": cells}
