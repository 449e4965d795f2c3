"""Sound files that cannot be read: up to 1 % are left out, named and counted; more are an error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from cpc.data.audio import AudioError

MAX_SHARE = 0.01  # with more, something else is wrong than single files
_SHOWN = 10


def tolerated(total: int) -> int:
    """Return how many of some files, or updates, may be left out: 1 %, and at least one."""
    return max(1, int(MAX_SHARE * total))


@dataclass
class BadAudio:
    """The files that were left out of some work.

    Attributes:
        num_files: of which so many.
        errors: what is wrong with each; every error names its file.
    """

    num_files: int
    errors: list[str] = field(default_factory=list)

    def add(self, errors: Iterable[str]) -> list[str]:
        """Add files that could not be read.

        Returns:
            Those that are new.

        Raises:
            AudioError: there are more than 1 % of all, and more than one.
        """
        new = [error for error in dict.fromkeys(errors) if error not in self.errors]
        self.errors += new
        limit = tolerated(self.num_files)
        if len(self.errors) > limit:
            raise AudioError(
                f"{len(self.errors)} of {self.num_files} sound files cannot be read, at most {limit} are left out; the "
                f"last: {self.errors[-1]}"
            )
        return new

    def __str__(self) -> str:
        """List the files in one line each; empty if there are none."""
        if not self.errors:
            return ""
        more = [f"  and {len(self.errors) - _SHOWN} more"] if len(self.errors) > _SHOWN else []
        lines = [f"  {error}" for error in self.errors[:_SHOWN]] + more
        return "\n".join([f"left out: {len(self.errors)} of {self.num_files} sound files that cannot be read", *lines])
