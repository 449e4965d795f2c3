"""Contrastive predictive coding on audio: train, extract features, probe what was learned.

    import cpc
    model = cpc.load("runs/minispeech")
    z, c = model(waveforms)  # (B, S) float32 at model.sample_rate → (B, T, D_z), (B, T, D_c)

The stages are modules: `from cpc.train import train`, `from cpc.infonce import infonce`, and so on.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpc.checkpoint import load
    from cpc.model import CPC

__all__ = ["CPC", "load"]

_HOMES = {"CPC": "cpc.model", "load": "cpc.checkpoint"}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `cpc --help` does not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cpc' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
