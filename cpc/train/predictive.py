"""CPC's objective: InfoNCE of the predictions of z_{t+k}, k = 1 … K, against one or several sets of negatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cpc.config import CriterionConfig, NegativeSet, RegulariseConfig
from cpc.infonce import DIRECTION, Negatives, Rule, infonce, name_sets
from cpc.model import CPC, reverse
from cpc.train.networks import Network
from cpc.train.regularise import drop, left_or_right, self_expression
from cpc.train.views import Result, Views

_SEED_STEP = 0x9E3779B97F4A7C15  # between the seeds of a batch's draws; odd, so that no two meet


class Sequences(NamedTuple):
    """S sequences in which step k is k frames ahead: the windows of a batch, and their reversals where they count.

    Attributes:
        z: (S, T, D_z) latents.
        predictions: (K, S, T, D_z).
        num_frames: (S,) valid frames of each sequence.
        first_frame: (S,) position of frame 0 in its utterance, in frames.
        columns: (S,) integer values of each column that a rule may read.
        targets: (S, T) class of each frame; None if none is known.
    """

    z: Tensor
    predictions: Tensor
    num_frames: list[int]
    first_frame: list[float]
    columns: dict[str, list[int]]
    targets: Tensor | None


class Predictive(nn.Module):
    """CPC's objective. Where g_ar also reads backwards, the windows count twice: as they are, and reversed.

    Args:
        criterion: the sets of negatives and their weights, and the steps' weights.
        regularise: dropout of c and the weights of the losses of z.
        hop_samples: samples from one frame to the next.
    """

    def __init__(self, criterion: CriterionConfig, regularise: RegulariseConfig, hop_samples: int) -> None:
        super().__init__()
        self.sets = name_sets(criterion)
        self.steps = criterion.steps
        self.step_weights = criterion.step_weights or (1.0,) * criterion.num_steps
        self.regularise, self.hop_samples = regularise, hop_samples

    def forward(self, network: CPC | Network, views: Views) -> Result:
        """Compute InfoNCE of a batch for each step.

        The results are weighted means over the sets that are scored at a step; "loss" is the weighted mean over the
        sets of their own losses. Where there are several sets, each set's own results are under names that begin with
        the set's, for the steps at which it is scored.
        """
        sequences = self._sequences(network, views)
        by_set = {
            name: self._score(negatives, sequences, (views.seed + number * _SEED_STEP) % 2**64)
            for number, (name, negatives) in enumerate(self.sets.items())
        }
        result = self._mean_over_sets(by_set)
        if len(by_set) > 1:
            result |= {f"{name}/{key}": value for name, values in by_set.items() for key, value in values.items()}
        for name, term in (("left_or_right", left_or_right), ("self_expression", self_expression)):
            if weight := getattr(self.regularise, name):
                result[name] = term(views.z, views.num_frames)
                result["loss"] = result["loss"] + weight * result[name]
        return result

    def _sequences(self, network: CPC | Network, views: Views) -> Sequences:
        """Predict in each direction in which g_ar reads."""
        c = drop(views.c, self.regularise.dropout_c, views.seed + _SEED_STEP) if self.training else views.c
        z, n, batch = views.z, views.num_frames, views.batch
        first = [start / self.hop_samples for start in batch.start]
        columns = {"speaker": batch.speaker, "utterance": batch.utterance, **batch.columns}
        forwards = Sequences(z, network.predict(c), n, first, columns, batch.targets)
        if not isinstance(network, CPC) or network.W_back is None:
            return forwards
        # Read backwards, a window begins at its last frame, and positions count down.
        back = [-(position + frames - 1) for position, frames in zip(first, n, strict=True)]
        return Sequences(
            torch.cat([z, reverse(z, n)]),
            torch.cat([forwards.predictions, network.predict_back(reverse(c, n))], dim=1),
            n + n,
            first + back,
            {name: values + values for name, values in columns.items()} | {DIRECTION: [0] * len(n) + [1] * len(n)},
            None if batch.targets is None else torch.cat([batch.targets, reverse(batch.targets, n)]),
        )

    def _score(self, negative_set: NegativeSet, sequences: Sequences, seed: int) -> Result:
        """Score the predictions against one set of negatives."""
        rule, columns = Rule.of(negative_set), sequences.columns
        if DIRECTION in columns:
            rule = replace(rule, same=(*rule.same, DIRECTION))
        negatives = Negatives.of(
            rule,
            sequences.num_frames,
            columns,
            first_frame=sequences.first_frame,
            num_negatives=negative_set.number,
            seed=seed,
        )
        steps, predictions = self._steps(negative_set), sequences.predictions
        if len(steps) < len(self.steps):
            predictions = predictions[self._places(steps)]
        result = infonce(sequences.z, predictions, replace(negatives, labels=sequences.targets), steps)
        values = {
            "loss_k": result.losses,
            "accuracy_k": result.accuracies,
            "win_rate_k": result.win_rates,
            "log_n_k": result.log_n,
        }
        if result.false_negatives is not None:
            values["false_negatives_k"] = result.false_negatives.nan_to_num()
        return values

    def _steps(self, negative_set: NegativeSet) -> list[int]:
        """List the steps at which a set is scored."""
        return sorted(negative_set.steps or self.steps)

    def _places(self, steps: list[int]) -> list[int]:
        """Find steps among those that are predicted."""
        return [self.steps.index(step) for step in steps]

    def _mean_over_sets(self, by_set: Mapping[str, Result]) -> Result:
        """Average the results of the sets at each step, (K,), and the loss and log N also over sets and steps."""
        total = sum(negatives.weight for negatives in self.sets.values())
        share = torch.zeros(len(self.steps))  # of all weights, those of the sets that are scored at each step
        for negatives in self.sets.values():
            share[self._places(self._steps(negatives))] += negatives.weight / total
        result: Result = {}
        for name, values in by_set.items():
            negatives = self.sets[name]
            steps = self._steps(negatives)
            places = torch.tensor(self._places(steps), device=values["loss_k"].device)
            weights = values["loss_k"].new_tensor([self.step_weights[step - 1] for step in steps])
            for key in ("loss", "log_n"):  # the loss of a guess is weighed as the loss is
                mean = negatives.weight / total * (weights * values[f"{key}_k"]).sum() / weights.sum()
                result[key] = result[key] + mean if key in result else mean
            for key, value in values.items():
                part = negatives.weight / total * value / share.to(value.device)[places]
                result[key] = result.get(key, value.new_zeros(len(self.steps))).index_add(0, places, part)
        return result
