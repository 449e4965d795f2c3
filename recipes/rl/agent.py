"""The agent, the rollouts that it learns from, and its loss: A2C's, and CPC's of the same rollouts.

Source: van den Oord et al. 2018, section 3.4; Mnih et al. 2016 (arXiv 1602.01783) for A2C; Schulman et al. 2016
(arXiv 1506.02438) for the advantages.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn.utils.rnn import pad_sequence

from cpc.infonce import InfoNCE, Negatives, Rule, infonce
from cpc.model import Autoregressor, Predictor

HIDDEN, LATENT_DIM, CONTEXT_DIM = 64, 64, 128
NUM_NEGATIVES = 16  # drawn for each prediction
DISCOUNT, TRACE = 0.99, 0.95  # gamma, and lambda of the generalised advantages
VALUE_WEIGHT, ENTROPY_WEIGHT = 0.5, 0.01


class Agent(nn.Module):
    """g_enc, g_ar, the two heads of A2C, and W_k.

    Args:
        shape: shape of an observation of integers.
        num_values: number of values of each integer.
        num_actions: number of actions.
        num_steps: K, the number of predicted steps.
    """

    def __init__(self, shape: tuple[int, ...], num_values: int, num_actions: int, num_steps: int) -> None:
        super().__init__()
        num_places = math.prod(shape)
        # A linear layer on one-hot values, written as the sum of the weights that each place and value selects.
        self.embed = nn.EmbeddingBag(num_places * num_values, HIDDEN, mode="sum")
        nn.init.normal_(self.embed.weight, std=num_places**-0.5)
        self.register_buffer("offsets", num_values * torch.arange(num_places))
        self.project = nn.Sequential(nn.ReLU(), nn.Linear(HIDDEN, LATENT_DIM))
        self.g_ar = Autoregressor(LATENT_DIM, CONTEXT_DIM)
        self.policy, self.value = nn.Linear(CONTEXT_DIM, num_actions), nn.Linear(CONTEXT_DIM, 1)
        nn.init.zeros_(self.policy.weight)  # all actions are nearly equally likely at first
        self.W = Predictor(CONTEXT_DIM, LATENT_DIM, num_steps)

    def g_enc(self, x: Tensor) -> Tensor:
        """Encode observations x (B, T, …) as latents z (B, T, D_z)."""
        z: Tensor = self.project(self.embed(x.flatten(0, 1).flatten(1) + self.offsets))
        return z.unflatten(0, x.shape[:2])


class Rollout(NamedTuple):
    """What B environments show in T steps.

    Attributes:
        x: (B, T, …) observations.
        begins: (B, T + 1) whether an observation, or the one that follows the rollout, is the first of its episode.
        actions: (B, T).
        rewards: (B, T).
        values: (B, T + 1) values when the actions were chosen, and of the observation that follows.
        state: (1, B, D_c) states of g_ar before the rollout.
    """

    x: Tensor
    begins: Tensor
    actions: Tensor
    rewards: Tensor
    values: Tensor
    state: Tensor


class Episodes(NamedTuple):
    """The S parts of a rollout that belong to one episode each, padded to the longest, L.

    Attributes:
        z: (S, L, D_z) latents.
        c: (S, L, D_c) contexts; an episode that had begun before the rollout continues from the state that it left.
        lengths: (S,) steps of each part.
    """

    z: Tensor
    c: Tensor
    lengths: list[int]

    def in_rollout(self, x: Tensor, shape: tuple[int, int]) -> Tensor:
        """Put x (S, L, D) back in the order of the rollout: (B, T, D)."""
        return torch.cat([part[:length] for part, length in zip(x, self.lengths, strict=True)]).view(*shape, -1)


def episodes_of(agent: Agent, rollout: Rollout) -> Episodes:
    """Cut a rollout where episodes begin, and compute the latents and contexts of its parts."""
    (num_rows, num_steps), begins = rollout.actions.shape, rollout.begins[:, :-1].flatten()
    firsts = (begins | (torch.arange(len(begins)) % num_steps == 0)).nonzero()[:, 0]  # (S,), places in B · T
    lengths = firsts.diff(append=torch.tensor([num_rows * num_steps])).tolist()
    z = pad_sequence(agent.g_enc(rollout.x).flatten(0, 1).split(lengths), batch_first=True)
    state = rollout.state[:, firsts // num_steps] * ~begins[firsts, None]
    return Episodes(z, agent.g_ar.stream(z, state)[0], lengths)


def advantages(rollout: Rollout) -> Tensor:
    """Compute generalised advantages (B, T); what follows the end of an episode counts for nothing."""
    alive = (~rollout.begins[:, 1:]).float()
    errors = rollout.rewards + DISCOUNT * alive * rollout.values[:, 1:] - rollout.values[:, :-1]
    total, found = torch.zeros(len(errors)), []
    for error, goes_on in zip(errors.T.flip(0), alive.T.flip(0), strict=True):
        total = error + DISCOUNT * TRACE * goes_on * total
        found.append(total)
    return torch.stack(found[::-1], 1)


def a2c_loss(agent: Agent, rollout: Rollout, episodes: Episodes) -> Tensor:
    """Compute the loss of the policy, the value and the entropy."""
    c = episodes.in_rollout(episodes.c, rollout.actions.shape)  # (B, T, D_c)
    policy, values, gains = Categorical(logits=agent.policy(c)), agent.value(c)[..., 0], advantages(rollout)
    loss = -(policy.log_prob(rollout.actions) * gains).mean() - ENTROPY_WEIGHT * policy.entropy().mean()
    return loss + VALUE_WEIGHT * (gains + rollout.values[:, :-1] - values).square().mean()


def contrast(agent: Agent, episodes: Episodes, seed: int, num_negatives: int = NUM_NEGATIVES) -> InfoNCE | None:
    """Compute InfoNCE of predictions inside each part, against latents of the whole rollout; None without an anchor."""
    num_steps = min(agent.W.num_steps, max(episodes.lengths) - 1)  # longer steps have no anchor
    if not num_steps:
        return None
    negatives = Negatives.of(Rule(), episodes.lengths, num_negatives=num_negatives, seed=seed)
    return infonce(episodes.z, agent.W(episodes.c)[:num_steps] / LATENT_DIM**0.5, negatives)
