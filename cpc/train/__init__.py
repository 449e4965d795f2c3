"""Training."""

from cpc.train.distributed import Ranks, joined, num_processes, own_device
from cpc.train.loop import TrainingError, complete, train
from cpc.train.metrics import RunningMean
from cpc.train.objectives import Result, Views, build_objective
from cpc.train.optim import Muon, build_optimisers, learning_rate, orthogonalise, stacked_maps
from cpc.train.timing import NUM_UPDATES, Profile

__all__ = [
    "NUM_UPDATES",
    "Muon",
    "Profile",
    "Ranks",
    "Result",
    "RunningMean",
    "TrainingError",
    "Views",
    "build_objective",
    "build_optimisers",
    "complete",
    "joined",
    "learning_rate",
    "num_processes",
    "orthogonalise",
    "own_device",
    "stacked_maps",
    "train",
]
