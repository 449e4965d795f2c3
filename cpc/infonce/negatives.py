"""Which latents may be negatives of which anchor: a rule over what is known about the utterances.

A batch holds B sequences (windows) of T latents. For step k, the anchor (b, t) predicts the positive (b, t + k). A rule
names the columns in which a negative's sequence b' must agree with b, those in which it must differ, and how far a
negative from the anchor's own utterance may lie from the positive. The negatives are the valid latents (b', t') of all
sequences b' that the rule admits, except the positive. Five rules have names:

    mixed_speaker                                               every sequence of the batch
    same_speaker         same speaker                           the sequences of the anchor's speaker
    mixed_speaker_excl                    different utterance   every sequence except those of the anchor's utterance
    same_speaker_excl    same speaker,    different utterance   both
    current_sequence     same utterance                         the sequences of the anchor's utterance

Windows of one utterance count as one sequence. Frames past the end of a padded window are in no set.

Source: van den Oord et al. 2018, Table 2 ("excl." excludes the current sequence from the negatives).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cpc.config import CriterionConfig, NegativeSet, Scheme

BoundKind = Literal["I(x;c)", "conditional", "none"]
_LEAST_TO_MOST: tuple[BoundKind, ...] = ("none", "conditional", "I(x;c)")


DIRECTION = "(direction)"  # column that tells windows from their reversals; not a column of a manifest


class NegativesError(ValueError):
    """A batch in which some anchor has no negative, or some step no anchor; or a rule that cannot be used."""


@dataclass(frozen=True)
class Rule:
    """Which latents are negatives of an anchor.

    Attributes:
        same: columns in which a negative's sequence agrees with the anchor's.
        different: columns in which it differs. Every column has one value an utterance, so any of them excludes the
            anchor's own utterance.
        min_distance: least distance in frames between a negative and the positive, where both are of one utterance.
        max_distance: greatest such distance; 0 sets no limit.
    """

    same: tuple[str, ...] = ()
    different: tuple[str, ...] = ()
    min_distance: int = 0
    max_distance: int = 0

    @classmethod
    def of(cls, negatives: NegativeSet | Scheme) -> Rule:
        """Return the rule of a configured set of negatives, or of one of the five names."""
        if isinstance(negatives, str):
            negatives = NegativeSet(scheme=negatives)
        same, different = negatives.same, negatives.different
        if negatives.scheme != "rule":
            if negatives.scheme not in RULES:
                raise NegativesError(f"negatives: got scheme {negatives.scheme!r}, allowed: {', '.join(RULES)}")
            same, different = RULES[negatives.scheme]
        return cls(same, different, negatives.min_distance, negatives.max_distance)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the rule reads."""
        return tuple(dict.fromkeys(self.same + self.different))

    @property
    def within_utterance(self) -> bool:
        """Whether the frames of the anchor's own utterance are candidates."""
        return not self.different

    def __str__(self) -> str:
        """Name the rule: one of the five names, or its columns; then its distances."""
        columns = (tuple(name for name in self.same if name != DIRECTION), self.different)
        name = next((name for name, rule in RULES.items() if rule == columns), "")
        if not name:
            kinds = zip(("same", "different"), columns, strict=True)
            parts = [f"{kind}_{'_'.join(names)}" for kind, names in kinds if names]
            name = "_".join(parts)
        if self.min_distance:
            name += f"_from_{self.min_distance}"
        return name + (f"_to_{self.max_distance}" if self.max_distance else "")


RULES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # name: (same, different)
    "mixed_speaker": ((), ()),
    "same_speaker": (("speaker",), ()),
    "mixed_speaker_excl": ((), ("utterance",)),
    "same_speaker_excl": (("speaker",), ("utterance",)),
    "current_sequence": (("utterance",), ()),
}


def name_sets(criterion: CriterionConfig) -> dict[str, NegativeSet]:
    """Name the sets of negatives of a run after their rules; a rule's second set gets its number as well."""
    named: dict[str, NegativeSet] = {}
    for negative_set in criterion.sets:
        name = str(Rule.of(negative_set))
        named[name if name not in named else f"{name}_{len(named) + 1}"] = negative_set
    return named


def bound_kind(rules: Sequence[Rule], batches: str) -> BoundKind:
    """Say what log N − L bounds from below.

    The bound needs negatives that are independent of the context, drawn from the marginal p(x) as training draws
    windows. The weighted mean over several sets bounds no more than the weakest of them.

    - "I(x;c)": no candidate is a frame that c has seen, and any utterance of any speaker can be drawn
      (mixed_speaker_excl in mixed batches).
    - "conditional": no candidate is a frame that c has seen, but the rule or the batch ties the candidates to the
      anchor, for example to its speaker. The bound is on the information conditional on that.
    - "none": the candidates include frames of the anchor's own utterance. c has seen some of them and can rule them
      out, so log N − L is above 0 even for white noise, where x and c share nothing (tests/test_infonce.py).
    """

    def kind(rule: Rule) -> BoundKind:
        if rule.within_utterance:
            return "none"
        return "I(x;c)" if rule == Rule.of("mixed_speaker_excl") and batches == "mixed" else "conditional"

    return min((kind(rule) for rule in rules), key=_LEAST_TO_MOST.index)


