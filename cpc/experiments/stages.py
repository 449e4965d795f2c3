"""Stages of an experiment: each runs once, is skipped while nothing it was made from has changed, and reruns otherwise.

    stages = Stages(out, [Stage("split", make, inputs={"manifest": out / "manifest.csv"},
                                outputs=[out / "split.csv"], settings={"seed": 0}), ...])
    stages.run()

OUT/stages/NAME.json records what a stage was made from, its settings and a digest of each input, and how long it took.
A file counts by its content, a folder by the names, sizes and modification times of all files below it. If a stage
reruns and its outputs come out as before, the stages that read them are skipped. A new version of the code does not
count as a change.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cpc.files import difference, flatten, write_json
from cpc.report import markdown_table

State = Literal["done", "begun", "to do", "inputs changed"]


class StageError(ValueError):
    """A stage that cannot run, or that must not rerun; one line: which stage, why, and the way out."""


@dataclass(frozen=True)
class Stage:
    """One step of an experiment."""

    name: str
    """Unique among the stages."""
    make: Callable[[], object]
    """Makes the outputs; called again after an interruption, it resumes."""
    inputs: Mapping[str, Path] = field(default_factory=dict)
    """The files and folders that the stage reads, by role."""
    outputs: Sequence[Path] = ()
    """The files and folders that the stage makes, all inside the experiment's folder unless it has no inputs."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Everything else that the outputs depend on, as JSON can hold it."""
    keep: bool = False
    """The outputs are too expensive to be removed when an input changes: the change is refused unless `redo` names the
    stage. Outputs that no record explains are left to `make`, which may continue them."""


@dataclass(frozen=True)
class Standing:
    """The state of a stage, and the reason if it has one."""

    state: State
    why: str = ""

    @property
    def is_settled(self) -> bool:
        """Whether the stage is done and no earlier stage can change that."""
        return self.state == "done" and not self.why

    def __str__(self) -> str:
        return self.state + (f": {self.why}" if self.why else "")


