"""Which windows share a batch: any mix, by speaker or by utterance; a pure function of (seed, epoch).

A scheme of negatives can only use what the batch holds: negatives of the same speaker but another utterance need
batches of several windows of each speaker.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cpc.data.windows import Windows

Composition = Literal["mixed", "by_speaker", "by_utterance"]


class BatchError(ValueError):
    """A manifest that cannot fill one batch of the wanted composition."""


def epoch_batches(
    windows: Windows,
    epoch: int,
    *,
    kind: Composition,
    num_windows: int,
    windows_per_group: int = 1,
    seed: int = 0,
    shrink: bool = False,
    several_utterances: bool = False,
) -> list[NDArray[np.int64]]:
    """Deal the windows of an epoch into batches of equal size; the rest waits for another epoch's shuffle.

    Args:
        windows: what is dealt.
        epoch: number of the epoch.
        kind: "mixed": any windows; "by_speaker": num_windows / windows_per_group different speakers, with
            windows_per_group windows each, from as many of their utterances as there are; "by_utterance": the
            same with utterances.
        num_windows: B, windows in a batch.
        windows_per_group: windows of one speaker or utterance in a batch.
        seed: of the shuffle.
        shrink: make batches smaller where the windows do not fill one (for small dev sets).
        several_utterances: with "by_speaker", also pass over speakers of one utterance: without it, a group of theirs
            comes from that utterance alone, and under same_speaker_excl it would have no negative.

    Returns:
        Batches, each (B,) indices of windows.

    Raises:
        BatchError: if not one batch can be filled.
    """
    rng = np.random.default_rng([seed, epoch, 1])  # 1: apart from the windows' offsets, drawn from (seed, epoch)
    if kind == "mixed":
        order = rng.permutation(len(windows))
        size = min(num_windows, len(order)) if shrink else num_windows
        batches = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
        if not batches:
            raise BatchError(
                f"{len(windows)} windows do not fill one batch of {num_windows}; pass a smaller "
                "--batches.num-windows, or more audio"
            )
        return batches

    key = windows.speaker if kind == "by_speaker" else windows.utterance
    noun = kind.removeprefix("by_")
    if num_windows % windows_per_group:
        raise BatchError(
            f"batches {kind}: {num_windows} windows do not divide into groups of {windows_per_group}; choose "
            "--batches.num-windows as a multiple of --batches.windows-per-group"
        )
    groups_per_batch = num_windows // windows_per_group
    if shrink:
        sizes = np.bincount(key)
        windows_per_group = min(windows_per_group, int(sizes.max()))
    groups = _groups(key, windows.utterance, windows_per_group, rng, several_utterances=several_utterances)
    num_keys = len({int(key[group[0]]) for group in groups})
    if shrink and num_keys:
        groups_per_batch = min(groups_per_batch, num_keys)
    if num_keys < groups_per_batch:
        of_several = " of several utterances" if several_utterances else ""
        raise BatchError(
            f"batches {kind}: {num_keys} {noun}s have {windows_per_group} windows or more{of_several}, a batch of "
            f"{num_windows} needs {groups_per_batch}; pass a smaller --batches.num-windows or another "
            "--batches.windows-per-group"
        )
    return list(_pack(groups, key, groups_per_batch))


def num_left_out(
    windows: Windows, kind: Composition, windows_per_group: int, *, several_utterances: bool = False
) -> int:
    """Windows that no epoch can draw: those of speakers or utterances with fewer than a group's worth."""
    if kind == "mixed":
        return 0
    key = windows.speaker if kind == "by_speaker" else windows.utterance
    sizes, too_few = np.bincount(key), np.bincount(key) < windows_per_group
    if several_utterances:
        pairs = np.unique(np.stack([key, windows.utterance]), axis=1)
        too_few |= np.bincount(pairs[0], minlength=len(sizes)) < 2
    return int(sizes[too_few].sum())


def _groups(
    key: NDArray[np.int64],
    utterance: NDArray[np.int64],
    size: int,
    rng: np.random.Generator,
    *,
    several_utterances: bool,
) -> list[NDArray[np.int64]]:
    """Cut each key's windows into groups, spread evenly over the epoch."""
    order = rng.permutation(len(key))
    order = order[np.argsort(key[order], kind="stable")]
    groups, positions = [], []
    for members in np.split(order, np.flatnonzero(np.diff(key[order])) + 1):
        own = _alternate(members, utterance, size, several_utterances=several_utterances)
        groups += own
        positions += list((np.arange(len(own)) + rng.random()) / max(1, len(own)))
    return [groups[i] for i in np.argsort(positions, kind="stable")]


def _alternate(
    members: NDArray[np.int64], utterance: NDArray[np.int64], size: int, *, several_utterances: bool
) -> list[NDArray[np.int64]]:
    """Groups of `size` windows from as many utterances as there are, the fullest utterances first.

    What an utterance has left when all others are used up would make groups of it alone, in which
    same_speaker_excl finds nothing: unless it is the only one, that rest waits for another epoch.
    """
    piles: dict[int, list[int]] = {}
    for window in members:
        piles.setdefault(int(utterance[window]), []).append(int(window))
    is_only = len(piles) == 1 and not several_utterances
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
        if is_only or (size == 1 and not several_utterances) or len(set(utterance[group])) > 1:
            groups.append(group)
    return groups


def _pack(groups: list[NDArray[np.int64]], key: NDArray[np.int64], per_batch: int) -> Iterator[NDArray[np.int64]]:
    """Fill batches with groups of different keys, in order; a group whose key is there already waits."""
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
    # What is left could only repeat a key within a batch: it waits for another epoch.


class BatchSampler:
    """The batches of updates first … last − 1, as lists of (epoch, index): pure in (seed, update, rank).

    An update takes a batch for each rank, so no two ranks see the same windows in an epoch.

    Args:
        windows: what is dealt.
        first: first update.
        last: one past the last update.
        rank: of this process; the others pass over its batches.
        num_ranks: processes that share the batches.
        **composition: as for `epoch_batches`.
    """

    def __init__(
        self, windows: Windows, first: int, last: int, *, kind: Composition, num_windows: int, windows_per_group: int,
        seed: int, several_utterances: bool = False, rank: int = 0, num_ranks: int = 1,
    ) -> None:  # fmt: skip
        self.rank, self.num_ranks = rank, num_ranks
        self.windows, self.first, self.last = windows, first, last
        self.kind, self.num_windows, self.windows_per_group = kind, num_windows, windows_per_group
        self.seed, self.several_utterances = seed, several_utterances

    def __len__(self) -> int:
        """Batches to come."""
        return self.last - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Deal epoch after epoch, passing over the batches before `first`."""
        number, epoch = 0, 0  # of the batch, over all ranks
        while number < self.last * self.num_ranks:
            batches = epoch_batches(
                self.windows, epoch, kind=self.kind, num_windows=self.num_windows,
                windows_per_group=self.windows_per_group, seed=self.seed, several_utterances=self.several_utterances,
            )  # fmt: skip
            for batch in batches:
                update, rank = divmod(number, self.num_ranks)
                if self.first <= update < self.last and rank == self.rank:
                    yield [(epoch, int(index)) for index in batch]
                number += 1
            epoch += 1
