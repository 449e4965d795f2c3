"""Networks: waveform to latents, contexts and predictions."""

from cpc.model.autoregressor import Autoregressor, Bidirectional, State, reverse
from cpc.model.cpc import CPC
from cpc.model.encoder import Encoder, Geometry, recomputing
from cpc.model.inputs import normalised
from cpc.model.logmel import FLOOR, LogMelEncoder
from cpc.model.predictor import Predictor

__all__ = [
    "CPC",
    "FLOOR",
    "Autoregressor",
    "Bidirectional",
    "Encoder",
    "Geometry",
    "LogMelEncoder",
    "Predictor",
    "State",
    "normalised",
    "recomputing",
    "reverse",
]
