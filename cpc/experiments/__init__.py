"""Experiments."""

from typing import TYPE_CHECKING

from cpc.doors import lazily
from cpc.experiments.stages import Stage, StageError, Stages, Standing, digest_of, plan

if TYPE_CHECKING:
    from cpc.experiments.ablate import Ablation, Row, folder_of, override, probe, read_ablation, render, run_ablation
    from cpc.experiments.estimate import Speed, measure_speed

__all__ = [
    "Ablation",
    "Row",
    "Speed",
    "Stage",
    "StageError",
    "Stages",
    "Standing",
    "digest_of",
    "folder_of",
    "measure_speed",
    "override",
    "plan",
    "probe",
    "read_ablation",
    "render",
    "run_ablation",
]

__getattr__ = lazily(
    __name__,
    {
        "Ablation": "ablate",
        "Row": "ablate",
        "folder_of": "ablate",
        "override": "ablate",
        "probe": "ablate",
        "read_ablation": "ablate",
        "render": "ablate",
        "run_ablation": "ablate",
        "Speed": "estimate",
        "measure_speed": "estimate",
    },
)
