"""The network of a run: CPC's own parts, or a model of the user's; and z and c of its batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cpc.config import Config, ConfigError
from cpc.data import Batch
from cpc.model import CPC, Geometry, recomputing
from cpc.runs import build_model
from cpc.train.regularise import drop
from cpc.train.timing import Profile

_COMPILED_UPDATES = 2000  # from here on torch.compile pays back its warm-up

Encode = Callable[[Tensor], Tensor]
# Maps a batch, its waveforms (B, S) on the device, each window's valid frames, and a seed to z and c.
Represent = Callable[[Batch, Tensor, list[int], int], tuple[Tensor, Tensor]]


class Network(Protocol):
    """What training calls of a model that is no CPC: a torch.nn.Module with two calls and an attribute.

    For windows x (B, S), z, c = model(x) are z (B, T, D_z) and c (B, T, D_c); c_t must not depend on what is predicted
    from it, so no context may see samples after the field of its frame.

    Attributes:
        geometry: where its frames lie: strides, kernels and paddings of its layers.
    """

    geometry: Geometry

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Represent windows (B, S), normalised as the run's audio.normalise says."""

    def predict(self, c: Tensor) -> Tensor:
        """Map c (B, T, D_c) to predictions (K, B, T, D_z), of z_{t+k} for each of the run's K steps."""


def geometry_of(network: nn.Module) -> Geometry:
    """Return the places of a network's frames."""
    geometry = network.g_enc.geometry if isinstance(network, CPC) else network.geometry
    assert isinstance(geometry, Geometry)
    return geometry


def refuse_unusable(model: Any, config: Config) -> None:
    """Refuse a model of the user's that cannot be trained in this run; a window of zeros is tried.

    Raises:
        ConfigError: saying what it lacks, or which setting is not for such a model.
    """
    name = f"model: {type(model).__name__}"
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{name} is no torch.nn.Module")
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError(f"{name} has no weight that requires a gradient; call model.requires_grad_(True) first")
    if isinstance(model, CPC):
        if model.sample_rate != config.audio.sample_rate:
            raise ConfigError(
                f"{name} is of {model.sample_rate} Hz, but audio.sample_rate is {config.audio.sample_rate}"
            )
        _refuse_other_constants(model, config, name)
        _try(model, model.represent, config, name)
        return
    if not isinstance(getattr(model, "geometry", None), Geometry) or not callable(getattr(model, "predict", None)):
        raise ConfigError(
            f"{name}: expected z, c = model(x), predictions = model.predict(c), and model.geometry, a "
            "cpc.model.Geometry"
        )
    settings = {
        "loss.name": config.loss.name != "cpc",
        "regularise.dropout_z": config.regularise.dropout_z > 0,
        "recompute": config.recompute > 0,
    }
    if wrong := [setting for setting, is_set in settings.items() if is_set]:
        raise ConfigError(f"{wrong[0]}: needs g_enc and g_ar apart; for a model that is no cpc.CPC, leave the default")
    _try(model, model, config, name)


def _refuse_other_constants(model: CPC, config: Config, name: str) -> None:
    """Refuse a CPC that the configuration would rebuild with the same weights, but with another padding or tau."""
    with torch.device("meta"):
        rebuilt = build_model(config)
    shapes = [{key: value.shape for key, value in of.state_dict().items()} for of in (model, rebuilt)]
    if shapes[0] != shapes[1]:
        return
    for setting, given, wanted in (
        ("encoder", model.g_enc.geometry, rebuilt.g_enc.geometry),
        ("criterion.tau", model.tau, rebuilt.tau),
    ):
        if given != wanted:
            raise ConfigError(f"{name} has {given}, but {setting} gives {wanted}, with which the run would be loaded")


def _try(model: Any, represent: Callable[[Tensor], Any], config: Config, name: str) -> None:
    """Check the shapes that a model returns for windows of zeros."""
    num_samples, was_training = config.data.window_samples, model.training
    num_frames = geometry_of(model).num_frames(num_samples)
    model.eval()
    with torch.no_grad():
        returned = represent(torch.zeros(2, num_samples, device=next(model.parameters()).device))
        if not (isinstance(returned, tuple) and len(returned) == 2):
            raise ConfigError(f"{name} returns a {type(returned).__name__}, expected z, c = model(x)")
        z, c = returned
        shapes = [tuple(x.shape) for x in (z, c, model.predict(c))]
    model.train(was_training)
    expected = [
        (2, num_frames, z.shape[-1]),
        (2, num_frames, c.shape[-1]),
        (len(config.criterion.steps), 2, num_frames, z.shape[-1]),
    ]
    for what, got, wanted in zip(("z", "c", "predictions"), shapes, expected, strict=True):
        if got != wanted:
            raise ConfigError(
                f"{name}: for windows (2, {num_samples}), {what} have shape {got}, expected {wanted} by its geometry "
                "and the steps that criterion predicts"
            )


def build_represent(
    config: Config, network: nn.Module, profile: Profile, device: torch.device, first: int
) -> Represent:
    """Return what computes z and c in the updates after `first`."""
    if not isinstance(network, CPC):
        return _of_own_model(torch.compile(network, dynamic=False) if config.compile == "on" else network)
    encode = build_encode(config, network, device, first)

    def represent(batch: Batch, waveforms: Tensor, num_frames: list[int], seed: int) -> tuple[Tensor, Tensor]:
        z = encode(waveforms)  # (B, T, D_z)
        profile.mark("encoder")
        past = z if batch.past is None else encode(batch.past.to(device, non_blocking=True))
        if network.training:
            past = drop(past, config.regularise.dropout_z, seed)
        c = network.g_ar(past, num_frames)  # (B, T, D_c)
        profile.mark("autoregressor")
        return z, c

    return represent


def _of_own_model(model: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Represent:
    """Return what computes z and c with a model that is no CPC."""

    def represent(batch: Batch, waveforms: Tensor, num_frames: list[int], seed: int) -> tuple[Tensor, Tensor]:
        z, c = model(waveforms)
        if batch.past is not None:  # c is computed from augmented copies
            _, c = model(batch.past.to(waveforms.device, non_blocking=True))
        return z, c

    return represent


def build_encode(config: Config, network: CPC, device: torch.device, first: int) -> Encode:
    """Return g_enc for the updates after `first`: compiled, or recomputing its activations, if the run says so."""
    pays = device.type == "cuda" and config.train.num_updates - first >= _COMPILED_UPDATES
    compiles = config.compile == "on" or (config.compile == "auto" and pays)
    encode: Encode = torch.compile(network.g_enc, dynamic=False) if compiles else network.g_enc
    return recomputing(encode, config.recompute) if config.recompute else encode
