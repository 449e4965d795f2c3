"""What made the results of a page: those of other runs and corpora are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cpc.config import config_digest, read_config

if TYPE_CHECKING:
    from cpc.features import Features
    from cpc.probes import AbxResult, Regression, Result

    AnyResult = Result | Regression | AbxResult


@dataclass(frozen=True)
class Expected:
    """What the results of a run's page may come from.

    Attributes:
        run: the run folder.
        runs: digests of the settings of the run and of its toplines.
        frames: the page's features of c, if there are any: their corpus is that of the page.
    """

    run: Path
    runs: frozenset[str]
    frames: Features | None = field(repr=False)

    @classmethod
    def of(cls, run: Path, frames: Features | None) -> Expected:
        """Read what a run folder says about itself."""
        configs = [run / "config.toml", *sorted(run.glob("topline/*/config.toml"))]
        return cls(run, frozenset(config_digest(read_config(path)) for path in configs), frames)

    def refusal(self, result: AnyResult) -> str:
        """Say why a result does not belong on the page; empty if it does, or if it does not say what made it."""
        origin, frames = result.features, self.frames
        if origin.run_identity is not None and origin.run_identity not in self.runs:
            return f"of another run, {origin.run or 'an untrained one'}"
        if frames is None:
            return ""
        has_own_items = result.evaluate is None  # those of an item file, which names its own utterances
        if origin.corpus is not None and origin.corpus != frames.corpus and not has_own_items:
            return f"of another corpus than {frames.folder}"
        is_of_run = origin.run_identity is not None and origin.run_identity == frames.meta.get("run_identity")
        is_like = is_of_run and origin.source.startswith(frames.source)
        # z, c and what is derived from them: their identities begin with that of the weights.
        weights, identity = frames.meta.get("identity"), origin.identity
        if is_like and weights and identity and not identity.startswith(weights):
            return f"of other weights than {frames.folder}, as before the run was extended, or of another precision"
        return ""


def refuse_foreign_results(
    results: Mapping[str, AnyResult], expected: Expected, folder: Path
) -> tuple[set[str], list[str]]:
    """Find the results that belong to another run or corpus.

    Args:
        results: by file name without suffix.
        expected: what they may come from.
        folder: where their files lie.

    Returns:
        Names of the results that are refused, and one line for each of them.
    """
    reasons = {name: reason for name, result in results.items() if (reason := expected.refusal(result))}
    way_out = f"this page is of {expected.run}; move the file, or pass another --probes"
    return set(reasons), [f"{folder / name}.json: {reason}; {way_out}" for name, reason in reasons.items()]


def without_provenance(results: Mapping[str, AnyResult]) -> int:
    """Count the results of earlier versions, which do not say what made them."""
    return sum(result.features.corpus is None for result in results.values())


def list_versions(versions: Mapping[str, str]) -> str:
    """Format versions of packages in one line."""
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or "unknown versions"


def code_of(results: Mapping[str, AnyResult]) -> list[str]:
    """List the different versions and commits of code that computed the results, one line each."""
    return sorted({list_versions(result.versions) for result in results.values() if result.versions})
