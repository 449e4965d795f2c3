"""Which windows share a batch: any mix, or groups by speaker or by utterance. A pure function of (seed, epoch).

A scheme of negatives can only use what the batch holds: negatives of the same speaker but another utterance need
batches with several windows of each speaker.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cpc.data.windows import Windows

Kind = Literal["mixed", "by_speaker", "by_utterance"]


class BatchError(ValueError):
    """A composition that contradicts itself, or that the windows cannot fill once."""


@dataclass(frozen=True)
class Composition:
    """The composition of a batch.

    Attributes:
        kind: "mixed" takes any windows; "by_speaker" takes num_windows / windows_per_group different speakers and
            windows_per_group windows of each, from as many of the speaker's utterances as possible; "by_utterance" does
            the same with utterances.
        num_windows: B, windows in a batch.
        windows_per_group: windows of one speaker or utterance in a batch; ignored with "mixed".
        seed: seed of the shuffle, 0 or more.
        several_utterances: require every group of "by_speaker" to span two utterances or more, and so leave out
            speakers of one utterance. Without it such a speaker's groups come from that utterance alone, and
            same_speaker_excl finds no negative in them.

    Raises:
        BatchError: num_windows is not a multiple of windows_per_group.
    """

    kind: Kind
    num_windows: int
    windows_per_group: int = 1
    seed: int = 0
    several_utterances: bool = False

    def __post_init__(self) -> None:
        if self.kind != "mixed" and self.num_windows % self.windows_per_group:
            raise BatchError(
                f"batches {self.kind}: {self.num_windows} windows do not divide into groups of "
                f"{self.windows_per_group}; choose --batches.num-windows as a multiple of --batches.windows-per-group"
            )


@dataclass(frozen=True)
class LeftOut:
    """How many windows the batches leave out.

    Attributes:
        composition: what a batch holds.
        num_windows: windows of an epoch.
        never: windows that no epoch draws: their speaker or utterance has too few of them to fill a group, or their
            speaker has only one utterance where every group needs several.
        first_epoch: windows that epoch 0 does not draw, including `never`. Another epoch leaves out about as many, but
            not the same ones.
        most: the speaker or utterance that loses most windows in epoch 0, such as "speaker 103"; "" if nothing is left
            out or the batches are mixed.
        num_most: windows of `most` that epoch 0 does not draw.
    """

    composition: Composition
    num_windows: int
    never: int = 0
    first_epoch: int = 0
    most: str = ""
    num_most: int = 0

    def __str__(self) -> str:
        """Describe it in one line."""
        text = f"epoch 0 draws {self.num_windows - self.first_epoch} of {self.num_windows} windows"
        if self.most:
            text += f"; {self.most} loses the most, {self.num_most}"
        if self.never:
            text += (
                f"; {self.never} windows are never drawn: their {self.composition.kind.removeprefix('by_')} has fewer "
                f"than batches.windows_per_group = {self.composition.windows_per_group} windows"
            )
            text += " or only one utterance" if self.composition.several_utterances else ""
        return text


def epoch_batches(
    windows: Windows, epoch: int, composition: Composition, *, shrink: bool = False
) -> list[NDArray[np.int64]]:
    """Deal the windows of an epoch into batches of equal size.

    Windows that fill no further batch are left out of this epoch; the next epoch shuffles anew. With groups that can be
    most of a speaker who has far more windows than the others, since a batch holds one group of each speaker
    (`count_left_out`).

    Args:
        windows: the windows to deal.
        epoch: number of the epoch, from 0.
        composition: what a batch holds.
        shrink: make batches smaller where the windows do not fill one (for small dev splits).

    Returns:
        Batches, each (B,) indices of windows.

    Raises:
        BatchError: the windows do not fill one batch.
    """
    if shrink:
        composition = _shrunk(windows, composition)
    # The 1 keeps this generator apart from that of the windows' offsets, which is seeded by (seed, epoch).
    rng = np.random.default_rng([composition.seed, epoch, 1])
    kind, num_windows, per_group = composition.kind, composition.num_windows, composition.windows_per_group
    if kind == "mixed":
        if len(windows) < num_windows:
            raise BatchError(
                f"{len(windows)} windows do not fill one batch of {num_windows}; pass a smaller "
                "--batches.num-windows, or more audio"
            )
        order = rng.permutation(len(windows))
        return [order[i : i + num_windows] for i in range(0, len(order) - num_windows + 1, num_windows)]
    groups_per_batch = num_windows // per_group
    num_keys = int(_can_fill_a_group(windows, composition).sum())
    if num_keys < groups_per_batch:
        noun, several = kind.removeprefix("by_"), " of several utterances" if composition.several_utterances else ""
        raise BatchError(
            f"batches {kind}: {num_keys} {noun}s have {per_group} windows or more{several}, a batch of {num_windows} "
            f"needs {groups_per_batch}; pass a smaller --batches.num-windows or another --batches.windows-per-group"
        )
    return list(_pack(_groups(windows, composition, rng), _keys(windows, kind), groups_per_batch))


def count_left_out(windows: Windows, composition: Composition, *, shrink: bool = False) -> LeftOut:
    """Count the windows that no epoch draws and those that epoch 0 does not draw.

    Args:
        windows: the windows to deal.
        composition: what a batch holds.
        shrink: as for `epoch_batches`.

    Raises:
        BatchError: the windows do not fill one batch.
    """
    if shrink:
        composition = _shrunk(windows, composition)
    left = np.ones(len(windows), bool)
    left[np.concatenate(epoch_batches(windows, 0, composition))] = False
    result = LeftOut(composition, len(windows), first_epoch=int(left.sum()))
    if composition.kind == "mixed" or not left.any():
        return result
    key = _keys(windows, composition.kind)
    never = int(np.bincount(key)[~_can_fill_a_group(windows, composition)].sum())
    left_of_key = np.bincount(key[left])
    worst = int(left_of_key.argmax())
    row = int(windows.utterance[key == worst][0])
    noun = composition.kind.removeprefix("by_")
    return replace(
        result,
        never=never,
        most=f"{noun} {windows.manifest.column(noun)[row]}",
        num_most=int(left_of_key[worst]),
    )


def _keys(windows: Windows, kind: Kind) -> NDArray[np.int64]:
    """What each window is grouped by: (num windows,) integers."""
    return windows.speaker if kind == "by_speaker" else windows.utterance


def _can_fill_a_group(windows: Windows, composition: Composition) -> NDArray[np.bool_]:
    """Whether each key's windows fill at least one group: (num keys,)."""
    key, size = _keys(windows, composition.kind), composition.windows_per_group
    sizes = np.bincount(key)
    enough: NDArray[np.bool_] = sizes >= size
    if composition.several_utterances:
        pairs = np.unique(np.stack([key, windows.utterance]), axis=1)
        enough = enough & (size > 1) & (np.bincount(pairs[0], minlength=len(sizes)) > 1)
    return enough


