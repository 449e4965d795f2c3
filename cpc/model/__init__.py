"""Networks: waveform to latents, contexts and predictions."""

from cpc.model.autoregressor import Autoregressor, Bidirectional, State, reverse
from cpc.model.cpc import CPC
from cpc.model.encoder import Encoder, Geometry, recomputing
from cpc.model.inputs import normalised
from cpc.model.logmel import FLOOR, NUM_MELS, LogMel, LogMelEncoder
from cpc.model.predictor import Predictor
from cpc.model.streaming import Stream

__all__ = [
    "CPC",
    "FLOOR",
    "NUM_MELS",
    "Autoregressor",
    "Bidirectional",
    "Encoder",
    "Geometry",
    "LogMel",
    "LogMelEncoder",
    "Predictor",
    "State",
    "Stream",
    "normalised",
    "recomputing",
    "reverse",
]
