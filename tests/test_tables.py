from cpc.report import markdown_table


def test_columns_are_as_wide_as_their_widest_cell():
    assert markdown_table([["a", "b"], ["long", "1"], ["x", "22.5"]]).splitlines() == [
        "| a    |    b |",
        "| ---- | ---: |",
        "| long |    1 |",
        "| x    | 22.5 |",
    ]
