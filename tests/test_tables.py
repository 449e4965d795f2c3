"""Markdown tables and the numbers in their cells."""

import doctest

import numpy as np
import pytest

from cpc.report import latex_table, markdown_table, mean_and_deviation, percent, tables, tidy_csv


def test_columns_are_as_wide_as_their_widest_cell():
    assert markdown_table([["a", "b"], ["long", "1"], ["x", "22.5"]]).splitlines() == [
        "| a    |    b |",
        "| ---- | ---: |",
        "| long |    1 |",
        "| x    | 22.5 |",
    ]


def test_a_latex_table_escapes_what_latex_reads_as_commands():
    assert latex_table([["a & b", "in %"], ["x_1^2 ~", "1.0 ± 0.2"], ["none", "–"]]).splitlines() == [
        r"\begin{tabular}{lr}",
        r"\hline",
        r"a \& b & in \% \\",
        r"\hline",
        r"x\_1\textasciicircum{}2 \textasciitilde{} & 1.0 $\pm$ 0.2 \\",
        r"none & -- \\",
        r"\hline",
        r"\end{tabular}",
    ]


def test_a_tidy_table_has_one_number_a_row():
    """Intervals become two numbers; texts, switches and nested results are left out."""
    fields = {"accuracy": 0.5, "interval": (0.25, 0.75), "n": 3, "classifier": "linear", "converged": True, "by": {}}
    assert tidy_csv(("task", "row"), {("phone", "a, b"): fields}).splitlines() == [
        "task,row,measure,value",
        'phone,"a, b",accuracy,0.5',
        'phone,"a, b",interval_low,0.25',
        'phone,"a, b",interval_high,0.75',
        'phone,"a, b",n,3',
    ]


def test_rows_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        markdown_table([["a", "b"], ["1"]])


def test_the_examples_in_the_docstrings_hold():
    result = doctest.testmod(tables)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    ("value", "interval", "text"),
    [
        (0.0, None, "0.0"),
        (1.0, (1.0, 1.0), "100.0 (100.0 to 100.0)"),
        (0.12345, [0.1, 0.2], "12.3 (10.0 to 20.0)"),
        (0.5, (), "50.0"),
        (None, (0.1, 0.2), "–"),
    ],
)
def test_a_share_is_shown_in_percent_with_its_interval(value, interval, text):
    assert percent(value, interval) == text


def test_the_deviation_is_that_of_a_sample():
    values = [0.11, 0.25, 0.31]
    mean, deviation = mean_and_deviation(values, decimals=4).split(" ± ")
    assert float(mean) == pytest.approx(np.mean(values), abs=1e-4)
    assert float(deviation) == pytest.approx(np.std(values, ddof=1), abs=1e-4)
    assert mean_and_deviation([0.25], decimals=2) == "0.25"
    assert mean_and_deviation([]) == "–"
