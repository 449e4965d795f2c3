"""Contrastive predictive coding on audio: train, extract features, probe what was learned.

import cpc
model = cpc.load("runs/minispeech")
z, c = model(waveforms)  # (B, S) float32 at model.sample_rate → (B, T, D_z), (B, T, D_c)
"""

from typing import TYPE_CHECKING

from cpc.doors import lazily

if TYPE_CHECKING:
    from cpc.model import CPC
    from cpc.runs import load

__all__ = ["CPC", "load"]

__getattr__ = lazily(__name__, {"CPC": "model", "load": "runs"})
