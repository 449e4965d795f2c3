"""What training minimises: CPC's InfoNCE, or an objective that it is compared with, on the same g_enc and g_ar.

    cpc          predict the latents of the next K steps (the paper)
    supervised   name each frame's class with one linear layer on c, trained end to end: the topline
    nt_xent      windows of one utterance attract each other, all others of the batch repel them (SimCLR)
    clip         of two windows of each utterance, pick the other one, both ways (CLIP's symmetric InfoNCE)
    moco         the same against a queue of keys from a slow copy of the network (MoCo)
    sup_con      windows, or for phones frames, of one class attract each other (SupCon)

The last four compare c averaged over a window's frames. Each objective is a module, so what it holds (a classifier,
a queue) is trained and saved with the network; CPC's own W stays in the network.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cpc.config import Config, ConfigError
from cpc.data import Batch, Windows
from cpc.infonce import Negatives, infonce
from cpc.labels import UNLABELLED, Targets
from cpc.losses import MomentumQueue, info_nce, momentum_update, nt_xent, sup_con
from cpc.model import CPC
from cpc.train.distributed import num_processes
from cpc.train.timing import Profile

Result = dict[str, Tensor]  # "loss" with a gradient, and what is logged beside it: (), or (K,) under names in _k

_MAX_FRAMES = 1024  # that sup_con compares with each other, drawn from a batch


class Views(NamedTuple):
    """A batch as the network sees it.

    Attributes:
        waveforms: (B, S).
        z: (B, T, D_z).
        c: (B, T, D_c).
        num_frames: of each window, those that see no padding.
        batch: where the windows come from.
        windows: the split that the batch is of.
        seed: of what is drawn.
    """

    waveforms: Tensor
    z: Tensor
    c: Tensor
    num_frames: list[int]
    batch: Batch
    windows: Windows
    seed: int

    def pooled(self, c: Tensor | None = None) -> Tensor:
        """C (or another one) averaged over each window's frames: (B, D_c), float32."""
        c = (self.c if c is None else c).float()
        frame = torch.arange(c.shape[1], device=c.device)
        count = torch.tensor(self.num_frames, device=c.device)[:, None]  # (B, 1)
        return (c * (frame < count)[..., None]).sum(1) / count


class Predictive(nn.Module):
    """CPC: InfoNCE of the predictions of z_{t+k}, k = 1 … K."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.scheme, self.num_negatives = config.criterion.scheme, config.criterion.num_negatives

    def forward(self, network: CPC, views: Views, stages: Profile) -> Result:
        """InfoNCE of a batch, by step."""
        predictions = network.predict(views.c)  # (K, B, T, D_z)
        stages.mark("predictor")
        stages.mark_gradient(predictions, "criterion")
        stages.mark_gradient(views.c, "predictor")
        negatives = Negatives.of(
            self.scheme, views.batch.speaker, views.batch.utterance, views.num_frames,
            num_negatives=self.num_negatives, seed=views.seed,
        )  # fmt: skip
        result = infonce(views.z, predictions, negatives)
        return {
            "loss": result.losses.mean(), "loss_k": result.losses, "accuracy_k": result.accuracies,
            "win_rate_k": result.win_rates, "log_n_k": result.log_n,
        }  # fmt: skip


class Supervised(nn.Module):
    """Cross-entropy of each frame's class, from a linear layer on c."""

    def __init__(self, targets: Targets, dim: int) -> None:
        super().__init__()
        self.targets = targets
        self.classifier = nn.Linear(dim, len(targets.classes))

    def get_extra_state(self) -> list[str]:
        """The classes' names: without them nobody would know which is which."""
        return self.targets.classes

    def set_extra_state(self, state: list[str]) -> None:
        """Refuse to go on with other classes.

        Raises:
            ConfigError: other names, or another order.
        """
        if state != self.targets.classes:
            raise ConfigError(
                f"loss.labels: classes {', '.join(self.targets.classes[:5])}, …; the checkpoint has "
                f"{', '.join(state[:5])}, …: continue with the labels that the run began with"
            )

    def forward(self, network: CPC, views: Views, stages: Profile) -> Result:
        """Mean over the labelled frames; the accuracy is the classifier's own."""
        stages.mark_gradient(views.c, "criterion")
        with torch.autocast(views.c.device.type, enabled=False):
            logits = self.classifier(views.c.float()).flatten(0, 1)  # (B · T, classes)
        y = (
            self.targets.of_frames(views.windows, views.batch, views.num_frames, views.c.shape[1])
            .to(logits.device)
            .flatten()
        )
        known = y != UNLABELLED
        count = known.sum().clamp(min=1)  # a batch without a label is no reason to stop
        loss = F.cross_entropy(logits, y, ignore_index=UNLABELLED, reduction="sum") / count
        accuracy = (logits.argmax(1) == y).sum() / count
        return {"loss": loss, "accuracy": accuracy, "log_n": logits.new_tensor(math.log(logits.shape[1]))}


