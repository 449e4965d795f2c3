"""Ablations: tables are checked before they run, finished runs are skipped, interrupted ones resume."""

import json
from pathlib import Path

import pytest

from cpc.config import ConfigError
from cpc.data import read_manifest, write_manifest
from cpc.experiments import read_ablation, run_ablation
from cpc.experiments.ablate import _trade_off
from cpc.runs import CheckpointError
from tests.conftest import TINY
from tests.test_evaluate import write_alternating_labels

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "minispeech"
BASE = f"""
device = "cpu"
{TINY}num_updates = 6
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
    """Labels of two phones that alternate."""
    return write_alternating_labels(corpus, tmp_path / "labels" / "phone_labels.txt")


def write(folder: Path, table: str = TABLE) -> Path:
    (folder / "base.toml").write_text(BASE)
    (folder / "table.toml").write_text(table)
    return folder / "table.toml"


def test_rows_and_seeds_become_runs_and_a_table_beside_the_papers_values(corpus, tmp_path, labels, monkeypatch):
    """Interrupted in the second run and started again: the first is not touched, and all four are in the table.

    The speaker probe's first three calls are the baselines'.
    """
    table = read_ablation(write(tmp_path), manifest_csv=str(corpus))
    from cpc.probes import probe_speakers

    speaker, calls = probe_speakers, []

    def dies(*args, **options):
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return speaker(*args, **options)

    monkeypatch.setattr("cpc.experiments.measured.probe_speakers", dies)
    with pytest.raises(KeyboardInterrupt):
        run_ablation(table, tmp_path / "out", labels=labels)
    first = tmp_path / "out" / "2-steps" / "seed-0" / "last.pt"
    second = tmp_path / "out" / "3-steps" / "seed-0" / "last.pt"
    stamps = first.stat().st_mtime_ns, second.stat().st_mtime_ns
    written = run_ablation(table, tmp_path / "out", labels=labels)
    assert (first.stat().st_mtime_ns, second.stat().st_mtime_ns) == stamps
    assert len(calls) == 5 + 3
    cells = {row[0]: row[1:] for row in rows_of(written)}
    assert cells["2 steps"][1] == "28.5"
    assert cells["3 steps"][1] == ""
    results = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [[run["seed"] for run in row["runs"]] for row in results] == [[0, 1], [0, 1]]
    phones = [100 * run["phone"] for run in results[0]["runs"]]
    assert cells["2 steps"][0].startswith(f"{sum(phones) / 2:.1f} ± ")
    assert "accuracy in % on dev" in written.read_text()
    assert not list((tmp_path / "out").rglob("*.npy"))
    for picture in ("table.png", "tradeoff.png"):
        assert (tmp_path / "out" / picture).stat().st_size > 5000
    changed = read_ablation(
        write(tmp_path, TABLE.replace('num_steps" = 2', 'num_steps" = 1')), manifest_csv=str(corpus)
    )
    with pytest.raises(ConfigError, match=r"2-steps/seed-0: holds another run: criterion.num_steps was 2, is 1; pass"):
        run_ablation(changed, tmp_path / "out", labels=labels)


def test_the_trade_off_has_a_point_a_row_at_the_means_over_its_seeds_and_lines_of_the_strongest_baseline():
    rows = [
        {"name": "a", "runs": [{"phone": 0.5, "speaker": 0.25}, {"phone": 0.75, "speaker": 0.75}]},
        {"name": "unfinished", "runs": []},
        {"name": "b", "runs": [{"phone": 0.125, "speaker": 1.0}]},
    ]
    baselines = [
        {"name": name, "row": name, "accuracies": {"phone": x, "speaker": y}}
        for name, x, y in (("mfcc", 0.1, 0.2), ("spectral", 0.375, 0.625))
    ]
    (axes,) = _trade_off("title", rows, baselines).axes
    points = {bars.get_label(): bars.lines[0].get_xydata().tolist() for bars in axes.containers}
    assert points == {"1  a": [[62.5, 50.0]], "2  b": [[12.5, 100.0]]}
    (upright, level) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert list(upright.get_xdata()) == [37.5, 37.5]
    assert list(level.get_ydata()) == [62.5, 62.5]


def rows_of(table: Path) -> list[list[str]]:
    """Split the lines of a Markdown table into cells."""
    lines = [line for line in table.read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_baselines_of_the_corpus_stand_above_the_rows_with_both_classifiers(corpus, tmp_path, labels):
    """They are probed once, whatever the number of rows and seeds, and again when the labels change."""
    table = read_ablation(write(tmp_path), manifest_csv=str(corpus))
    out = tmp_path / "out"
    written = run_ablation(table, out, labels=labels)
    rows = rows_of(written)
    assert rows[0][1:] == ["phone, linear", "paper, phone", "phone, hidden layer", *rows[0][4:6], "runs"]
    names = ["majority class", "untrained network", "MFCC", "strongest spectral", "2 steps", "3 steps"]
    assert [row[0] for row in rows[2:]] == names
    assert all(" ± " in cell for row in rows[6:] for cell in (row[1], *row[3:6]))
    (made,) = (out / "baselines").glob("*/result-dev.json")
    found = json.loads(made.read_text())["rows"]
    for key, row in zip(("untrained", "mfcc", "spectral"), rows[3:6], strict=True):
        own = found[key]
        shares = (own["phone"], own["phone_mlp"], own["speaker"], own["speaker_utterance"])
        assert [row[1], *row[3:6]] == [f"{100 * share:.1f}" for share in shares]
    assert found["mfcc"]["phone"] != found["spectral"]["phone"]
    assert "The strongest spectral features are MFCC stacked" in written.read_text()

    stamp = made.stat().st_mtime_ns
    run_ablation(table, out, labels=labels)
    assert made.stat().st_mtime_ns == stamp
    write_alternating_labels(corpus, labels, frames_per_phone=9)
    run_ablation(table, out, labels=labels)
    assert json.loads(made.read_text())["rows"]["mfcc"]["phone"] != found["mfcc"]["phone"]
    assert not list(out.rglob("*.npy"))


def test_each_manifest_of_a_table_has_its_own_baselines(corpus, tmp_path, labels):
    manifest = read_manifest(corpus)
    write_manifest(manifest.keep([i > 0 for i in range(len(manifest))]), tmp_path / "fewer.csv")
    rows = ONE_ROW + f'[[row]]\nname = "fewer"\nset = {{ "data.manifest" = "{tmp_path / "fewer.csv"}" }}\n'
    written = run_ablation(
        read_ablation(write(tmp_path, rows), manifest_csv=str(corpus)), tmp_path / "out", labels=labels
    )
    names = [row[0] for row in rows_of(written)[2:]]
    assert names[2] == f"MFCC of {corpus}"
    assert names[6] == f"MFCC of {tmp_path / 'fewer.csv'}"


ONE_ROW = 'base = "base.toml"\n[[row]]\nname = "only"\n'


def test_other_labels_or_options_repeat_the_probes_and_not_the_training(corpus, tmp_path, labels, capsys):
    """The message says what changed, and a result of the old labels is no longer in the table."""
    table = read_ablation(write(tmp_path, ONE_ROW), manifest_csv=str(corpus))
    out, folder = tmp_path / "out", tmp_path / "out" / "only" / "seed-0"

    def run(**options) -> tuple[dict[str, object], int, str]:
        capsys.readouterr()
        run_ablation(table, out, labels=labels, **options)
        result = json.loads((folder / "result-dev.json").read_text())
        return result, (folder / "last.pt").stat().st_mtime_ns, capsys.readouterr().out

    first, trained, _ = run()
    same, _, said = run()
    assert same == first
    assert "1 runs, 1 finished, 0 to go" in said

    write_alternating_labels(corpus, labels, frames_per_phone=9)
    other, stamp, said = run()
    assert 'probed again (labels was "' in said
    assert stamp == trained
    assert other["phone"] != first["phone"]
    assert other["speaker"] == first["speaker"]
    assert json.loads((out / "results.json").read_text())["rows"][0]["runs"] == [other]

    fewer, stamp, said = run(max_frames=100)
    assert "probed again (options.max_frames was 30000, is 100)" in said
    assert stamp == trained
    assert fewer["speaker"] != first["speaker"]


def test_a_result_of_an_earlier_version_is_probed_again_and_its_run_is_kept(corpus, tmp_path, labels, capsys):
    """Such a result does not say which labels it belongs to, and such a run not which data it was trained on."""
    table, out = read_ablation(write(tmp_path, ONE_ROW), manifest_csv=str(corpus)), tmp_path / "out"
    run_ablation(table, out, labels=labels)
    folder = out / "only" / "seed-0"
    (folder / "trained_on.json").unlink()
    result = json.loads((folder / "result-dev.json").read_text())
    trained = (folder / "last.pt").stat().st_mtime_ns
    earlier = {key: value for key, value in result.items() if key != "probed_with"} | {"phone": 0.999}
    linear = {key: value for key, value in result["probed_with"].items() if key != "classifiers"}
    before_hidden_layers = {key: value for key, value in result.items() if key != "phone_mlp"} | {"probed_with": linear}
    for content, said in ((earlier, "does not say which labels"), (before_hidden_layers, "classifiers was not given")):
        (folder / "result-dev.json").write_text(json.dumps(content))
        run_ablation(table, out, labels=labels)
        assert said in capsys.readouterr().out
        assert json.loads((folder / "result-dev.json").read_text()) == result
        assert (folder / "last.pt").stat().st_mtime_ns == trained


def test_a_run_whose_training_data_changed_is_refused(corpus, tmp_path, labels):
    """A manifest that changed, and labels that changed under a row that was trained on them."""
    manifest = tmp_path / "data" / "manifest.csv"
    write_manifest(read_manifest(corpus), manifest)
    rows = 'base = "base.toml"\n[[row]]\nname = "a"\nset = { "loss.name" = "supervised", "loss.target" = "phone" }\n'
    table = read_ablation(write(tmp_path, rows), manifest_csv=str(manifest), labels=str(labels))
    run_ablation(table, tmp_path / "out", labels=labels)
    before = (tmp_path / "out" / "table.md").read_bytes()

    write_alternating_labels(corpus, labels, frames_per_phone=9)
    with pytest.raises(ConfigError, match=r"a/seed-0: holds another run: the labels changed since it was trained"):
        run_ablation(table, tmp_path / "out", labels=labels)
    write_alternating_labels(corpus, labels)
    shorter = read_manifest(manifest)
    write_manifest(shorter.keep([i > 0 for i in range(len(shorter))]), manifest)
    with pytest.raises(ConfigError, match=r"the manifest changed since it was trained; pass another --out"):
        run_ablation(table, tmp_path / "out", labels=labels)
    assert (tmp_path / "out" / "table.md").read_bytes() == before


def test_a_table_without_a_manifest_is_refused(tmp_path, labels):
    table = read_ablation(write(tmp_path, ONE_ROW))
    with pytest.raises(ConfigError, match=r"data\.manifest: got none; pass --manifest"):
        run_ablation(table, tmp_path / "out", labels=labels)
    assert not (tmp_path / "out").exists()


def test_jobs_give_what_one_after_the_other_gives(corpus, tmp_path, labels):
    table = read_ablation(write(tmp_path, TABLE.replace("[0, 1]", "[0]")), manifest_csv=str(corpus))
    for jobs in (1, 2):
        run_ablation(table, tmp_path / f"out{jobs}", labels=labels, jobs=jobs)
    one, two = (json.loads((tmp_path / f"out{jobs}" / "results.json").read_text())["rows"] for jobs in (1, 2))
    for a, b in zip(one, two, strict=True):
        assert a["runs"][0]["phone"] == pytest.approx(b["runs"][0]["phone"], abs=0.02)


def test_with_jobs_no_run_begins_after_one_that_failed(corpus, tmp_path, labels):
    rows = "".join(f'[[row]]\nname = "row {i}"\nset = {{ "criterion.num_steps" = {i + 1} }}\n' for i in range(8))
    table = read_ablation(write(tmp_path, f'base = "base.toml"\n{rows}'), manifest_csv=str(corpus))
    damaged = tmp_path / "out" / "row-0" / "seed-0" / "last.pt"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="row-0"):
        run_ablation(table, tmp_path / "out", labels=labels, jobs=2)
    begun = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"row-0"} <= begun <= {"baselines", "row-0", "row-1"}


def test_a_grid_is_every_combination(tmp_path):
    table = read_ablation(
        write(tmp_path, 'base = "base.toml"\n[grid]\n"optim.lr" = [1e-3, 2e-3]\n"encoder.channels" = [8, 16]\n')
    )
    found = [(row.config.optim.lr, row.config.encoder.channels) for row in table.rows]
    assert found == [(1e-3, 8), (1e-3, 16), (2e-3, 8), (2e-3, 16)]
    assert table.rows[1].name == "optim.lr 0.001, encoder.channels 16"


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("rows = 1", "unknown key rows; allowed: title, base, seeds, set, row, grid"),
        ("seeds = [0]", r"expected either \[\[row\]\] tables or one \[grid\]"),
        ('[[row]]\nname = "a"\nlr = 1', "row a: unknown key lr; allowed: name, set, paper"),
        ('[[row]]\nset = { "optim.lr" = 1 }', "row.1.name: .* field required"),
        ('[[row]]\nname = "a"\nset = { "optim.rate" = 1 }', "row a: unknown key optim.rate"),
        ('[[row]]\nname = "a"\nset = { "seed.x" = 1 }', "row a: unknown key seed.x"),
        ('[[row]]\nname = "a"\n[[row]]\nname = "a"', "each row needs its own name"),
        ('seeds = [-1]\n[[row]]\nname = "a"', r"seeds: got \[-1\]"),
        ("= 3", "not TOML"),
        ('[grid]\n"optim.lr" = 1e-3', r"grid.optim.lr: got 0.001, .*list"),
        ("seeds = 3\n[[row]]\nname = 'a'", r"seeds: got 3, .*list"),
        ("[[row]]\nname = 2", r"row.1.name: got 2, .*string"),
        ("[[row]]\nname = 'a'\npaper = 'x'", r"row.1.paper: got 'x'"),
        ("[[row]]\nname = '!'", "each row needs its own name"),
        ("[[row]]\nname = '..'", "each row needs its own name"),
        ("[[row]]\nname = 'baselines'", "each row needs its own name"),
        ("[[row]]\nname = 'a'\nset = { seed = 3 }", r"row a: seed: .* set seeds = \["),
        ("set = { seed = 3 }\n[[row]]\nname = 'a'", r"row a: seed: .* set seeds = \["),
        ('[grid]\n"optim.lr" = []', "grid: got a list without values"),
        ("[grid]\nseed = [1, 2]", r"seed: .* set seeds = \["),
        ("row = 3", r"row: got 3, .*list"),
        ("[grid]", r"expected either \[\[row\]\] tables or one \[grid\]"),
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
        ("minispeech", "two_way_steps", 5),
        ("minispeech", "two_way_negatives", 6),
        ("minispeech", "logmel_steps", 5),
        ("minispeech", "logmel_negatives", 6),
        ("minispeech", "two_way", 2),
        ("minispeech", "two_way_study", 19),
        ("minispeech", "two_way_weights", 4),
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


def test_a_key_with_dots_changes_one_field_quoted_or_not(tmp_path):
    """TOML reads an unquoted key with dots as a table, which must not reset the other fields of its section."""
    rows = """
        [[row]]
        name = "quoted"
        set = { "criterion.num_steps" = 4, "optim.lr" = 0.5 }
        [[row]]
        name = "unquoted"
        set = { criterion.num_steps = 4, optim.lr = 0.5 }
        [[row]]
        name = "tables"
        [row.set.criterion]
        num_steps = 4
        [row.set.optim]
        lr = 0.5
    """
    for common in ('set = { "criterion.tau" = 3.0 }', "set = { criterion.tau = 3.0 }"):
        quoted, unquoted, tables = read_ablation(write(tmp_path, f'base = "small"\n{common}\n{rows}')).rows
        assert quoted.config == unquoted.config == tables.config
        assert (quoted.config.criterion.tau, quoted.config.criterion.num_negatives) == (3.0, 8)


@pytest.mark.parametrize("name", ["../beside", "a/../../b", "..hidden", "/absolute"])
def test_a_row_stays_inside_the_folder_of_its_ablation(tmp_path, name):
    (row,) = read_ablation(write(tmp_path, f"[[row]]\nname = '{name}'\n")).rows
    assert (tmp_path / "out" / row.folder).resolve().parent == tmp_path / "out"
    assert not row.folder.startswith(".")


def test_common_names_stand_for_fields(tmp_path):
    grid = "batch_size = [6]\nlearning_rate = [0.5]\nembedding_dim = [20]\nnum_negatives = [7]\ntemperature = [0.3]"
    table = read_ablation(write(tmp_path, f"[grid]\n{grid}"))
    config = table.rows[0].config
    assert (config.batches.num_windows, config.optim.lr, config.autoregressor.hidden) == (6, 0.5, 20)
    assert (config.criterion.num_negatives, config.loss.temperature) == (7, 0.3)


def test_rows_that_train_on_phones_use_the_labels_of_the_probes(tmp_path):
    table = read_ablation(RECIPE.parent / "objectives" / "table.toml", manifest_csv="m.csv", labels="l.txt")
    assert {row.name for row in table.rows if row.config.loss.labels} == {"SupCon, phones", "supervised, phones"}
    assert {row.config.loss.labels for row in table.rows} == {"", "l.txt"}


def test_a_missing_table_is_reported(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing.toml: no such table"):
        read_ablation(tmp_path / "nothing.toml")
