"""Training: `setup` builds every part from the configuration, `loop` uses them, `state` is what a checkpoint holds."""

from cpc.train.optim import Muon, build_optimisers, declared_maps, learning_rate, orthogonalise
from cpc.train.run import complete, resume, train
from cpc.train.state import TrainingError

__all__ = [
    "Muon",
    "TrainingError",
    "build_optimisers",
    "complete",
    "declared_maps",
    "learning_rate",
    "orthogonalise",
    "resume",
    "train",
]
