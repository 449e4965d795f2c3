"""The agent, the rollouts it learns from, and its loss: A2C's, and CPC's of the same rollouts.

Source: van den Oord et al. 2018, section 3.4; Mnih et al. 2016 (arXiv 1602.01783) for A2C; Schulman et al. 2016
(arXiv 1506.02438) for the advantages.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from cpc.infonce import InfoNCE, Negatives, infonce
from cpc.model import Autoregressor, Predictor

HIDDEN, LATENT_DIM, CONTEXT_DIM = 64, 64, 128
DISCOUNT, TRACE = 0.99, 0.95  # gamma, and lambda of the generalised advantages
VALUE_WEIGHT, ENTROPY_WEIGHT = 0.5, 0.01


class Agent(nn.Module):
    """g_enc, g_ar, the two heads of A2C, and W_k.

    Args:
        shape: shape of an observation of integers.
        num_values: number of values that one of them can have.
        num_actions: number of actions.
        num_steps: K, the number of predicted steps.
    """

    def __init__(self, shape: tuple[int, ...], num_values: int, num_actions: int, num_steps: int) -> None:
        super().__init__()
        num_places = math.prod(shape)
        # A linear layer on one-hot values, written as the sum of the weights that each place and value selects.
        self.first = nn.EmbeddingBag(num_places * num_values, HIDDEN, mode="sum")
        nn.init.normal_(self.first.weight, std=num_places**-0.5)
        self.register_buffer("offsets", num_values * torch.arange(num_places))
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(HIDDEN, LATENT_DIM))
        self.g_ar = Autoregressor(LATENT_DIM, CONTEXT_DIM)
        self.policy, self.value = nn.Linear(CONTEXT_DIM, num_actions), nn.Linear(CONTEXT_DIM, 1)
        nn.init.zeros_(self.policy.weight)  # all actions are equally likely at first
        self.predictor = Predictor(CONTEXT_DIM, LATENT_DIM, num_steps)  # last: both arms begin with the same weights

    def encode(self, x: Tensor) -> Tensor:
        """Encode observations x (B, T, …) as latents z (B, T, D_z)."""
        z: Tensor = self.rest(self.first(x.flatten(0, 1).flatten(1) + self.offsets))
        return z.unflatten(0, x.shape[:2])


class Segments(NamedTuple):
    """Rollouts (B, T) cut into S segments at the ends of episodes, padded to the longest, L.

    Attributes:
        rows: (S,) rollout of each segment; in the order of the rollouts, then of time.
        steps: (S, L) step of the rollout at each place.
        valid: (S, L) false at padding.
        continues: (S,) whether a segment continues an episode of the previous rollout.
    """

    rows: Tensor
    steps: Tensor
    valid: Tensor
    continues: Tensor

    @classmethod
    def of(cls, begins: Tensor) -> "Segments":
        """Cut rollouts where episodes begin.

        Args:
            begins: (B, T) bool: whether an observation is the first of its episode.
        """
        cuts = begins.clone()
        cuts[:, 0] = True
        rows, first = cuts.nonzero(as_tuple=True)
        last = torch.cat([first[1:], first.new_zeros(1)])  # the next segment's first, or 0: it is of the next rollout
        lengths = torch.where(last == 0, begins.shape[1], last) - first
        places = torch.arange(int(lengths.max()))
        valid = places < lengths[:, None]
        steps = torch.where(valid, first[:, None] + places, 0)
        return cls(rows, steps, valid, ~begins[rows, first])

    def cut(self, x: Tensor) -> Tensor:
        """Cut x (B, T, …) into segments (S, L, …)."""
        return x[self.rows[:, None], self.steps]

    def join(self, x: Tensor, shape: torch.Size) -> Tensor:
        """Join segments (S, L, D) to rollouts (B, T, D) of a shape (B, T): the inverse of `cut`."""
        return x[self.valid].view(*shape, -1)


def contexts(agent: Agent, z: Tensor, segments: Segments, state: Tensor) -> Tensor:
    """Compute the contexts of segments (S, L, D_c).

    Args:
        agent: the agent.
        z: (S, L, D_z) latents of segments.
        segments: the segments.
        state: (1, B, D_c) states of g_ar before the rollouts, for the segments that continue an episode.
    """
    return agent.g_ar.stream(z, state[:, segments.rows] * segments.continues[:, None])[0]


def contrast(agent: Agent, z: Tensor, c: Tensor, segments: Segments, seed: int, num_negatives: int) -> InfoNCE:
    """Compute InfoNCE of predictions inside segments, against latents of all rollouts.

    A segment plays the part of an utterance whose frames end with the episode, so no anchor predicts across its end.
    """
    lengths = segments.valid.sum(1).tolist()
    rows = segments.rows.tolist()
    negatives = Negatives.of(
        "mixed_speaker", rows, list(range(len(rows))), lengths, num_negatives=num_negatives, seed=seed
    )
    steps = min(agent.predictor.num_steps, max(lengths) - 1)  # longer steps have no anchor
    return infonce(z, agent.predictor(c)[:steps] / LATENT_DIM**0.5, negatives)


class Rollout(NamedTuple):
    """What B environments show in T steps.

    Attributes:
        x: (B, T, …) observations.
        begins: (B, T) whether an observation is the first of its episode.
        actions: (B, T).
        rewards: (B, T).
        ends: (B, T) whether the episode ended after the action.
        values: (B, T + 1) values when the actions were chosen, and of the observation that follows.
        state: (1, B, D_c) states of g_ar before the rollout.
    """

    x: Tensor
    begins: Tensor
    actions: Tensor
    rewards: Tensor
    ends: Tensor
    values: Tensor
    state: Tensor


def advantages(rollout: Rollout) -> Tensor:
    """Compute generalised advantages (B, T); what follows the end of an episode counts for nothing."""
    alive = (~rollout.ends).float()
    errors = rollout.rewards + DISCOUNT * alive * rollout.values[:, 1:] - rollout.values[:, :-1]
    total, found = torch.zeros(len(errors)), []
    for error, goes_on in zip(errors.T.flip(0), alive.T.flip(0), strict=True):
        total = error + DISCOUNT * TRACE * goes_on * total
        found.append(total)
    return torch.stack(found[::-1], 1)


def loss_of(
    agent: Agent, rollout: Rollout, cpc_weight: float, num_negatives: int, seed: int
) -> tuple[Tensor, InfoNCE | None]:
    """Compute the loss of a rollout, and the results of InfoNCE: None without a weight, or two steps in a row."""
    segments = Segments.of(rollout.begins)
    z = segments.cut(agent.encode(rollout.x))  # (S, L, D_z)
    c = contexts(agent, z, segments, rollout.state)  # (S, L, D_c)
    joined = segments.join(c, rollout.begins.shape)  # (B, T, D_c)
    policy, values = Categorical(logits=agent.policy(joined)), agent.value(joined)[..., 0]
    gains = advantages(rollout)
    loss = -(policy.log_prob(rollout.actions) * gains).mean() - ENTROPY_WEIGHT * policy.entropy().mean()
    loss = loss + VALUE_WEIGHT * (gains + rollout.values[:, :-1] - values).square().mean()
    if not cpc_weight or segments.valid.shape[1] < 2:
        return loss, None
    contrasted = contrast(agent, z, c, segments, seed, num_negatives)
    return loss + cpc_weight * contrasted.losses.mean(), contrasted
