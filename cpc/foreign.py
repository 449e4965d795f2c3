"""Checkpoints of other projects as run folders of ours.

facebookresearch/CPC_audio (Rivière et al. 2020, arXiv 2002.02848) saves {"gEncoder": weights, "cpcCriterion": …} beside
a checkpoint_args.json, and publishes {"weights": …, "config": …}. Its network differs from ours in two numbers:
- its channel normalisation divides by the unbiased deviation, ours by the biased one, so gains are multiplied by
  sqrt((D − 1) / D);
- its scores are means over D_z and ours are sums over tau, so tau = D_z.
It does not normalise waveforms.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpc.config import (
    AudioConfig,
    AutoregressorConfig,
    Config,
    CriterionConfig,
    EncoderConfig,
    write_config,
)
from cpc.files import claim
from cpc.runs import BEST, CheckpointError, build_model, save_weights

if TYPE_CHECKING:
    from torch import Tensor

_RECORD = "imported.json"
_NUM_LAYERS = 5
_NORMS = {"layerNorm": "channel", "ID": "none", "batchNorm": "batch"}
_KINDS = {"LSTM": "lstm", "GRU": "gru"}


def import_cpc_audio(checkpoint: str | Path, out: str | Path) -> str:
    """Write a run folder with the weights of a checkpoint of CPC_audio, from which features can be extracted.

    Args:
        checkpoint: its file; settings are read from it, or from checkpoint_args.json beside it.
        out: run folder to make.

    Returns:
        What was carried over, and what could not be.

    Raises:
        CheckpointError: no checkpoint of CPC_audio, or a network that has no counterpart here.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    weights, criterion, settings = _read(checkpoint)
    config, notes = _configure(weights, criterion, settings, checkpoint)
    network = build_model(config)
    ours = network.state_dict()
    try:
        converted = _convert(weights, criterion, config)
        for name, weight in converted.items():
            if ours[name].shape != weight.shape:
                raise KeyError(f"{name}: {tuple(weight.shape)} instead of {tuple(ours[name].shape)}")
        network.load_state_dict({**ours, **converted})
    except KeyError as error:
        raise CheckpointError(f"{checkpoint}: not the weights that its settings describe: {error}") from None
    claimed = claim(out, {"from": "CPC_audio"}, record=_RECORD, what="an imported model")
    write_config(config, out / "config.toml")
    save_weights(out / BEST, config, network, update=0, seconds=0.0)
    claimed.finish()
    encoder, g_ar = config.encoder, config.autoregressor
    carried = f"g_enc of {encoder.channels} channels, {g_ar.kind} of {g_ar.hidden} units in {g_ar.layers} layers"
    return "\n".join([f"imported: {carried}", *notes])