@dataclass(frozen=True)
class Negatives:
    """The negatives of one batch.

    The sequences form groups that agree in the rule's columns `same`. An anchor's negatives are latents of its own
    group; the rule's columns `different` and its distances leave some of them out.

    Attributes:
        rule: which latents are negatives.
        groups: a partition of the batch's sequences (rows).
        codes: (B,) integer values of each known column; "utterance" is always present.
        num_frames: (B,) valid frames of each sequence.
        first_frame: (B,) position of each sequence's frame 0 in its utterance, in frames.
        num_negatives: negatives drawn for each anchor and step, uniformly and with replacement from its set; 0 takes
            the whole set.
        seed: seed of the draw.
        labels: (B, T) integer class of each frame, negative where it is unknown; None if no frame has one. They select
            nothing: `infonce` counts how many negatives have the positive's class.
    """

    rule: Rule
    groups: list[list[int]]
    codes: Mapping[str, list[int]]
    num_frames: list[int]
    first_frame: list[float]
    num_negatives: int
    seed: int
    labels: Tensor | None = None

    @classmethod
    def of(
        cls,
        rule: Rule | Scheme,
        num_frames: Sequence[int],
        columns: Mapping[str, Sequence[int]] | None = None,
        *,
        first_frame: Sequence[float] = (),
        num_negatives: int = 0,
        seed: int = 0,
    ) -> Negatives:
        """Determine the negatives that a rule admits in a batch of B sequences.

        Args:
            rule: the rule, or one of the five names.
            num_frames: (B,) valid frames of each sequence; frames at or after this are padding.
            columns: (B,) integer values of each column that the rule reads, such as "speaker". Sequences with one value
                of "utterance" are windows of one utterance; without this column each is an utterance of its own.
            first_frame: (B,) position of each sequence's frame 0 in its utterance, in frames; 0 by default. Distances
                between several windows of one utterance need it.
            num_negatives: number to draw for each anchor and step; 0 takes all.
            seed: seed of the draw.

        Raises:
            NegativesError: a sequence has anchors but no negative, a column of the rule is not known, or a column has
                not one value for each sequence.
        """
        rule = rule if isinstance(rule, Rule) else Rule.of(rule)
        columns = {"utterance": range(len(num_frames)), **(columns or {})}
        codes = {name: [int(value) for value in values] for name, values in columns.items()}
        for name, values in codes.items():
            if len(values) != len(num_frames):
                raise NegativesError(f"column {name}: got {len(values)} values for {len(num_frames)} sequences")
        if unknown := [name for name in rule.columns if name not in codes]:
            raise NegativesError(f"negatives {rule}: no column {unknown[0]} in the batch; there are {', '.join(codes)}")
        groups: dict[tuple[int, ...], list[int]] = {}
        for b in range(len(num_frames)):
            groups.setdefault(tuple(codes[name][b] for name in rule.same), []).append(b)
        starts = list(first_frame) or [0.0] * len(num_frames)
        negatives = cls(rule, list(groups.values()), codes, list(num_frames), starts, num_negatives, seed)
        negatives._refuse_anchors_alone()
        return negatives

    @property
    def includes_positive(self) -> bool:
        """Whether the positive is among the candidates that the rule admits."""
        return self.rule.within_utterance

    def admitted(self, rows: list[int], longest: int) -> Tensor:
        """Determine the latents of a group that the anchors of each of its sequences are scored against.

        The rule's distances are not considered: they depend on the anchor's frame.

        Args:
            rows: one of `groups`.
            longest: T, frames of every sequence including padding.

        Returns:
            (R, R · T) bool: [i, j · T + t] is true if latent (rows[j], t) is a candidate of the anchors in rows[i]. If
            the rule admits the anchor's utterance, they include each anchor's own positive.
        """
        num_frames = torch.tensor([self.num_frames[b] for b in rows])
        valid = torch.arange(longest) < num_frames[:, None]  # (R, T)
        source = torch.ones(len(rows), len(rows), dtype=torch.bool)
        for name in self.rule.different:
            source &= ~self.agree(rows, name)
        return (source[:, :, None] & valid).flatten(1)

    def agree(self, rows: list[int], column: str) -> Tensor:
        """Compare each two sequences of a group by a column: (R, R) bool."""
        code = torch.tensor([self.codes[column][b] for b in rows])
        return code[:, None] == code

    def generator(self, device: torch.device) -> torch.Generator:
        """Return the random generator of the draw, at its start."""
        return torch.Generator(device).manual_seed(self.seed)

    def _refuse_anchors_alone(self) -> None:
        """Refuse a batch in which an anchor has no negative."""
        rule = self.rule
        for rows in self.groups:
            others = ~self.agree(rows, "utterance")
            for name in rule.different:
                others &= ~self.agree(rows, name)
            frames = torch.tensor([self.num_frames[b] for b in rows])
            # The frame in the middle is the nearest to all others: num_frames // 2 frames away from the farthest.
            own = (frames // 2 >= max(1, rule.min_distance)) & rule.within_utterance
            alone = (frames >= 2) & ~(others & (frames > 0)).any(1) & ~own  # with one frame there is no anchor
            if alone.any():
                num_windows = len(self.num_frames) // len(set(self.codes.get(DIRECTION, [0])))
                names = [name for name in self.codes if name in ("utterance", *rule.columns) and name != DIRECTION]
                counts = [f"{len(set(self.codes[name]))} {name}s" for name in names]
                raise NegativesError(
                    f"negatives {rule}: in a batch of {num_windows} windows, of {' and '.join(counts)}, "
                    f"window {rows[int(alone.int().argmax())] % num_windows} has an anchor without negatives; "
                    f"{_way_out(rule)}"
                )


def _way_out(rule: Rule) -> str:
    if rule.min_distance > 1:
        return f"use longer windows, or a min_distance below {rule.min_distance}"
    if rule.different and "speaker" in rule.same:
        return "use batches with several utterances of each speaker: --batches.kind by_speaker"
    if {"speaker", "utterance"} & set(rule.different):
        return "use batches of several utterances: --batches.kind mixed or by_speaker"
    if rule.different:
        return f"use batches with several {rule.different[0]}s"
    return "use longer windows" if "utterance" in rule.same else "use larger batches"


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
