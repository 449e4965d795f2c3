"""Stages of an experiment: done once, skipped while what they were made from stays the same, redone when it changes.

    stages = Stages(out, [Stage("split", make, inputs={"manifest": out / "manifest.csv"},
                                outputs=[out / "split.csv"], settings={"seed": 0}), ...])
    stages.run()

OUT/stages/NAME.json records what a stage was made from and how long it took: its settings, and a digest of each
input. A file counts by its content, a folder by the names, sizes and times of change of all files below it. So a
stage that was redone and came out as before leaves those after it alone. Another version of the code is no change.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cpc.files import write_bytes
from cpc.report import markdown_table

State = Literal["done", "begun", "to do", "changed"]
_NAMES: Mapping[State, str] = {
    "done": "done", "begun": "begun, goes on", "to do": "to do", "changed": "inputs changed",
}  # fmt: skip


class StageError(ValueError):
    """A stage that cannot be run, or must not be redone; one line: which, why, the way out."""


@dataclass(frozen=True)
class Stage:
    """One step of an experiment.

    Attributes:
        name: unique among the stages.
        make: makes the outputs; called again after an interruption, it goes on.
        inputs: by role, the files and folders that it reads.
        outputs: the files and folders that it makes; they lie in the experiment's folder, or have no inputs.
        settings: whatever else the outputs depend on, as JSON can hold it.
        keep: too dear to be removed when an input changes: the change is refused, unless `redo` names the stage.
    """

    name: str
    make: Callable[[], object]
    inputs: Mapping[str, Path] = field(default_factory=dict)
    outputs: Sequence[Path] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    keep: bool = False


@dataclass(frozen=True)
class Standing:
    """Where a stage stands, and why it is not done."""

    state: State
    why: str = ""


class Stages:
    """The stages of an experiment, in order.

    Args:
        out: folder of the experiment.
        stages: in the order that they run.
    """

    def __init__(self, out: Path, stages: Sequence[Stage]) -> None:
        self.out, self.stages = out, {stage.name: stage for stage in stages}
        assert len(self.stages) == len(stages), "two stages of one name"

    def run(self, only: str | None = None, *, redo: Collection[str] = ()) -> None:
        """Do what is to be done.

        Args:
            only: this stage alone; those before it must be done.
            redo: kept stages that may be made anew: their outputs move to OUT/superseded.

        Raises:
            StageError: an unknown name, an input that is missing, a kept stage that would have to be redone.
            ValueError: what a stage raises; the same call goes on from there.
        """
        for name in (*((only,) if only else ()), *redo):
            if name not in self.stages:
                raise StageError(f"stage {name!r}: no such stage; there are {', '.join(self.stages)}")
        chosen = list(self.stages.values()) if only is None else [self.stages[only]]
        if only is not None:
            self._refuse_unready(chosen[0])
        for stage in chosen:  # before any stage is redone: else it is, and only then the dear one is refused
            if stage.keep and stage.name not in redo and (why := self._changed(stage, settings_only=True)):
                self._refuse_redoing(stage, why)
        for stage in chosen:
            self._do(stage, stage.name in redo)

    def standings(self) -> dict[str, Standing]:
        """Where every stage stands; reads only. A done stage may yet change by one before it: `why` says which."""
        result: dict[str, Standing] = {}
        for name, stage in self.stages.items():
            standing = self.standing(stage)
            before = [self._maker(path) for path in stage.inputs.values()]
            moving = [maker for maker in before if maker and (result[maker].state != "done" or result[maker].why)]
            if standing.state == "done" and moving:
                standing = Standing("done", f"unless {moving[0]} comes out otherwise")
            result[name] = standing
        return result

    def standing(self, stage: Stage) -> Standing:
        """Where one stage stands, by its record and the files that are there."""
        gone = [path for path in stage.outputs if not path.exists()]
        record = self._record(stage)
        if not stage.inputs and not stage.settings:  # nothing that could have changed
            return Standing("to do") if gone else Standing("done")
        if record is None:
            return Standing("to do")
        if why := self._changed(stage):
            return Standing("changed", why)
        if not record["done"]:
            return Standing("begun")
        return Standing("to do", f"{gone[0]} is gone") if gone else Standing("done")

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds that each stage took, over all the calls that it needed."""
        records = {name: self._record(stage) for name, stage in self.stages.items()}
        return {name: record["seconds"] for name, record in records.items() if record}

    def _do(self, stage: Stage, may_redo: bool) -> None:
        standing = self.standing(stage)
        if standing.state == "done":
            print(f"== {stage.name}: done", file=sys.stderr)
            return
        for path in stage.inputs.values():
            if not path.exists():
                raise StageError(f"stage {stage.name}: {path} is missing{self._way_to(path)}")
        there = [path for path in stage.outputs if path.exists()]
        record = self._record(stage)
        if standing.state == "changed":
            if stage.keep and there:
                if not may_redo:
                    self._refuse_redoing(stage, standing.why)
                self._set_aside(stage, there)
            else:
                self._remove(there)
            record = None
        elif record is None and there and not stage.keep and (stage.inputs or stage.settings):
            raise StageError(
                f"stage {stage.name}: {there[0]} is there already, and no record says what it was made from; move it "
                "away, or pass another --out"
            )
        print(f"== {stage.name}" + (f": {standing.why}" if standing.why else ""), file=sys.stderr)
        before, started = (record or {}).get("seconds", 0.0), time.monotonic()
        made_from = self._fingerprint(stage)
        self._write(stage, made_from, before, done=False)
        try:
            stage.make()
        except BaseException:
            self._write(stage, made_from, before + time.monotonic() - started, done=False)
            raise
        for path in stage.outputs:
            assert path.exists(), f"stage {stage.name} did not make {path}"
        self._write(stage, made_from, before + time.monotonic() - started, done=True)

    def _refuse_unready(self, stage: Stage) -> None:
        """A stage asked for alone: what it reads must be there, and up to date."""
        standings = self.standings()
        for path in stage.inputs.values():
            maker = self._maker(path)
            if not path.exists():
                raise StageError(f"stage {stage.name}: {path} is missing{self._way_to(path)}")
            if maker and (standings[maker].state != "done" or standings[maker].why):
                state, why = standings[maker].state, standings[maker].why
                raise StageError(
                    f"stage {stage.name} reads what stage {maker} makes, and that is {_NAMES[state]}"
                    f"{f': {why}' if why else ''}; run all stages, or --stage {self._first_open(standings)} first"
                )

    def _first_open(self, standings: Mapping[str, Standing]) -> str:
        return next(name for name, standing in standings.items() if standing.state != "done")

    def _way_to(self, path: Path) -> str:
        maker = self._maker(path)
        return f"; stage {maker} makes it: run --stage {maker} first, or all stages" if maker else ""

    def _refuse_redoing(self, stage: Stage, why: str) -> None:
        seconds = (self._record(stage) or {}).get("seconds", 0.0)
        if any(path.exists() for path in stage.outputs):
            raise StageError(
                f"stage {stage.name} would have to be redone, and took {seconds / 60:.1f} minutes: {why}; undo the "
                f"change, pass another --out, or --redo {stage.name} to move it to {self.out / 'superseded'} first"
            )

    def _set_aside(self, stage: Stage, paths: Sequence[Path]) -> None:
        number = 1
        while (folder := self.out / "superseded" / f"{stage.name}-{number}").exists():
            number += 1
        for path in paths:
            target = folder / path.relative_to(self.out)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
        print(f"{stage.name}: moved what was there to {folder}", file=sys.stderr)

    def _remove(self, paths: Sequence[Path]) -> None:
        for path in paths:
            assert self.out in path.parents, f"{path} is not ours to remove"
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _maker(self, path: Path) -> str | None:
        """The stage that makes a file or folder."""
        for name, stage in self.stages.items():
            if any(output == path or output in path.parents for output in stage.outputs):
                return name
        return None

    def _fingerprint(self, stage: Stage) -> dict[str, Any]:
        settings = {key: json.loads(json.dumps(value)) for key, value in _flat(stage.settings)}
        return {"settings": settings, "inputs": {role: digest_of(path) for role, path in stage.inputs.items()}}

    def _changed(self, stage: Stage, *, settings_only: bool = False) -> str:
        """What differs from the record, in words; empty if nothing does. A missing input is no change yet."""
        record = self._record(stage)
        if record is None:
            return ""
        was = record["settings"]
        now = {key: json.loads(json.dumps(value)) for key, value in _flat(stage.settings)}
        for key in [*now, *(key for key in was if key not in now)]:
            if was.get(key) != now.get(key):
                return f"{key} was {_short(was.get(key))}, is {_short(now.get(key))}"
        if settings_only:
            return ""
        for role in [*stage.inputs, *(role for role in record["inputs"] if role not in stage.inputs)]:
            if role not in stage.inputs or role not in record["inputs"]:
                return f"{role} was{'' if role in record['inputs'] else ' not'} given before"
            path = stage.inputs[role]
            if path.exists() and digest_of(path) != record["inputs"][role]:
                return f"{path} changed"
        return ""

    def _path(self, stage: Stage) -> Path:
        return self.out / "stages" / f"{stage.name}.json"

    def _record(self, stage: Stage) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = json.loads(self._path(stage).read_text())
        except FileNotFoundError:
            return None
        except json.JSONDecodeError:
            raise StageError(f"{self._path(stage)}: not JSON; remove it with the stage's outputs") from None
        return record

    def _write(self, stage: Stage, made_from: dict[str, Any], seconds: float, *, done: bool) -> None:
        record = {"done": done, "seconds": round(seconds, 1), **made_from}
        write_bytes(self._path(stage), (json.dumps(record, indent=1) + "\n").encode())


