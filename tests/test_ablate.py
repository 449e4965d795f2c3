"""Ablations: tables are checked before they run, finished runs are skipped, interrupted ones go on."""

import json
from pathlib import Path

import pytest

from cpc.config import ConfigError
from cpc.data import read_manifest
from cpc.experiments import read_ablation, run_ablation
from cpc.runs import CheckpointError

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "minispeech"
BASE = """
device = "cpu"
[data]
window_samples = 4000
[batches]
num_windows = 4
[encoder]
channels = 16
[autoregressor]
hidden = 8
[criterion]
num_steps = 3
[train]
num_updates = 6
checkpoint_every = 3
validate_every = 3
validate_batches = 2
"""
TABLE = """
base = "base.toml"
seeds = [0, 1]
[[row]]
name = "2 steps"
set = { "criterion.num_steps" = 2 }
paper = 28.5
[[row]]
name = "3 steps"
"""


@pytest.fixture
def labels(corpus, tmp_path):
    """Two phones that take turns, as long as each utterance needs."""
    table = read_manifest(corpus).table
    lines = [
        f"{utterance} {' '.join(str(i // 5 % 2) for i in range(1 + (n - 400) // 160))}"
        for utterance, n in zip(table["utterance"], table["num_samples"], strict=True)
    ]
    (tmp_path / "labels.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "labels.txt"


def write(folder: Path, table: str = TABLE) -> Path:
    (folder / "base.toml").write_text(BASE)
    (folder / "table.toml").write_text(table)
    return folder / "table.toml"


def test_rows_and_seeds_become_runs_and_a_table_beside_the_papers_values(corpus, tmp_path, labels, monkeypatch):
    """Killed in the second run, started again: the first is not touched, and all four are in the table."""
    table = read_ablation(write(tmp_path), manifest_csv=str(corpus))
    from cpc.probes import probe_speakers

    speaker, calls = probe_speakers, []

    def dies(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return speaker(*args, **options)

    monkeypatch.setattr("cpc.experiments.ablate.probe_speakers", dies)
    with pytest.raises(KeyboardInterrupt):
        run_ablation(table, tmp_path / "out", labels=labels)
    first = tmp_path / "out" / "2-steps" / "seed-0" / "last.pt"
    second = tmp_path / "out" / "3-steps" / "seed-0" / "last.pt"
    stamps = first.stat().st_mtime_ns, second.stat().st_mtime_ns
    written = run_ablation(table, tmp_path / "out", labels=labels)
    assert (first.stat().st_mtime_ns, second.stat().st_mtime_ns) == stamps
    assert len(calls) == 2 + 3
    text = written.read_text()
    assert "| 2 steps |" in text
    assert "| 28.5 |" in text
    results = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [[run["seed"] for run in row["runs"]] for row in results] == [[0, 1], [0, 1]]
    phones = [100 * run["phone"] for run in results[0]["runs"]]
    assert f"| 2 steps | {sum(phones) / 2:.1f} ± " in text
    assert not list((tmp_path / "out").rglob("*.npy"))
    assert (tmp_path / "out" / "table.png").stat().st_size > 5000
    changed = read_ablation(
        write(tmp_path, TABLE.replace('num_steps" = 2', 'num_steps" = 1')), manifest_csv=str(corpus)
    )
    with pytest.raises(ConfigError, match="holds a run of another configuration"):
        run_ablation(changed, tmp_path / "out", labels=labels)


def test_jobs_give_what_one_after_the_other_gives(corpus, tmp_path, labels):
    table = read_ablation(write(tmp_path, TABLE.replace("[0, 1]", "[0]")), manifest_csv=str(corpus))
    for jobs in (1, 2):
        run_ablation(table, tmp_path / f"out{jobs}", labels=labels, jobs=jobs)
    one, two = (json.loads((tmp_path / f"out{jobs}" / "results.json").read_text())["rows"] for jobs in (1, 2))
    for a, b in zip(one, two, strict=True):
        assert a["runs"][0]["phone"] == pytest.approx(b["runs"][0]["phone"], abs=0.02)


def test_with_jobs_a_run_that_fails_ends_it_all_and_what_was_waiting_does_not_begin(corpus, tmp_path, labels):
    rows = "".join(f'[[row]]\nname = "row {i}"\nset = {{ "criterion.num_steps" = {i + 1} }}\n' for i in range(8))
    table = read_ablation(write(tmp_path, f'base = "base.toml"\n{rows}'), manifest_csv=str(corpus))
    damaged = tmp_path / "out" / "row-0" / "seed-0" / "last.pt"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="row-0"):
        run_ablation(table, tmp_path / "out", labels=labels, jobs=2)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"row-0", "row-1"}


