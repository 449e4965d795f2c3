"""Networks: waveform to latents, contexts and predictions."""

from cpc.model.autoregressor import Autoregressor, State
from cpc.model.cpc import CPC
from cpc.model.encoder import PAPER_STRIDES, BlockConv, Encoder, Geometry, recomputing
from cpc.model.predictor import Predictor

__all__ = [
    "CPC",
    "PAPER_STRIDES",
    "Autoregressor",
    "BlockConv",
    "Encoder",
    "Geometry",
    "Predictor",
    "State",
    "recomputing",
]
