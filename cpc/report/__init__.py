"""Pictures, the page and tables."""

from cpc.report.figures import (
    ReportError,
    draw_accuracy_by_k,
    draw_learning_curves,
    learning_figure,
    metrics_of_run,
    steps_figure,
)
from cpc.report.maps import classes_figure, confusion_figure, phones_figure, speakers_figure
from cpc.report.page import write_page
from cpc.report.tables import COLUMNS, ROWS, markdown_table, results_table

__all__ = [
    "COLUMNS",
    "ROWS",
    "ReportError",
    "classes_figure",
    "confusion_figure",
    "draw_accuracy_by_k",
    "draw_learning_curves",
    "learning_figure",
    "markdown_table",
    "metrics_of_run",
    "phones_figure",
    "results_table",
    "speakers_figure",
    "steps_figure",
    "write_page",
]
