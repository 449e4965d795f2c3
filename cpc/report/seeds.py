"""One table of several experiments that differ in nothing but the seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cpc.config import config_to_dict, read_config
from cpc.files import difference
from cpc.report.figures import ReportError
from cpc.report.tables import results_table


def seeds_table(runs: Sequence[Path]) -> str:
    """Format the results of finished experiments: the mean over the seeds, with its deviation.

    Args:
        runs: run folders, each with config.toml and results.json.

    Returns:
        As `results_table`, with the seeds below; the deviation is over everything that depends on the seed, which for
        the recipes is the corpus or its split, the training, and the probes.

    Raises:
        ReportError: a folder has no results, two have the same seed, or they differ in anything but the seed and the
            path of the manifest.
    """
    found: dict[int, dict[str, Any]] = {}
    first: dict[str, Any] = {}
    for run in runs:
        try:
            results = json.loads((run / "results.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise ReportError(f"{run}: no results.json that can be read; a recipe's run.py writes it") from None
        config = config_to_dict(read_config(run / "config.toml"))
        seed = config.pop("seed")
        del config["data"]["manifest"]
        settings = {**config, "evaluate": results.get("evaluate")}
        first = first or settings
        if changed := difference(first, settings):
            raise ReportError(f"{run}: another experiment than {runs[0]}: {changed}; a table is of seeds alone")
        if seed in found:
            raise ReportError(f"{run}: seed {seed} has occurred already; each run needs its own")
        found[seed] = results
    table = results_table(*found.values())
    if len(found) == 1:
        return table
    return f"{table}\n\nMean ± standard deviation over seeds {', '.join(map(str, found))}."
