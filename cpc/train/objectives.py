"""The objectives: CPC's InfoNCE, and those that it is compared with, on the same g_enc and g_ar.

    cpc          predict the latents of the next K steps (the paper)
    supervised   classify each frame with one linear layer on c, trained end to end: the topline
    nt_xent      windows of one utterance attract each other and repel all other windows of the batch (SimCLR)
    clip         match the two windows of each utterance, in both directions (CLIP's symmetric InfoNCE)
    moco         the same against a queue of keys from a slow copy of the network (MoCo)
    sup_con      windows of one class, or frames of one phone, attract each other (SupCon)

The last four compare c averaged over a window's frames. Each objective is a module, so its weights and buffers (a
classifier, a queue) are trained and saved with the network; W_k stay in the network.
"""

from __future__ import annotations

import copy
import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpc.config import Config, ConfigError
from cpc.labels import UNLABELLED
from cpc.losses import MomentumQueue, info_nce, momentum_update, nt_xent, sup_con
from cpc.model import CPC
from cpc.train.distributed import num_processes
from cpc.train.networks import geometry_of
from cpc.train.predictive import Predictive
from cpc.train.views import Result, Views

Unit = Literal["window", "frame"]

_MAX_FRAMES = 1024  # drawn from a batch for sup_con to compare


class Supervised(nn.Module):
    """Cross-entropy of each frame's class, from a linear layer on c.

    Args:
        classes: names of the classes, in the order of the targets.
        dim: D_c.
    """

    def __init__(self, classes: list[str], dim: int) -> None:
        super().__init__()
        self.classes = classes
        self.classifier = nn.Linear(dim, len(classes))

    def linear_maps(self) -> dict[str, int]:
        """The classifier maps to classes, not to hidden units."""
        return {"classifier.weight": 0}

    def get_extra_state(self) -> list[str]:
        """Save the classes' names with the weights, which mean nothing without them."""
        return self.classes

    def set_extra_state(self, state: list[str]) -> None:
        """Compare the classes' names with the saved ones.

        Raises:
            ConfigError: other names, or another order.
        """
        if state != self.classes:
            raise ConfigError(
                f"loss.labels: classes {', '.join(self.classes[:5])}, …; the checkpoint has {', '.join(state[:5])}, …: "
                "continue with the labels that the run began with"
            )

    def forward(self, network: CPC, views: Views) -> Result:
        """Average over the labelled frames; the accuracy is the classifier's own."""
        with torch.autocast(views.c.device.type, enabled=False):
            logits = self.classifier(views.c.float()).flatten(0, 1)  # (B · T, classes)
        y = views.targets.to(logits.device).flatten()
        known = y != UNLABELLED
        count = known.sum().clamp(min=1)  # a batch without a label must not stop the run
        loss = F.cross_entropy(logits, y, ignore_index=UNLABELLED, reduction="sum") / count
        accuracy = (logits.argmax(1) == y).sum() / count
        return {"loss": loss, "accuracy": accuracy, "log_n": logits.new_tensor(math.log(logits.shape[1]))}


class NTXent(nn.Module):
    """NT-Xent over windows; windows of one utterance are each other's positives."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, network: CPC, views: Views) -> Result:
        """Compute the loss of a batch; accuracy: how often a window's nearest neighbour is of the same utterance."""
        x = views.pooled()
        label = torch.tensor(views.batch.utterance, device=x.device)
        negatives = (label[:, None] != label).sum(1).float().mean()
        loss = nt_xent(x, label, self.temperature)
        return {"loss": loss, "accuracy": _nearest_is_same(x, label), "log_n": torch.log1p(negatives)}


class SupCon(nn.Module):
    """Supervised contrastive loss over windows, or over frames, of the same class."""

    def __init__(self, temperature: float, unit: Unit) -> None:
        super().__init__()
        self.temperature, self.unit = temperature, unit

    def forward(self, network: CPC, views: Views) -> Result:
        """Compute the loss of a batch; accuracy: how often the nearest neighbour is of the same class."""
        label = views.targets  # (B, T)
        if self.unit == "frame":
            frames = (label.flatten() != UNLABELLED).nonzero()[:, 0]
            order = torch.randperm(len(frames), generator=torch.Generator().manual_seed(views.seed % 2**63))
            frames = frames[order[:_MAX_FRAMES]]
            x, label = views.c.flatten(0, 1)[frames.to(views.c.device)].float(), label.flatten()[frames]
        else:
            x, label = views.pooled(), label[:, 0]
        if len(x) < 2:
            zero = x.sum() * 0
            return {"loss": zero, "accuracy": zero.detach(), "log_n": zero.detach()}
        label = label.to(x.device)
        loss, log_n = sup_con(x, label, self.temperature), x.new_tensor(math.log(len(x) - 1))
        return {"loss": loss, "accuracy": _nearest_is_same(x, label), "log_n": log_n}