class Stages:
    """The stages of an experiment.

    Args:
        out: folder of the experiment.
        stages: the stages in the order in which they run.
    """

    def __init__(self, out: Path, stages: Sequence[Stage]) -> None:
        self.out, self.stages = out, {stage.name: stage for stage in stages}
        assert len(self.stages) == len(stages), "two stages with one name"

    def run(self, only: str | None = None, *, redo: Collection[str] = ()) -> None:
        """Run the stages that are not done.

        Args:
            only: run this stage alone; the stages before it must be done.
            redo: kept stages that may rerun; their outputs move to OUT/superseded first.

        Raises:
            StageError: an unknown name, a missing input, or a kept stage that would have to rerun.
            ValueError: an error of a stage; the same call resumes there.
        """
        for name in (*([only] if only else []), *redo):
            if name not in self.stages:
                raise StageError(f"stage {name!r}: no such stage; there are {', '.join(self.stages)}")
        chosen = [self.stages[only]] if only else list(self.stages.values())
        if only:
            self._refuse_unready(chosen[0])
        for stage in chosen:  # all of them first: otherwise a cheap stage reruns before an expensive one is refused
            if stage.keep and stage.name not in redo and (why := self._changed_setting(stage)):
                self._refuse_rerun(stage, why)
        for stage in chosen:
            standing = self._standing(stage)
            if standing.state == "done":
                print(f"== {stage.name}: done", file=sys.stderr)
            else:
                self._make(stage, standing, may_redo=stage.name in redo)

    def standings(self) -> dict[str, Standing]:
        """Find out where every stage stands, without changing anything.

        A stage that is done may still have to rerun after a stage before it: `why` then names that stage.
        """
        standings: dict[str, Standing] = {}
        for name, stage in self.stages.items():
            standing = self._standing(stage)
            makers = [maker for path in stage.inputs.values() if (maker := self._maker(path))]
            unsettled = [maker for maker in makers if not standings[maker].is_settled]
            if standing.state == "done" and unsettled:
                standing = Standing("done", f"unless the output of {unsettled[0]} changes")
            standings[name] = standing
        return standings

    @property
    def seconds(self) -> dict[str, float]:
        """The time that each stage took, summed over the calls that it needed."""
        records = {name: self._record(stage) for name, stage in self.stages.items()}
        return {name: record["seconds"] for name, record in records.items() if record}

    def _standing(self, stage: Stage) -> Standing:
        """Find out where a stage stands by its record and the files that exist."""
        missing = [path for path in stage.outputs if not path.exists()]
        record = self._record(stage)
        if not stage.inputs and not stage.settings:  # nothing can change
            return Standing("to do") if missing else Standing("done")
        if record is None:
            return Standing("to do")
        if why := self._changed_setting(stage) or self._changed_input(stage):
            return Standing("inputs changed", why)
        if not record["done"]:
            return Standing("begun")
        return Standing("to do", f"{missing[0]} is missing") if missing else Standing("done")

    def _make(self, stage: Stage, standing: Standing, *, may_redo: bool) -> None:
        """Clear what is outdated, and make the outputs."""
        for path in stage.inputs.values():
            if not path.exists():
                raise self._missing(stage, path)
        record, existing = self._record(stage), [path for path in stage.outputs if path.exists()]
        if standing.state == "inputs changed":
            if stage.keep and not may_redo:
                self._refuse_rerun(stage, standing.why)
            self._clear(stage, existing)
        elif record is None and existing and not stage.keep and (stage.inputs or stage.settings):
            raise StageError(
                f"stage {stage.name}: {existing[0]} exists, but no record says what it was made from; move it away, or "
                "pass another --out"
            )
        print(f"== {stage.name}" + (f": {standing.why}" if standing.why else ""), file=sys.stderr)
        before = record["seconds"] if record and standing.state != "inputs changed" else 0.0
        started, done = time.monotonic(), False
        made_from = {
            "settings": flatten(stage.settings),
            "inputs": {role: digest_of(path) for role, path in stage.inputs.items()},
        }
        self._write_record(stage, done=False, seconds=before, **made_from)
        try:
            stage.make()
            absent = [path for path in stage.outputs if not path.exists()]
            assert not absent, f"stage {stage.name} did not make {absent[0]}"
            done = True
        finally:
            self._write_record(stage, done=done, seconds=before + time.monotonic() - started, **made_from)

    def _refuse_unready(self, stage: Stage) -> None:
        """Refuse to run a stage alone unless its inputs exist and are up to date."""
        standings = self.standings()
        for path in stage.inputs.values():
            if not path.exists():
                raise self._missing(stage, path)
            if (maker := self._maker(path)) and not standings[maker].is_settled:
                first = next(name for name, standing in standings.items() if standing.state != "done")
                raise StageError(
                    f"stage {stage.name} reads the output of stage {maker}, which is {standings[maker]}; run all "
                    f"stages, or --stage {first} first"
                )

    def _missing(self, stage: Stage, path: Path) -> StageError:
        maker = self._maker(path)
        way_out = f"; stage {maker} makes it: run --stage {maker} first, or all stages" if maker else ""
        return StageError(f"stage {stage.name}: {path} is missing{way_out}")

    def _refuse_rerun(self, stage: Stage, why: str) -> None:
        """Refuse to rerun a kept stage that has outputs."""
        if any(path.exists() for path in stage.outputs):
            minutes = (self._record(stage) or {}).get("seconds", 0.0) / 60
            raise StageError(
                f"stage {stage.name} would have to rerun, and took {minutes:.1f} minutes: {why}; undo the change, pass "
                f"another --out, or --redo {stage.name}, which first moves its outputs to {self.out / 'superseded'}"
            )

    def _clear(self, stage: Stage, paths: Sequence[Path]) -> None:
        """Remove outdated outputs, or move those of a kept stage aside."""
        for path in paths:
            assert self.out in path.parents, f"{path} is not ours to remove"
        if stage.keep and paths:
            number = 1
            while (folder := self.out / "superseded" / f"{stage.name}-{number}").exists():
                number += 1
            for path in paths:
                target = folder / path.relative_to(self.out)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.rename(target)
            print(f"{stage.name}: moved its outputs to {folder}", file=sys.stderr)
            return
        for path in paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _maker(self, path: Path) -> str | None:
        """Find the stage that makes a file or folder: the stage whose output lies closest above it."""
        outputs = [(output, name) for name, stage in self.stages.items() for output in stage.outputs]
        above = [(len(output.parts), name) for output, name in outputs if output == path or output in path.parents]
        return max(above)[1] if above else None

    def _changed_setting(self, stage: Stage) -> str:
        """Say which setting differs from the record; empty if none does."""
        record = self._record(stage)
        return difference(record["settings"], stage.settings) if record else ""

    def _changed_input(self, stage: Stage) -> str:
        """Say which input differs from the record; empty if none does. A missing file is not a change yet."""
        were = (self._record(stage) or {"inputs": {}})["inputs"]
        for role in [*stage.inputs, *(role for role in were if role not in stage.inputs)]:
            if role not in were or role not in stage.inputs:
                return f"{role} was {'' if role in were else 'not '}given before"
            path = stage.inputs[role]
            if path.exists() and digest_of(path) != were[role]:
                return f"{path} changed"
        return ""

    def _record_path(self, stage: Stage) -> Path:
        return self.out / "stages" / f"{stage.name}.json"

    def _record(self, stage: Stage) -> dict[str, Any] | None:
        path = self._record_path(stage)
        try:
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except json.JSONDecodeError:
            raise StageError(f"{path}: not JSON; remove it together with the stage's outputs") from None
        return record

    def _write_record(self, stage: Stage, *, done: bool, seconds: float, **made_from: Any) -> None:
        write_json(self._record_path(stage), {"done": done, "seconds": round(seconds, 1), **made_from})


