"""Findings about a run: what was measured, and what to try if something is wrong; RUN/doctor.json holds them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cpc.files import write_json
from cpc.report.figures import ReportError

FINDINGS_FILE = "doctor.json"

Level = Literal["broken", "warning", "ok"]
LEVELS: tuple[Level, ...] = ("broken", "warning", "ok")  # in the order in which findings are shown


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str
    """What was checked."""
    level: Level
    """ok: no fault was found. warning: the result may be worse than it could be. broken: the run has learned nothing,
    or something useless."""
    message: str
    """What was measured; and, unless the level is ok, what usually causes it and what to try."""
    measured: Mapping[str, float] = field(default_factory=dict)
    """The numbers, by name; all are finite."""


def write_findings(run: Path, findings: Sequence[Finding]) -> Path:
    """Write RUN/doctor.json atomically, and return its path."""
    write_json(run / FINDINGS_FILE, {"findings": [dataclasses.asdict(finding) for finding in findings]})
    return run / FINDINGS_FILE


def read_findings(run: Path) -> list[Finding] | None:
    """Read RUN/doctor.json; None if there is no such file.

    Raises:
        ReportError: the file is not what `cpc doctor` writes.
    """
    path = run / FINDINGS_FILE
    if not path.exists():
        return None
    try:
        return [Finding(**values) for values in json.loads(path.read_text(encoding="utf-8"))["findings"]]
    except (ValueError, TypeError, KeyError):
        raise ReportError(f"{path}: not what `cpc doctor` writes; run cpc doctor {run} again") from None


def findings_text(findings: Sequence[Finding]) -> str:
    """Format faults as one line each, the worst first; without any, name what was checked in a single line."""
    faults = [one for one in worst_first(findings) if one.level != "ok"]
    if not faults:
        return f"nothing found; checked: {', '.join(one.name for one in findings)}"
    return "\n".join(f"{one.level}: {one.name}: {one.message}" for one in faults)


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Order findings by their level."""
    return sorted(findings, key=lambda one: LEVELS.index(one.level))
