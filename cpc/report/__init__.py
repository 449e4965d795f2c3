"""Figures, the page of a run, and Markdown tables."""

from typing import TYPE_CHECKING

from cpc.doors import lazily
from cpc.report.tables import markdown_table, mean_and_deviation, percent, results_table

if TYPE_CHECKING:
    from cpc.report.figures import ReportError, learning_figure, save_figure, steps_figure
    from cpc.report.page import write_page

__all__ = [
    "ReportError",
    "learning_figure",
    "markdown_table",
    "mean_and_deviation",
    "percent",
    "results_table",
    "save_figure",
    "steps_figure",
    "write_page",
]

# A table needs neither matplotlib nor anything else that figures and the page import.
__getattr__ = lazily(
    __name__,
    {
        "ReportError": "figures",
        "learning_figure": "figures",
        "save_figure": "figures",
        "steps_figure": "figures",
        "write_page": "page",
    },
)