def _read(checkpoint: Path) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor], dict[str, Any]]:
    """Read the network's weights, those of its criterion (possibly none), and its settings."""
    import torch

    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{checkpoint}: no such checkpoint") from None
    except Exception as error:  # the reader of torch raises whatever damaged bytes lead to
        reason = " ".join(f"{type(error).__name__} {error}".split())[:120]
        raise CheckpointError(f"{checkpoint}: not a checkpoint of tensors ({reason})") from None
    if not isinstance(saved, dict) or not {"gEncoder", "weights"} & set(saved):
        raise CheckpointError(f"{checkpoint}: not a checkpoint of CPC_audio, which has gEncoder, or weights and config")
    if "weights" in saved:
        return saved["weights"], {}, dict(saved.get("config", {}))
    beside = checkpoint.parent / "checkpoint_args.json"
    try:
        settings = json.loads(beside.read_text(encoding="utf-8"))
    except FileNotFoundError:
        settings = {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{beside}: not the settings of CPC_audio ({error})") from None
    return saved["gEncoder"], saved.get("cpcCriterion", {}), settings


def _configure(
    weights: Mapping[str, Tensor], criterion: Mapping[str, Tensor], settings: Mapping[str, Any], where: Path
) -> tuple[Config, list[str]]:
    """Translate the settings; sizes are those of the weights."""
    names = set(weights)
    if "gEncoder.conv0.weight" not in names or "gAR.baseNet.weight_hh_l0" not in names:
        raise CheckpointError(
            f"{where}: its network has no counterpart here; convolutions (encoder_type cpc) and an LSTM or a GRU have"
        )
    channels, norm = len(weights["gEncoder.conv0.weight"]), settings.get("normMode", "layerNorm")
    if norm not in _NORMS:
        raise CheckpointError(f"{where}: normMode {norm} has no counterpart here; {', '.join(_NORMS)} have")
    hidden = weights["gAR.baseNet.weight_hh_l0"].shape[1]
    gates = len(weights["gAR.baseNet.weight_hh_l0"]) // hidden
    kind = {4: "LSTM", 3: "GRU"}.get(gates, "RNN")
    if kind not in _KINDS:
        raise CheckpointError(f"{where}: arMode {kind} has no counterpart here; {', '.join(_KINDS)} have")
    layers = 1 + max(
        int(match[1]) for name in names if (match := re.fullmatch(r"gAR\.baseNet\.weight_hh_l(\d+)", name))
    )
    linear = _linear_predictors(criterion)
    notes = []
    if not linear:
        what = "its predictors are no linear maps" if criterion else "it has no predictors"
        notes.append(f"not imported: W_k ({what}); they are random, so do not score predictions with this model")
    if settings.get("cpc_mode") == "reverse":
        notes.append("its g_ar was trained on reversed time (cpc_mode reverse); reverse waveforms before, and c after")
    return (
        Config(
            audio=AudioConfig(normalise="none"),
            encoder=EncoderConfig(channels=channels, norm=_NORMS[norm], padding="cpc_audio"),  # type: ignore[arg-type]
            autoregressor=AutoregressorConfig(kind=_KINDS[kind], hidden=hidden, layers=layers),  # type: ignore[arg-type]
            criterion=CriterionConfig(num_steps=len(linear) or int(settings.get("nPredicts", 12)), tau=float(channels)),
        ),
        notes,
    )


def _linear_predictors(criterion: Mapping[str, Tensor]) -> list[Tensor]:
    """Return W_1 … W_K (D_z, D_c) if the predictors are linear; else none."""
    names = [name for name in criterion if name.startswith("wPrediction.predictors.")]
    linear = [f"wPrediction.predictors.{k}.weight" for k in range(len(names))]
    return [criterion[name] for name in linear] if names and set(names) == set(linear) else []


def _convert(weights: Mapping[str, Tensor], criterion: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """Translate names, layouts and gains."""
    import torch

    converted, channels = {}, config.encoder.channels
    for i in range(_NUM_LAYERS):
        conv = weights[f"gEncoder.conv{i}.weight"]  # (C_out, C_in, kernel)
        converted[f"g_enc.convs.{i}.weight"] = conv.permute(2, 1, 0).reshape(-1, len(conv))
        converted[f"g_enc.convs.{i}.bias"] = weights[f"gEncoder.conv{i}.bias"]
        if config.encoder.norm == "none":
            continue
        gain = weights[f"gEncoder.batchNorm{i}.weight"].flatten()
        if config.encoder.norm == "channel":
            gain = gain * ((channels - 1) / channels) ** 0.5
        converted[f"g_enc.norms.{i}.weight"] = gain
        converted[f"g_enc.norms.{i}.bias"] = weights[f"gEncoder.batchNorm{i}.bias"].flatten()
        if config.encoder.norm == "batch":
            for name in ("running_mean", "running_var", "num_batches_tracked"):
                converted[f"g_enc.norms.{i}.{name}"] = weights[f"gEncoder.batchNorm{i}.{name}"]
    prefix = "gAR.baseNet."
    converted |= {f"g_ar.rnn.{name.removeprefix(prefix)}": w for name, w in weights.items() if name.startswith(prefix)}
    if linear := _linear_predictors(criterion):
        converted["W.weight"] = torch.cat(linear)
    return converted