def plan(stages: Stages, costs: Mapping[str, tuple[float, float]]) -> str:
    """What a run would do, as a table; reads only.

    Args:
        stages: the experiment.
        costs: by stage, the expected hours and gigabytes on disk.

    Returns:
        A Markdown table: stage, hours, GB, state; the last line adds up what is not done.
    """
    rows, total = [("stage", "hours", "GB", "state")], [0.0, 0.0]
    for name, standing in stages.standings().items():
        hours, gigabytes = costs.get(name, (0.0, 0.0))
        state = _NAMES[standing.state] + (f": {standing.why}" if standing.why else "")
        rows.append((name, f"{hours:.2f}", f"{gigabytes:.1f}", state))
        if standing.state != "done" or standing.why:
            total = [total[0] + hours, total[1] + gigabytes]
    rows.append(("in all", f"{total[0]:.2f}", f"{total[1]:.1f}", "what is not done"))
    return markdown_table(rows)


def digest_of(path: Path) -> str:
    """Of a file's content, or of the names, sizes and times of change of all files below a folder."""
    state = hashlib.blake2b(digest_size=12)
    if path.is_dir():
        for folder, subfolders, names in os.walk(path, followlinks=True):
            subfolders.sort()
            for name in sorted(names):
                file = Path(folder, name)
                status = file.stat()
                state.update(f"{file.relative_to(path)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    else:
        with path.open("rb") as f:
            while block := f.read(1 << 20):
                state.update(block)
    return state.hexdigest()


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings as "section.key" and value."""
    pairs: list[tuple[str, Any]] = []
    for key, value in settings.items():
        pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(prefix + key, value)]
    return pairs


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"
