"""Which latents may be negatives of which anchor: five schemes, each an exact set of indices.

A batch holds B sequences (windows) of T latents. For step k, the anchor (b, t) predicts the positive (b, t + k). Its
negatives are the valid latents (b', t') of all sequences b' that the scheme admits, except the positive:

    mixed_speaker         every sequence of the batch
    same_speaker          the sequences of the anchor's speaker
    mixed_speaker_excl    every sequence except those of the anchor's utterance
    same_speaker_excl     the sequences of the anchor's speaker except those of the anchor's utterance
    current_sequence      the sequences of the anchor's utterance

Windows of one utterance count as one sequence. Frames past the end of a padded window are in no set.

Source: van den Oord et al. 2018, Table 2 ("excl." excludes the current sequence from the negatives).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cpc.config import Scheme

BoundKind = Literal["I(x;c)", "conditional", "none"]


class NegativesError(ValueError):
    """A batch in which some anchor has no negative, or some step no anchor."""


def bound_kind(scheme: Scheme, batches: str) -> BoundKind:
    """Say what log N − L bounds from below.

    The bound needs negatives that are independent of the context, drawn from the marginal p(x) as training draws
    windows.

    - "I(x;c)": no candidate is a frame that c has seen, and any utterance of any speaker can be drawn
      (mixed_speaker_excl in mixed batches).
    - "conditional": no candidate is a frame that c has seen, but all share the anchor's speaker, or the batch is
    grouped;
      the bound is on the information conditional on what they share.
    - "none": the candidates include frames of the anchor's own utterance. c has seen some of them and can rule them
    out,
      so log N − L is above 0 even for white noise, where x and c share nothing (tests/test_infonce.py).
    """
    if not scheme.endswith("_excl"):
        return "none"
    return "I(x;c)" if scheme == "mixed_speaker_excl" and batches == "mixed" else "conditional"


@dataclass(frozen=True)
class Negatives:
    """The negatives of one batch.

    The sequences form groups: the whole batch, the sequences of one speaker, or those of one utterance. An anchor's
    negatives are the valid latents of its own group; the schemes with "excl" leave out those of its utterance.

    Attributes:
        groups: a partition of the batch's sequences (rows).
        utterance: (B,) integer identity of each sequence's utterance.
        excludes_utterance: whether the anchor's utterance, and with it the positive, is left out.
        num_frames: (B,) valid frames of each sequence.
        num_negatives: negatives drawn for each anchor and step, uniformly and with replacement from its set; 0 takes
            the whole set.
        seed: seed of the draw.
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
        """Determine the negatives that `scheme` admits in a batch of B sequences.

        Args:
            scheme: name of the scheme.
            speaker: (B,) integer identity of each sequence's speaker.
            utterance: (B,) integer identity of each sequence's utterance.
            num_frames: (B,) valid frames of each sequence; frames at or after this are padding.
            num_negatives: number to draw for each anchor and step; 0 takes all.
            seed: seed of the draw.

        Raises:
            NegativesError: a sequence has anchors but no negative.
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
        """Determine the latents of a group that the anchors of each of its sequences are scored against.

        Args:
            rows: one of `groups`.
            longest: T, frames of every sequence including padding.

        Returns:
            (R, R · T) bool: [i, j · T + t] is true if latent (rows[j], t) is a candidate of the anchors in rows[i]. In
            the schemes without "excl", they include each anchor's own positive.
        """
        num_frames = torch.tensor([self.num_frames[b] for b in rows])
        valid = torch.arange(longest) < num_frames[:, None]  # (R, T)
        utterance = torch.tensor([self.utterance[b] for b in rows])
        source = torch.ones(len(rows), len(rows), dtype=torch.bool)
        if self.excludes_utterance:
            source = utterance[:, None] != utterance
        return (source[:, :, None] & valid).flatten(1)

    def generator(self, device: torch.device) -> torch.Generator:
        """Return the random generator of the draw, at its start."""
        return torch.Generator(device).manual_seed(self.seed)


_WAY_OUT: dict[str, str] = {
    "mixed_speaker": "use larger batches",
    "same_speaker": "use larger batches",
    "mixed_speaker_excl": "use batches of several utterances: --batches.kind mixed or by_speaker",
    "same_speaker_excl": "use batches with several utterances of each speaker: --batches.kind by_speaker",
    "current_sequence": "use longer windows",
}


def draw(ranks: Tensor, num_candidates: Tensor, num_negatives: int, generator: torch.Generator) -> Tensor:
    """Draw negatives uniformly and with replacement from all candidates except the positive.

    Args:
        ranks: (…, A, 1) place of each anchor's positive among its candidates; −1 if it is not among them.
        num_candidates: (…, A, 1) M, including the positive where it is among them.
        num_negatives: n, number to draw for each anchor.
        generator: source of randomness.

    Returns:
        (…, A, n) places among the candidates, none of which is the anchor's positive.
    """
    excluded = (ranks >= 0).to(torch.int64)
    shape = (*ranks.shape[:-1], num_negatives)
    drawn = torch.randint(2**62, shape, generator=generator, device=ranks.device) % (num_candidates - excluded)
    return drawn + ((drawn >= ranks) & (excluded > 0))  # step over the positive