class NTXent(nn.Module):
    """NT-Xent over windows; those of one utterance are each other's positives."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, network: CPC, views: Views, stages: Profile) -> Result:
        """The loss of a batch; its accuracy is how often a window's nearest is of the same utterance."""
        stages.mark_gradient(views.c, "criterion")
        x = views.pooled()
        label = torch.tensor(views.batch.utterance, device=x.device)
        negatives = (label[:, None] != label).sum(1).float().mean()
        return {"loss": nt_xent(x, label, self.temperature), "accuracy": _nearest_is_same(x, label),
                "log_n": torch.log1p(negatives)}  # fmt: skip


class SupCon(nn.Module):
    """Supervised contrastive loss over windows of a column's classes, or over frames of phones."""

    def __init__(self, targets: Targets, temperature: float) -> None:
        super().__init__()
        self.targets, self.temperature = targets, temperature

    def forward(self, network: CPC, views: Views, stages: Profile) -> Result:
        """The loss of a batch; its accuracy is how often the nearest is of the same class."""
        stages.mark_gradient(views.c, "criterion")
        label = self.targets.of_frames(views.windows, views.batch, views.num_frames, views.c.shape[1])  # (B, T)
        if self.targets.is_phone:
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
        return {"loss": sup_con(x, label, self.temperature), "accuracy": _nearest_is_same(x, label),
                "log_n": x.new_tensor(math.log(len(x) - 1))}  # fmt: skip


class Clip(nn.Module):
    """InfoNCE between two windows of each utterance, in both directions."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, network: CPC, views: Views, stages: Profile) -> Result:
        """The loss of a batch; its accuracy is how often the other window scores highest."""
        stages.mark_gradient(views.c, "criterion")
        first, second = _pairs(views.batch.utterance)
        x = views.pooled()
        accuracy = (_hits(x[first], x[second]) + _hits(x[second], x[first])) / 2
        return {"loss": info_nce(x[first], x[second], None, self.temperature, symmetric=True), "accuracy": accuracy,
                "log_n": x.new_tensor(math.log(len(first)))}  # fmt: skip


class MoCo(nn.Module):
    """Clip's task with the keys of a slow copy of the network, against a queue of earlier keys."""

    def __init__(self, network: CPC, temperature: float, queue_length: int, momentum: float) -> None:
        super().__init__()
        self.temperature, self.momentum = temperature, momentum
        self.keys = nn.ModuleDict({"g_enc": copy.deepcopy(network.g_enc), "g_ar": copy.deepcopy(network.g_ar)})
        self.keys.requires_grad_(False)
        # All ranks fill one queue: then what is saved of rank 0 is that of every rank.
        self.queue = MomentumQueue(queue_length, network.g_ar.hidden_dim, gather=num_processes() > 1)

    def forward(self, network: CPC, views: Views, stages: Profile) -> Result:
        """The loss of a batch; in training the slow copy moves, and its keys enter the queue."""
        stages.mark_gradient(views.c, "criterion")
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


def build_objective(config: Config, network: CPC, train: Windows, dev: Windows) -> nn.Module:
    """The objective that a configuration names, called as objective(network, views, stages).

    Raises:
        ConfigError, LabelsError: see `Targets`.
    """
    loss, geometry = config.loss, network.g_enc.geometry

    def targets() -> Targets:
        return Targets(
            loss.target, loss.labels, train, dev,
            first_centre_samples=geometry.first_centre_samples, hop_samples=geometry.hop_samples,
        )  # fmt: skip

    match loss.name:
        case "cpc":
            return Predictive(config)
        case "supervised":
            return Supervised(targets(), network.g_ar.hidden_dim)
        case "nt_xent":
            return NTXent(loss.temperature)
        case "clip":
            return Clip(loss.temperature)
        case "moco":
            return MoCo(network, loss.temperature, loss.queue_length, loss.momentum)
        case "sup_con":
            return SupCon(targets(), loss.temperature)


def _pairs(utterance: list[int]) -> tuple[list[int], list[int]]:
    """Rows of the first and of the second window of each utterance."""
    rows: dict[int, list[int]] = {}
    for row, u in enumerate(utterance):
        rows.setdefault(u, []).append(row)
    return [pair[0] for pair in rows.values()], [pair[1] for pair in rows.values()]


def _hits(query: Tensor, positive: Tensor, negatives: Tensor | None = None) -> Tensor:
    """How often a query's cosine with its positive is the highest: of all positives, or of that and the negatives."""
    with torch.no_grad():
        query, positive = F.normalize(query, dim=1), F.normalize(positive, dim=1)
        if negatives is None:
            return ((query @ positive.T).argmax(1) == torch.arange(len(query), device=query.device)).float().mean()
        best = (query @ F.normalize(negatives, dim=1).T).amax(1)
        return ((query * positive).sum(1) > best).float().mean()


def _nearest_is_same(x: Tensor, label: Tensor) -> Tensor:
    """How often the other row with the highest cosine has the row's label."""
    with torch.no_grad():
        x = F.normalize(x, dim=1)
        return (label[(x @ x.T).fill_diagonal_(-torch.inf).argmax(1)] == label).float().mean()
