"""Which latents may be negatives of which anchor: five schemes, each an exact set of indices.

A batch holds B sequences (windows) of T latents. The anchor (b, t) predicts, for step k, the positive (b, t + k).
Its negatives are the valid latents (b', t') of all sequences b' that the scheme admits, but for the positive:

    mixed_speaker         every sequence of the batch
    same_speaker          the sequences of the anchor's speaker
    mixed_speaker_excl    every sequence but those of the anchor's utterance
    same_speaker_excl     the sequences of the anchor's speaker but those of the anchor's utterance
    current_sequence      the sequences of the anchor's utterance

Windows that come from one utterance count as one sequence. Frames behind the end of a padded window are in no set.

Source: van den Oord et al. 2018, Table 2 ("excl." excludes the current sequence from the negatives).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Scheme = Literal["mixed_speaker", "same_speaker", "mixed_speaker_excl", "same_speaker_excl", "current_sequence"]
BoundKind = Literal["I(x;c)", "conditional"]


class NegativesError(ValueError):
    """A batch that offers some anchor no negative, or some step no anchor."""


def admitted(scheme: Scheme, speaker: Tensor, utterance: Tensor) -> Tensor:
    """Which sequences the scheme admits as sources of negatives.

    Args:
        scheme: name of the scheme.
        speaker: (B,) integer identity of each sequence's speaker.
        utterance: (B,) integer identity of each sequence's utterance.

    Returns:
        (B, B) bool: [b, b'] is true if latents of b' may be negatives of anchors in b.
    """
    same_speaker = speaker[:, None] == speaker[None, :]
    same_utterance = utterance[:, None] == utterance[None, :]
    match scheme:
        case "mixed_speaker":
            return torch.ones_like(same_speaker)
        case "same_speaker":
            return same_speaker
        case "mixed_speaker_excl":
            return ~same_utterance
        case "same_speaker_excl":
            return same_speaker & ~same_utterance
        case "current_sequence":
            return same_utterance
    raise NegativesError(f"negatives: got scheme {scheme!r}, allowed: {', '.join(Scheme.__args__)}")


def bound_kind(scheme: Scheme, batches: str) -> BoundKind:
    """Whether log N − L bounds I(x_{t+k}; c_t), or only a conditional mutual information.

    The bound on I(x;c) needs negatives from the marginal p(x): any utterance of any speaker, drawn as training
    draws them. Negatives of the same speaker or sequence, and batches grouped by speaker or utterance, hold
    something of the anchor fixed; what is bounded then is conditional on it.
    """
    marginal = scheme in ("mixed_speaker", "mixed_speaker_excl") and batches == "mixed"
    return "I(x;c)" if marginal else "conditional"


@dataclass(frozen=True)
class Group:
    """Sequences whose anchors have the same candidates.

    Attributes:
        anchors: sequences (rows of the batch) whose latents are anchors.
        candidates: sequences whose valid latents are candidates.
        includes_positive: whether the positives are among the candidates (the schemes without "excl").
    """

    anchors: list[int]
    candidates: list[int]
    includes_positive: bool


@dataclass(frozen=True)
class Negatives:
    """The negatives of one batch.

    Attributes:
        groups: a partition of the batch's sequences by their candidates.
        num_frames: valid frames of each sequence.
        num_negatives: negatives drawn for each anchor and step, uniformly with replacement from its set; 0 takes
            the whole set.
        seed: where the draw starts: a pure function of it.
    """

    groups: list[Group]
    num_frames: list[int]
    num_negatives: int
    seed: int

    @classmethod
    def of(
        cls,
        scheme: Scheme,
        speaker: Sequence[int],
        utterance: Sequence[int],
        num_frames: Sequence[int],
        *,
        num_negatives: int = 0,
        seed: int = 0,
    ) -> Negatives:
        """The negatives that `scheme` admits in a batch of B sequences.

        Args:
            scheme: name of the scheme.
            speaker: (B,) integer identity of each sequence's speaker.
            utterance: (B,) integer identity of each sequence's utterance.
            num_frames: (B,) valid frames of each sequence; frames at or after this are padding.
            num_negatives: how many to draw for each anchor and step; 0 takes all.
            seed: of the draw.

        Raises:
            NegativesError: if a sequence has anchors but not one negative.
        """
        source = admitted(scheme, torch.as_tensor(speaker), torch.as_tensor(utterance))
        members: dict[tuple[int, ...], list[int]] = {}
        for b, row in enumerate(source.tolist()):
            if num_frames[b] >= 2:  # with fewer frames there is no anchor
                members.setdefault(tuple(i for i, admits in enumerate(row) if admits), []).append(b)
        groups = [
            Group(anchors, list(candidates), includes_positive=anchors[0] in candidates)
            for candidates, anchors in members.items()
        ]
        for group in groups:
            if sum(num_frames[b] for b in group.candidates) - group.includes_positive < 1:
                raise NegativesError(
                    f"negatives {scheme}: in a batch of {len(num_frames)} windows, of {len(set(utterance))} "
                    f"utterances and {len(set(speaker))} speakers, window {group.anchors[0]} has no negative; "
                    + _WAY_OUT[scheme]
                )
        return cls(groups, list(num_frames), num_negatives, seed)

    def generator(self, device: torch.device) -> torch.Generator:
        """The source of the draw, at its start."""
        return torch.Generator(device).manual_seed(self.seed)


_WAY_OUT: dict[str, str] = {
    "mixed_speaker": "use larger batches",
    "same_speaker": "use larger batches",
    "mixed_speaker_excl": "use batches of several utterances: --batches.kind mixed or by_speaker",
    "same_speaker_excl": "use batches with several utterances of each speaker: --batches.kind by_speaker",
    "current_sequence": "use longer windows",
}


def draw(columns: Tensor, num_candidates: int, num_negatives: int, generator: torch.Generator) -> Tensor:
    """Draw negatives uniformly, with replacement, from all candidates but the positive.

    Args:
        columns: (A,) where each anchor's positive stands among the candidates; −1 if it is not among them.
        num_candidates: M, the positive included where it is among them.
        num_negatives: n, how many to draw for each anchor.
        generator: the source of randomness.

    Returns:
        (A, n) candidate columns, none of them the anchor's positive.
    """
    excluded = (columns >= 0).to(torch.int64)[:, None]  # (A, 1)
    uniform = torch.rand(len(columns), num_negatives, generator=generator, device=columns.device, dtype=torch.float64)
    drawn = (uniform * (num_candidates - excluded)).to(torch.int64)  # in [0, M - excluded)
    return drawn + ((drawn >= columns[:, None]) & (excluded > 0))  # step over the positive