def _shrunk(windows: Windows, composition: Composition) -> Composition:
    """Reduce the size of groups, and the number of them in a batch, to what the windows can fill."""
    if composition.kind == "mixed":
        return replace(composition, num_windows=min(composition.num_windows, len(windows)))
    groups = composition.num_windows // composition.windows_per_group
    size = min(composition.windows_per_group, int(np.bincount(_keys(windows, composition.kind)).max()))
    smaller = replace(composition, num_windows=groups * size, windows_per_group=size)
    num_keys = int(_can_fill_a_group(windows, smaller).sum())
    return replace(smaller, num_windows=min(groups, num_keys or groups) * size)


def _groups(windows: Windows, composition: Composition, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Cut each key's windows into groups, spread evenly over the epoch."""
    key = _keys(windows, composition.kind)
    order = rng.permutation(len(key))
    order = order[np.argsort(key[order], kind="stable")]
    groups, positions = [], []
    for members in np.split(order, np.flatnonzero(np.diff(key[order])) + 1):
        own = _alternate(members, windows.utterance, composition)
        groups += own
        positions += list((np.arange(len(own)) + rng.random()) / max(1, len(own)))
    return [groups[i] for i in np.argsort(positions, kind="stable")]


def _alternate(
    members: NDArray[np.int64], utterance: NDArray[np.int64], composition: Composition
) -> list[NDArray[np.int64]]:
    """Form groups of windows from as many utterances as possible, the fullest utterances first.

    What an utterance has left when all others are used up would form groups of that utterance alone, in which
    same_speaker_excl finds no negative. Unless it is the only utterance, this rest waits for another epoch.
    """
    size, several = composition.windows_per_group, composition.several_utterances
    piles: dict[int, list[int]] = {}
    for window in members:
        piles.setdefault(int(utterance[window]), []).append(int(window))
    is_only = len(piles) == 1 and not several
    left = [(-len(pile), i, pile) for i, pile in enumerate(piles.values())]
    heapq.heapify(left)
    groups = []
    for _ in range(len(members) // size):
        taken: list[int] = []
        while len(taken) < size and left:
            turn = [heapq.heappop(left) for _ in range(min(size - len(taken), len(left)))]
            for _, i, pile in turn:
                taken.append(pile.pop())
                if pile:
                    heapq.heappush(left, (-len(pile), i, pile))
        group = np.array(taken)
        if is_only or (size == 1 and not several) or len(set(utterance[group])) > 1:
            groups.append(group)
    return groups


def _pack(groups: list[NDArray[np.int64]], key: NDArray[np.int64], per_batch: int) -> Iterator[NDArray[np.int64]]:
    """Fill batches with groups of different keys, in order; a group whose key the batch already has waits."""
    waiting: dict[int, deque[NDArray[np.int64]]] = {}
    batch: dict[int, NDArray[np.int64]] = {}
    for group in groups:
        owner = int(key[group[0]])
        if owner in batch:
            waiting.setdefault(owner, deque()).append(group)
            continue
        batch[owner] = group
        while len(batch) == per_batch:
            yield np.concatenate(list(batch.values()))
            batch = {owner: waiting[owner].popleft() for owner in list(waiting)[:per_batch]}
            waiting = {owner: groups for owner, groups in waiting.items() if groups}
    # The groups that are left could only repeat a key within a batch; they wait for another epoch.


class BatchSampler:
    """The batches of updates first … last − 1, as lists of (epoch, index). A pure function of (seed, update, rank).

    An update takes `accumulate` batches for each rank, so no two ranks see the same windows in an epoch.

    Args:
        windows: the windows to deal.
        composition: what a batch holds.
        first: first update.
        last: one past the last update.
        rank: rank of this process, which skips the other ranks' batches.
        num_ranks: number of processes that share the batches.
        accumulate: batches of each rank in an update.
    """

    def __init__(
        self,
        windows: Windows,
        composition: Composition,
        first: int,
        last: int,
        *,
        rank: int = 0,
        num_ranks: int = 1,
        accumulate: int = 1,
    ) -> None:
        self.windows, self.composition = windows, composition
        self.first, self.last, self.rank, self.num_ranks, self.accumulate = first, last, rank, num_ranks, accumulate

    def __len__(self) -> int:
        """Count the batches."""
        return (self.last - self.first) * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Deal epoch after epoch, skipping the batches before `first`."""
        number, epoch = 0, 0  # `number` counts batches over all ranks
        of_update = self.num_ranks * self.accumulate
        while number < self.last * of_update:
            for batch in epoch_batches(self.windows, epoch, self.composition):
                update, place = divmod(number, of_update)
                if self.first <= update < self.last and place // self.accumulate == self.rank:
                    yield [(epoch, int(index)) for index in batch]
                number += 1
            epoch += 1
