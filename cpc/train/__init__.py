"""Training: `setup` builds every part from the configuration, `loop` uses them, `state` is what a checkpoint holds."""

from cpc.train.callback import Callback
from cpc.train.manifests import manifest_of_run
from cpc.train.metrics import PATIENCE_UPDATES, STUCK_NATS
from cpc.train.networks import Network
from cpc.train.optim import Muon, build_optimisers, declared_maps, learning_rate, orthogonalise
from cpc.train.run import complete, resume, train
from cpc.train.setup import Data, build_data
from cpc.train.tensorboard import TensorBoard
from cpc.train.trouble import TrainingError

__all__ = [
    "PATIENCE_UPDATES",
    "STUCK_NATS",
    "Callback",
    "Data",
    "Muon",
    "Network",
    "TensorBoard",
    "TrainingError",
    "build_data",
    "build_optimisers",
    "complete",
    "declared_maps",
    "learning_rate",
    "manifest_of_run",
    "orthogonalise",
    "resume",
    "train",
]