class Clip(nn.Module):
    """InfoNCE between the two windows of each utterance, in both directions."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, network: CPC, views: Views) -> Result:
        """Compute the loss of a batch; accuracy: how often the other window scores highest."""
        first, second = _pairs(views.batch.utterance)
        x = views.pooled()
        loss = info_nce(x[first], x[second], None, self.temperature, symmetric=True)
        accuracy = (_hits(x[first], x[second]) + _hits(x[second], x[first])) / 2
        return {"loss": loss, "accuracy": accuracy, "log_n": x.new_tensor(math.log(len(first)))}


class MoCo(nn.Module):
    """The task of `Clip` with keys from a slow copy of the network, against a queue of earlier keys."""

    def __init__(self, network: CPC, temperature: float, queue_length: int, momentum: float) -> None:
        super().__init__()
        self.temperature, self.momentum = temperature, momentum
        self.keys = nn.ModuleDict({"g_enc": copy.deepcopy(network.g_enc), "g_ar": copy.deepcopy(network.g_ar)})
        self.keys.requires_grad_(False)
        # All ranks fill one queue, so the queue that rank 0 saves is every rank's.
        self.queue = MomentumQueue(queue_length, network.g_ar.hidden_dim, gather=num_processes() > 1)

    def forward(self, network: CPC, views: Views) -> Result:
        """Compute the loss of a batch; in training, move the slow copy and enqueue its keys."""
        if self.training:
            for name in ("g_enc", "g_ar"):
                momentum_update(getattr(network, name), self.keys[name], self.momentum)
        with torch.no_grad():
            keys = views.pooled(self.keys["g_ar"](self.keys["g_enc"](views.waveforms)))
        x, held = views.pooled(), self.queue.keys if len(self.queue) else None
        first, second = _pairs(views.batch.utterance)
        both = [(x[first], keys[second]), (x[second], keys[first])]
        loss = torch.stack([info_nce(query, key, held, self.temperature) for query, key in both]).mean()
        accuracy = torch.stack([_hits(query, key, held) for query, key in both]).mean()
        candidates = len(first) if held is None else 1 + len(held)
        if self.training:
            self.queue.enqueue(keys)
        return {"loss": loss, "accuracy": accuracy, "log_n": x.new_tensor(math.log(candidates))}


def build_objective(config: Config, network: nn.Module, classes: list[str]) -> nn.Module:
    """Build the objective that a configuration names; call it as objective(network, views).

    Args:
        config: the run.
        network: g_enc, g_ar and W_k, or a model of the user's, which has CPC's own objective alone.
        classes: names of the classes of the batches' targets; empty for objectives without targets.
    """
    loss = config.loss
    if loss.name == "cpc":
        return Predictive(config.criterion, config.regularise, geometry_of(network).hop_samples)
    assert isinstance(network, CPC)
    match loss.name:
        case "supervised":
            return Supervised(classes, network.g_ar.hidden_dim)
        case "nt_xent":
            return NTXent(loss.temperature)
        case "clip":
            return Clip(loss.temperature)
        case "moco":
            return MoCo(network, loss.temperature, loss.queue_length, loss.momentum)
        case "sup_con":
            return SupCon(loss.temperature, "frame" if loss.target == "phone" else "window")


def _pairs(utterance: list[int]) -> tuple[list[int], list[int]]:
    """Rows of the first and of the second window of each utterance."""
    rows: dict[int, list[int]] = {}
    for row, u in enumerate(utterance):
        rows.setdefault(u, []).append(row)
    return [pair[0] for pair in rows.values()], [pair[1] for pair in rows.values()]


def _hits(query: Tensor, positive: Tensor, negatives: Tensor | None = None) -> Tensor:
    """Share of queries whose positive has the highest cosine, among all positives or among it and the negatives."""
    with torch.no_grad():
        query, positive = F.normalize(query, dim=1), F.normalize(positive, dim=1)
        if negatives is None:
            return ((query @ positive.T).argmax(1) == torch.arange(len(query), device=query.device)).float().mean()
        best = (query @ F.normalize(negatives, dim=1).T).amax(1)
        return ((query * positive).sum(1) > best).float().mean()


def _nearest_is_same(x: Tensor, label: Tensor) -> Tensor:
    """Share of rows whose nearest other row by cosine has the same label."""
    with torch.no_grad():
        x = F.normalize(x, dim=1)
        return (label[(x @ x.T).fill_diagonal_(-torch.inf).argmax(1)] == label).float().mean()
