"""A run of cpc as an upstream of s3prl: z and c of a list of waveforms.

s3prl is not imported: what it expects of an upstream is a module with this constructor, `get_downsample_rates` and
`forward`. README.md says how to register it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

import cpc

SAMPLE_RATE = 16000  # Hz, of all waveforms in s3prl
Layers = Literal["both", "z", "c"]


class UpstreamExpert(nn.Module):
    """z and c of a trained network.

    Args:
        ckpt: run folder, or one of its checkpoints.
        model_config: ignored: a checkpoint holds its configuration.
        layers: the hidden states. s3prl's featurizer takes several only if they have the same width.
        options: ignored; s3prl passes `refresh`.

    Raises:
        CheckpointError: the run cannot be read.
        ValueError: the run has another sample rate than s3prl, or there are no such layers.
    """

    def __init__(
        self, ckpt: str | Path, model_config: str | None = None, *, layers: Layers = "both", **options: Any
    ) -> None:
        super().__init__()
        if layers not in get_args(Layers):
            raise ValueError(f"layers: got {layers!r}, expected one of {', '.join(get_args(Layers))}")
        self.layers, self.model = layers, cpc.load(ckpt)
        if self.model.sample_rate != SAMPLE_RATE:
            raise ValueError(f"{ckpt}: a run at {self.model.sample_rate} Hz, expected {SAMPLE_RATE} Hz as s3prl has it")
        self.model.requires_grad_(True)  # s3prl decides whether it is trained

    def get_downsample_rates(self, key: str) -> int:
        """Return the samples from one frame to the next, the same for z and c."""
        return self.model.g_enc.geometry.hop_samples

    def forward(self, wavs: list[Tensor]) -> dict[str, Tensor | list[Tensor]]:
        """Represent utterances of any lengths.

        Args:
            wavs: waveforms (S,) at 16 kHz, without padding.

        Returns:
            "hidden_states": [z, c], or one of them, as `layers` says; "z" and "c": each alone, z (B, T, D_z) and c
            (B, T, D_c). Each row begins with the frames that `cpc features` writes; the last one is repeated up to the
            ⌈S / hop⌉ frames that s3prl expects, and on to the longest row.
        """
        hop = self.model.g_enc.geometry.hop_samples
        # g_enc takes one utterance at a time, because what pads a batch would enter the last frames of a padded run.
        zs = [self.model.g_enc(self.model.prepare(wav))[0] for wav in wavs]  # (T, D_z) each
        z, lengths = pad_sequence(zs, batch_first=True), [len(z) for z in zs]
        c = self.model.g_ar(z, lengths)
        t = torch.arange(-(-max(map(len, wavs)) // hop), device=z.device)
        places = torch.minimum(t, torch.tensor(lengths, device=z.device)[:, None] - 1)[..., None]  # (B, T, 1)
        z, c = (x.gather(1, places.expand(-1, -1, x.shape[2])) for x in (z, c))
        found: dict[str, Tensor | list[Tensor]] = {"z": [z], "c": [c], "last_hidden_state": c}
        return found | {"hidden_states": [z, c] if self.layers == "both" else found[self.layers]}
