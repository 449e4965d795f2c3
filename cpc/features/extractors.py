"""Extractors turn waveforms into frames: the protocol, and the one that runs a CPC network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cpc.config import Config, config_digest
from cpc.data import Waveform
from cpc.devices import autocast, keep_freed_buffers
from cpc.features.store import Layer
from cpc.model import CPC, Bidirectional
from cpc.runs import Which, build_model, locate_checkpoint, read_checkpoint, read_model
from cpc.train import Network

Pieces = Iterator[NDArray[np.float32]]

_ENCODER_SECONDS = 60  # of sound in one call of g_enc: its activations take far more memory than its output


class Extractor(Protocol):
    """Turns waveforms into frames."""

    source: str
    layer: Layer | None
    dim: int
    sample_rate: int
    hop_samples: int
    first_centre_samples: float
    normalise: bool
    made_by: Mapping[str, str]

    def num_frames(self, num_samples: int) -> int:
        """Count the frames of a file of `num_samples`."""

    def frames(self, blocks: Iterable[Waveform]) -> Pieces:
        """Extract one file, given in successive blocks of samples (S,), as successive pieces (t, D)."""

    def frames_of(self, waveforms: Sequence[Waveform]) -> list[NDArray[np.float32]]:
        """Extract short files, given whole, as one array (T, D) each."""

    def identity(self) -> str:
        """Name what the frames depend on: the name changes whenever the frames would."""


class CPCExtractor:
    """Extracts z or c with a CPC network, trained or untrained.

    Args:
        model: the network.
        layer: "z" or "c".
        source: what to call the frames' origin.
        device: where the network runs.
        precision: "bf16" runs it under autocast.
    """

    def __init__(
        self,
        model: CPC,
        layer: Layer,
        *,
        source: str = "cpc",
        device: torch.device | str = "cpu",
        precision: Literal["float32", "bf16"] = "float32",
    ) -> None:
        geometry = model.g_enc.geometry
        self.model, self.source = model.to(device).eval(), source
        self.layer: Layer | None = layer
        self.device, self.precision = torch.device(device), precision
        if self.device.type == "cpu":
            keep_freed_buffers()
        self.dim = model.g_enc.channels if layer == "z" else model.g_ar.hidden_dim
        self.sample_rate, self.hop_samples = model.sample_rate, geometry.hop_samples
        self.first_centre_samples = geometry.first_centre_samples
        self.normalise = model.normalise
        self.made_by: Mapping[str, str] = {}

    def num_frames(self, num_samples: int) -> int:
        """Count the frames of a file of `num_samples`."""
        return self.model.g_enc.geometry.num_frames(num_samples)

    def frames(self, blocks: Iterable[Waveform]) -> Pieces:
        """Stream one file through the network from a zero state."""
        if self.layer == "c" and isinstance(self.model.g_ar, Bidirectional):
            yield self._from_both_ends(blocks)
            return
        state: Any = None
        with torch.inference_mode(), autocast(self.device, self.precision):
            for block, last in mark_last(blocks):
                x = torch.from_numpy(np.ascontiguousarray(block))[None].to(self.device)  # (1, S)
                if self.layer == "z":
                    frames, state = self.model.g_enc.stream(x, state, last=last)
                else:
                    _, frames, state = self.model.represent_block(x, state, last)
                yield frames[0].float().cpu().numpy()

    def _from_both_ends(self, blocks: Iterable[Waveform]) -> NDArray[np.float32]:
        """Extract c of one file; its z is held in memory, 184 MB an hour with 128 channels."""
        state, pieces = None, []
        with torch.inference_mode(), autocast(self.device, self.precision):
            for block, last in mark_last(blocks):
                x = torch.from_numpy(np.ascontiguousarray(block))[None].to(self.device)  # (1, S)
                z, state = self.model.g_enc.stream(x, state, last=last)
                pieces.append(z)
            c: NDArray[np.float32] = self.model.g_ar(torch.cat(pieces, dim=1))[0].float().cpu().numpy()
        return c

    def frames_of(self, waveforms: Sequence[Waveform]) -> list[NDArray[np.float32]]:
        """Extract short files side by side, padded at the end.

        The padding of a file comes after all its frames, in both directions of g_ar.
        """
        if len(waveforms) > 1 and self.model.g_enc.geometry.pads_right:
            # Each layer pads the end of a file with zeros, but in a batch that place holds the padding's activations.
            return [self.frames_of([waveform])[0] for waveform in waveforms]
        x = torch.zeros(len(waveforms), max(map(len, waveforms)))  # (B, S)
        for row, waveform in zip(x, waveforms, strict=True):
            row[: len(waveform)] = torch.from_numpy(np.ascontiguousarray(waveform))
        at_once = max(1, _ENCODER_SECONDS * self.sample_rate // x.shape[1])
        with torch.inference_mode(), autocast(self.device, self.precision):
            z = torch.cat([self.model.g_enc(rows.to(self.device)) for rows in torch.split(x, at_once)])  # (B, T, D_z)
            lengths = [self.num_frames(len(waveform)) for waveform in waveforms]
            frames = (z if self.layer == "z" else self.model.g_ar(z, lengths)).float().cpu().numpy()  # (B, T, D)
        return [row[:length] for row, length in zip(frames, lengths, strict=True)]

    def identity(self) -> str:
        """Digest the weights and the precision."""
        return _digest(self.model, "" if self.precision == "float32" else self.precision)


class ModelExtractor:
    """Extracts z or c with a model that is no CPC: each file is held in memory, and represented as a whole.

    Args:
        model: the network, with its weights.
        layer: "z" or "c".
        config: of its run, for the sample rate and the normalisation.
        device: where the network runs.
    """

    def __init__(self, model: Network, layer: Layer, config: Config, *, device: torch.device | str = "cpu") -> None:
        assert isinstance(model, nn.Module)
        self.source, self.layer, self.device = "own", layer, torch.device(device)
        self.model, self.geometry = model.to(device).eval(), model.geometry
        self.made_by: Mapping[str, str] = {}
        self.sample_rate, self.normalise = config.audio.sample_rate, config.audio.normalise == "utterance"
        self.hop_samples = self.geometry.hop_samples
        self.first_centre_samples = self.geometry.first_centre_samples
        self.dim = self._represent(np.zeros(self.geometry.min_samples(1), np.float32)).shape[1]

    def num_frames(self, num_samples: int) -> int:
        """Count the frames of a file of `num_samples`."""
        return self.geometry.num_frames(num_samples)

    def frames(self, blocks: Iterable[Waveform]) -> Pieces:
        """Represent one file."""
        yield self._represent(np.concatenate(list(blocks)))

    def frames_of(self, waveforms: Sequence[Waveform]) -> list[NDArray[np.float32]]:
        """Represent several files, one after the other: what their padding would change is not known."""
        return [self._represent(waveform) for waveform in waveforms]

    def _represent(self, waveform: Waveform) -> NDArray[np.float32]:
        x = torch.from_numpy(np.ascontiguousarray(waveform))[None].to(self.device)  # (1, S)
        with torch.inference_mode():
            z, c = self.model(x)
        frames: NDArray[np.float32] = (z if self.layer == "z" else c)[0].float().cpu().numpy()
        return frames

    def identity(self) -> str:
        """Digest the weights."""
        return _digest(self.model)


def extractor_of_run(
    run: str | Path,
    layer: Layer,
    *,
    which: Which = "best",
    untrained: bool = False,
    device: torch.device | str = "cpu",
    precision: Literal["float32", "bf16"] = "float32",
) -> CPCExtractor:
    """Make the extractor of a run.

    Args:
        run: run folder, or one of its checkpoints.
        layer: "z" or "c".
        which: the checkpoint: "best" or "last".
        untrained: use the random weights that the run started from instead of the trained ones.
        device: where the network runs.
        precision: "bf16" runs it under autocast.
    """
    path = locate_checkpoint(run, which)
    if untrained:
        config, _ = read_checkpoint(path)
        extractor = untrained_extractor(config, layer, device=device, precision=precision)
    else:
        model, config, _ = read_model(path)
        extractor = CPCExtractor(model, layer, device=device, precision=precision)
    extractor.made_by = {"run": str(run), "run_identity": config_digest(config)}
    return extractor


def untrained_extractor(
    config: Config,
    layer: Layer,
    *,
    device: torch.device | str = "cpu",
    precision: Literal["float32", "bf16"] = "float32",
) -> CPCExtractor:
    """Make the extractor of the random weights that a run with this configuration starts from."""
    torch.manual_seed(config.seed)
    extractor = CPCExtractor(build_model(config), layer, source="untrained", device=device, precision=precision)
    extractor.made_by = {"run_identity": config_digest(config)}
    return extractor


def _digest(model: nn.Module, text: str = "") -> str:
    """Digest a text and the weights of a model."""
    digest = hashlib.blake2b(text.encode(), digest_size=8)
    for name, weight in model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def mark_last(blocks: Iterable[Waveform]) -> Iterator[tuple[Waveform, bool]]:
    """Pair each block with whether it is the last."""
    iterator = iter(blocks)
    block = next(iterator)
    for following in iterator:
        yield block, False
        block = following
    yield block, True
