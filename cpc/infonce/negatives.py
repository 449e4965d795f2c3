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


def bound_kind(scheme: Scheme, batches: str) -> BoundKind:
    """Whether log N − L bounds I(x_{t+k}; c_t), or only a conditional mutual information.

    The bound on I(x;c) needs negatives from the marginal p(x): any utterance of any speaker, drawn as training
    draws them. Negatives of the same speaker or sequence, and batches grouped by speaker or utterance, hold
    something of the anchor fixed; what is bounded then is conditional on it.
    """
    marginal = scheme in ("mixed_speaker", "mixed_speaker_excl") and batches == "mixed"
    return "I(x;c)" if marginal else "conditional"


@dataclass(frozen=True)
class Negatives:
    """The negatives of one batch.

    The sequences fall into groups: all of the batch, those of one speaker, or those of one utterance. An anchor's
    negatives are the valid latents of its own group, without those of its utterance in the schemes with "excl".

    Attributes:
        groups: a partition of the batch's sequences (rows).
        utterance: (B,) integer identity of each sequence's utterance.
        excludes_utterance: whether the anchor's utterance is left out, and the positive with it.
        num_frames: (B,) valid frames of each sequence.
        num_negatives: negatives drawn for each anchor and step, uniformly with replacement from its set; 0 takes
            the whole set.
        seed: where the draw starts: a pure function of it.
    """

    groups: list[list[int]]
    utterance: list[int]
    excludes_utterance: bool
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
        match scheme:
            case "mixed_speaker" | "mixed_speaker_excl":
                key: Sequence[int] = [0] * len(num_frames)
            case "same_speaker" | "same_speaker_excl":
                key = speaker
            case "current_sequence":
                key = utterance
            case _:
                raise NegativesError(f"negatives: got scheme {scheme!r}, allowed: {', '.join(Scheme.__args__)}")
        excludes = scheme.endswith("_excl")
        groups: dict[int, list[int]] = {}
        for b, of in enumerate(key):
            groups.setdefault(of, []).append(b)
        of_utterance: dict[tuple[int, int], int] = {}  # frames of an utterance in a group
        for b, of in enumerate(key):
            of_utterance[of, utterance[b]] = of_utterance.get((of, utterance[b]), 0) + num_frames[b]
        for of, rows in groups.items():
            total = sum(num_frames[b] for b in rows)
            for b in rows:
                admitted = total - of_utterance[of, utterance[b]] if excludes else total
                if num_frames[b] >= 2 and admitted - (not excludes) < 1:  # with one frame there is no anchor
                    raise NegativesError(
                        f"negatives {scheme}: in a batch of {len(num_frames)} windows, of {len(set(utterance))} "
                        f"utterances and {len(set(speaker))} speakers, window {b} has no negative; {_WAY_OUT[scheme]}"
                    )
        return cls(list(groups.values()), list(utterance), excludes, list(num_frames), num_negatives, seed)

    def admitted(self, rows: list[int], longest: int) -> Tensor:
        """Which latents of a group the anchors of each of its sequences are scored against.

        Args:
            rows: one of `groups`.
            longest: T, frames of every sequence with its padding.

        Returns:
            (R, R · T) bool: [i, j · T + t] is true if latent (rows[j], t) is a candidate of the anchors in rows[i]. In
            the schemes without "excl" that includes each anchor's own positive.
        """
        num_frames = torch.tensor([self.num_frames[b] for b in rows])
        valid = torch.arange(longest) < num_frames[:, None]  # (R, T)
        utterance = torch.tensor([self.utterance[b] for b in rows])
        source = torch.ones(len(rows), len(rows), dtype=torch.bool)
        if self.excludes_utterance:
            source = utterance[:, None] != utterance
        return (source[:, :, None] & valid).flatten(1)

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


def draw(ranks: Tensor, num_candidates: Tensor, num_negatives: int, generator: torch.Generator) -> Tensor:
    """Draw negatives uniformly, with replacement, from all candidates but the positive.

    Args:
        ranks: (…, A, 1) where each anchor's positive stands among its candidates; −1 if it is not among them.
        num_candidates: (…, A, 1) M, the positive included where it is among them.
        num_negatives: n, how many to draw for each anchor.
        generator: the source of randomness.

    Returns:
        (…, A, n) places among the candidates, none of them the anchor's positive.
    """
    excluded = (ranks >= 0).to(torch.int64)
    shape = (*ranks.shape[:-1], num_negatives)
    drawn = torch.randint(2**62, shape, generator=generator, device=ranks.device) % (num_candidates - excluded)
    return drawn + ((drawn >= ranks) & (excluded > 0))  # step over the positive