def test_a_grid_is_every_combination(tmp_path):
    table = read_ablation(
        write(tmp_path, 'base = "base.toml"\n[grid]\n"optim.lr" = [1e-3, 2e-3]\n"encoder.channels" = [8, 16]\n')
    )
    assert [(row.config.optim.lr, row.config.encoder.channels) for row in table.rows] == [
        (1e-3, 8), (1e-3, 16), (2e-3, 8), (2e-3, 16),
    ]  # fmt: skip
    assert table.rows[1].name == "optim.lr 0.001, encoder.channels 16"


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("rows = 1", "unknown key rows; allowed: title, base, seeds, set, row, grid"),
        ("seeds = [0]", r"expected \[\[row\]\] tables, or one \[grid\]"),
        ('[[row]]\nname = "a"\nlr = 1', "row a: unknown key lr; allowed: name, set, paper"),
        ('[[row]]\nset = { "optim.lr" = 1 }', "row.1.name: .* field required"),
        ('[[row]]\nname = "a"\nset = { "optim.rate" = 1 }', "row a: unknown key optim.rate"),
        ('[[row]]\nname = "a"\nset = { "seed.x" = 1 }', "row a: unknown key seed.x"),
        ('[[row]]\nname = "a"\n[[row]]\nname = "a"', "rows need names of their own"),
        ('seeds = [-1]\n[[row]]\nname = "a"', r"seeds: got \[-1\]"),
        ("= 3", "not TOML"),
        ('[grid]\n"optim.lr" = 1e-3', r"grid.optim.lr: got 0.001: .*list"),
        ("seeds = 3\n[[row]]\nname = 'a'", r"seeds: got 3: .*list"),
        ("[[row]]\nname = 2", r"row.1.name: got 2: .*string"),
        ("[[row]]\nname = 'a'\npaper = 'x'", r"row.1.paper: got 'x'"),
        ("[[row]]\nname = '!'", "rows need names of their own"),
        ("row = 3", r"row: got 3: .*list"),
        ("[grid]", r"expected \[\[row\]\] tables, or one \[grid\]"),
    ],
)
def test_a_table_that_cannot_work_is_refused_before_anything_runs(tmp_path, table, says):
    with pytest.raises(ConfigError, match=says):
        read_ablation(write(tmp_path, table))


@pytest.mark.parametrize(
    ("recipe", "name", "rows"),
    [
        ("minispeech", "ablate_steps", 6),
        ("minispeech", "ablate_negatives", 5),
        ("minispeech", "grid", 24),
        ("minispeech", "study", 28),
        ("minispeech", "study_combined", 16),
        ("minispeech", "precision", 2),
        ("minispeech", "study_full", 2),
        ("minispeech", "seeds", 1),
        ("librispeech", "ablate_steps", 6),
        ("librispeech", "ablate_negatives", 5),
    ],
)
def test_the_recipes_tables_are_valid(recipe, name, rows):
    table = read_ablation(RECIPE.parent / recipe / f"{name}.toml", manifest_csv="manifest.csv")
    assert len(table.rows) == rows
    assert all(row.config.data.manifest == "manifest.csv" for row in table.rows)


def test_names_that_people_know_stand_for_fields(tmp_path):
    grid = "batch_size = [6]\nlearning_rate = [0.5]\nembedding_dim = [20]\nnum_negatives = [7]\ntemperature = [0.3]"
    table = read_ablation(write(tmp_path, f"[grid]\n{grid}"))
    config = table.rows[0].config
    assert (config.batches.num_windows, config.optim.lr, config.autoregressor.hidden) == (6, 0.5, 20)
    assert (config.criterion.num_negatives, config.loss.temperature) == (7, 0.3)


def test_rows_that_train_on_phones_get_the_labels(tmp_path):
    table = read_ablation(RECIPE.parent / "objectives" / "table.toml", manifest_csv="m.csv", labels="l.txt")
    assert {row.name for row in table.rows if row.config.loss.labels} == {"SupCon, phones", "supervised, phones"}
    assert {row.config.loss.labels for row in table.rows} == {"", "l.txt"}


def test_a_missing_table_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing.toml: no such table"):
        read_ablation(tmp_path / "nothing.toml")
