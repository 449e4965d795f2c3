"""Experiments: the pipeline that every recipe shares, stages that run once, and tables of settings."""

from typing import TYPE_CHECKING

from cpc.doors import lazily
from cpc.experiments.settings import Ablation, Row, override, read_ablation
from cpc.experiments.stages import Stage, StageError, Stages, at_least, errors_in_one_line, plan

if TYPE_CHECKING:
    from cpc.experiments.ablate import run_ablation
    from cpc.experiments.design import Design, propose
    from cpc.experiments.doctor import DoctorError, examine_run
    from cpc.experiments.estimate import Speed, measure_speed
    from cpc.experiments.evaluate import (
        RowError,
        evaluate_once,
        extract_row,
        extractor_of_row,
        temporary_features,
        train_run,
    )
    from cpc.experiments.parallel import ParallelError
    from cpc.experiments.pipeline import Pipeline
    from cpc.experiments.probing import Probe, Task, run_probes, table_rows

__all__ = [
    "Ablation",
    "Design",
    "DoctorError",
    "ParallelError",
    "Pipeline",
    "Probe",
    "Row",
    "RowError",
    "Speed",
    "Stage",
    "StageError",
    "Stages",
    "Task",
    "at_least",
    "errors_in_one_line",
    "evaluate_once",
    "examine_run",
    "extract_row",
    "extractor_of_row",
    "measure_speed",
    "override",
    "plan",
    "propose",
    "read_ablation",
    "run_ablation",
    "run_probes",
    "table_rows",
    "temporary_features",
    "train_run",
]

__getattr__ = lazily(  # these load torch
    __name__,
    {
        "run_ablation": "ablate",
        "Design": "design",
        "propose": "design",
        "DoctorError": "doctor",
        "examine_run": "doctor",
        "Speed": "estimate",
        "measure_speed": "estimate",
        "ParallelError": "parallel",
        "Pipeline": "pipeline",
        "Probe": "probing",
        "RowError": "evaluate",
        "Task": "probing",
        "evaluate_once": "evaluate",
        "extract_row": "evaluate",
        "extractor_of_row": "evaluate",
        "run_probes": "probing",
        "table_rows": "probing",
        "temporary_features": "evaluate",
        "train_run": "evaluate",
    },
)