def plan(stages: Stages, costs: Mapping[str, tuple[float, float]]) -> str:
    """Show what a run would do, without changing anything.

    Args:
        stages: the experiment.
        costs: expected hours and gigabytes on disk of each stage; 0 for a stage that is left out.

    Returns:
        A Markdown table: stage, hours, GB, state; the last line sums the stages that are not done.
    """
    rows, total_hours, total_gigabytes = [("stage", "hours", "GB", "state")], 0.0, 0.0
    for name, standing in stages.standings().items():
        hours, gigabytes = costs.get(name, (0.0, 0.0))
        rows.append((name, f"{hours:.2f}", f"{gigabytes:.1f}", str(standing)))
        if not standing.is_settled:
            total_hours, total_gigabytes = total_hours + hours, total_gigabytes + gigabytes
    rows.append(("in all", f"{total_hours:.2f}", f"{total_gigabytes:.1f}", "not done"))
    return markdown_table(rows)


def digest_of(path: Path) -> str:
    """Digest a file's content, or the names, sizes and modification times of all files below a folder."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=12)).hexdigest()
    state = hashlib.blake2b(digest_size=12)
    for folder, subfolders, names in os.walk(path, followlinks=True):
        subfolders.sort()
        for name in sorted(names):
            file_path = Path(folder, name)
            status = file_path.stat()
            state.update(f"{file_path.relative_to(path)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return state.hexdigest()


def at_least(least: int) -> Callable[[str], int]:
    """Make a type for argparse: an integer that is not below `least`."""

    def integer(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"got {value}, expected at least {least}")
        return value

    return integer


@contextmanager
def errors_in_one_line(program: str) -> Iterator[None]:
    """End a recipe as the `cpc` command ends: bad input is one line on stderr and exit status 2."""
    try:
        yield
    except KeyboardInterrupt as stop:
        sys.exit(f"{str(stop) or 'interrupted'}; run the same command to resume")
    except (ValueError, OSError) as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        sys.exit(2)
