"""Contrastive predictive coding on audio: train, extract features, probe what was learned.

import cpc
model = cpc.load("runs/minispeech")
z, c = model("speech.wav")  # (T, D_z), (T, D_c)
z, c = model(waveforms)  # (B, S) at model.sample_rate → (B, T, D_z), (B, T, D_c)
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cpc.doors import lazily

if TYPE_CHECKING:
    from cpc.hub import CPC

    __version__: str

__all__ = ["CPC", "__version__", "load"]


def load(run: str | Path, which: Literal["best", "last"] = "best", device: str = "cpu") -> "CPC":
    """Load the trained model of a run folder (or of a checkpoint file), ready to represent audio.

    Args:
        run: folder that `cpc train` wrote, or a checkpoint in it.
        which: "best" (lowest dev loss) or "last".
        device: "cpu", "cuda", "cuda:1", …, or "auto".

    Returns:
        The model in evaluation mode. It takes waveforms (S,) or (B, S), as tensors or arrays, and paths of sound files,
        which it decodes and resamples: `CPC.forward`. Its `save_pretrained` makes a folder for the Hugging Face hub.

    Raises:
        CheckpointError: missing, damaged, or of another architecture.
        ValueError: this machine has no such device.
    """
    from cpc.hub import load as load_model

    return load_model(run, which, device)


_import_on_first_use = lazily(__name__, {"CPC": "hub"})


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # which takes longer to import than all else here

        return version("cpc-audio")
    return _import_on_first_use(name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
