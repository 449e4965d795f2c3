"""Figures, the page of a run, and Markdown tables."""

from typing import TYPE_CHECKING

from cpc.doors import lazily
from cpc.report.tables import (
    ROWS,
    latex_table,
    markdown_table,
    mean_and_deviation,
    notes_on,
    percent,
    results_table,
    row_key,
    tidy_csv,
)

if TYPE_CHECKING:
    from cpc.report.figures import (
        Figure,
        ReportError,
        accuracy_figure,
        confusion_figure,
        learning_figure,
        save_figure,
        steps_figure,
    )
    from cpc.report.findings import Finding, Level, findings_text, read_findings, write_findings
    from cpc.report.negatives import negatives_figure
    from cpc.report.page import write_page
    from cpc.report.projections import map_figure, phone_map, speaker_map
    from cpc.report.provenance import Expected
    from cpc.report.results import Results
    from cpc.report.seeds import seeds_table

__all__ = [
    "ROWS",
    "Expected",
    "Figure",
    "Finding",
    "Level",
    "ReportError",
    "Results",
    "accuracy_figure",
    "confusion_figure",
    "findings_text",
    "latex_table",
    "learning_figure",
    "map_figure",
    "markdown_table",
    "mean_and_deviation",
    "negatives_figure",
    "notes_on",
    "percent",
    "phone_map",
    "read_findings",
    "results_table",
    "row_key",
    "save_figure",
    "seeds_table",
    "speaker_map",
    "steps_figure",
    "tidy_csv",
    "write_findings",
    "write_page",
]

# A table needs neither matplotlib nor anything else that figures and the page import.
__getattr__ = lazily(
    __name__,
    {
        "Figure": "figures",
        "ReportError": "figures",
        "accuracy_figure": "figures",
        "confusion_figure": "figures",
        "negatives_figure": "negatives",
        "map_figure": "projections",
        "phone_map": "projections",
        "speaker_map": "projections",
        "learning_figure": "figures",
        "save_figure": "figures",
        "steps_figure": "figures",
        "Finding": "findings",
        "Level": "findings",
        "findings_text": "findings",
        "read_findings": "findings",
        "write_findings": "findings",
        "write_page": "page",
        "Expected": "provenance",
        "Results": "results",
        "seeds_table": "seeds",
    },
)
