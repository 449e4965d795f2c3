"""Experiments: the pipeline that every recipe shares, stages that run once, and tables of settings."""

from typing import TYPE_CHECKING

from cpc.doors import lazily
from cpc.experiments.settings import Ablation, Row, override, read_ablation
from cpc.experiments.stages import Stage, StageError, Stages, errors_in_one_line, plan

if TYPE_CHECKING:
    from cpc.experiments.ablate import run_ablation
    from cpc.experiments.estimate import Speed, measure_speed
    from cpc.experiments.evaluate import (
        Probe,
        RowError,
        Task,
        evaluate_once,
        extract_row,
        run_probes,
        table_rows,
        train_run,
    )
    from cpc.experiments.pipeline import Pipeline

__all__ = [
    "Ablation",
    "Pipeline",
    "Probe",
    "Row",
    "RowError",
    "Speed",
    "Stage",
    "StageError",
    "Stages",
    "Task",
    "errors_in_one_line",
    "evaluate_once",
    "extract_row",
    "measure_speed",
    "override",
    "plan",
    "read_ablation",
    "run_ablation",
    "run_probes",
    "table_rows",
    "train_run",
]

__getattr__ = lazily(  # these load torch
    __name__,
    {
        "run_ablation": "ablate",
        "Speed": "estimate",
        "measure_speed": "estimate",
        "Pipeline": "pipeline",
        "Probe": "evaluate",
        "RowError": "evaluate",
        "Task": "evaluate",
        "evaluate_once": "evaluate",
        "extract_row": "evaluate",
        "run_probes": "evaluate",
        "table_rows": "evaluate",
        "train_run": "evaluate",
    },
)
