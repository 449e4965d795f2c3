"""Stages run once, are skipped while nothing they read has changed, and rerun when it has; expensive ones are kept."""

import json
import os

import pytest

from cpc.experiments import Stage, StageError, Stages, errors_in_one_line, plan
from cpc.experiments.stages import digest_of


class Chain:
    """a (setting) → b reads a → c reads b (kept) → d reads c; each writes its name and its input."""

    def __init__(self, folder):
        self.out, self.made, self.setting, self.rounding = folder / "out", [], 1, 1

    def stages(self):
        def make(name, source):
            def run():
                self.made.append(name)
                text = str(self.setting // self.rounding) if source is None else (self.out / source).read_text()
                (self.out / name).parent.mkdir(exist_ok=True)
                (self.out / name).write_text(text)

            return run

        links = [("a", None), ("b", "a"), ("c", "b"), ("d", "c")]
        return Stages(
            self.out,
            [
                Stage(
                    name,
                    make(name, source),
                    inputs={source: self.out / source} if source else {},
                    outputs=[self.out / name],
                    settings={"x": {"setting": self.setting}} if source is None else {},
                    keep=name == "c",
                )
                for name, source in links
            ],
        )

    def run(self, *args, **kwargs):
        self.made = []
        self.stages().run(*args, **kwargs)
        return "".join(self.made)


@pytest.fixture
def chain(tmp_path):
    return Chain(tmp_path)


def test_a_second_run_does_nothing(chain):
    assert chain.run() == "abcd"
    assert chain.run() == ""
    assert {s.state for s in chain.stages().standings().values()} == {"done"}


def test_a_changed_setting_reruns_the_stage_and_those_after_it_and_says_why(chain, capsys):
    chain.run()
    chain.setting = 2
    assert chain.run(redo=["c"]) == "abcd"
    assert "== a: x.setting was 1, is 2" in capsys.readouterr().err
    assert (chain.out / "d").read_text() == "2"
    assert (chain.out / "superseded" / "c-1" / "c").read_text() == "1"


def test_a_stage_whose_output_does_not_change_leaves_those_after_it_alone(chain):
    chain.setting, chain.rounding = 4, 4
    chain.run()
    chain.setting = 5
    assert chain.run() == "a"


def test_a_kept_stage_is_refused_with_the_way_out_and_nothing_is_lost(chain):
    chain.run()
    (chain.out / "b").write_text("edited")
    with pytest.raises(StageError, match=r"stage c would have to rerun.*b changed.*--redo c") as error:
        chain.run()
    assert "\n" not in str(error.value)
    assert (chain.out / "c").read_text() == "1"


def test_a_kept_stage_whose_setting_changed_is_refused_before_any_other_stage_reruns(tmp_path):
    made = []

    def stages(setting):
        out = tmp_path / "out"

        def make(name):
            made.append(name)
            out.mkdir(exist_ok=True)
            (out / name).write_text("")

        return Stages(
            out,
            [
                Stage(n, lambda n=n: make(n), outputs=[out / n], settings={"s": setting}, keep=n == "expensive")
                for n in ("cheap", "expensive")
            ],
        )

    stages(1).run()
    with pytest.raises(StageError, match=r"stage expensive.*s was 1, is 2"):
        stages(2).run()
    assert made == ["cheap", "expensive"]


def test_an_interrupted_stage_resumes_and_its_seconds_add_up(tmp_path):
    out, calls = tmp_path / "out", []

    def make():
        calls.append(1)
        out.joinpath("half").write_text("")
        if len(calls) == 1:
            raise KeyboardInterrupt
        out.joinpath("whole").write_text("")

    stages = Stages(out, [Stage("s", make, outputs=[out / "whole"], settings={"a": 1})])
    with pytest.raises(KeyboardInterrupt):
        stages.run()
    assert stages.standings()["s"].state == "begun"
    record = json.loads((out / "stages" / "s.json").read_text())
    (out / "stages" / "s.json").write_text(json.dumps({**record, "seconds": 100.0}))
    stages.run()
    assert stages.seconds["s"] >= 100
    assert (out / "half").exists()


def test_an_interrupted_stage_whose_setting_changed_starts_again(tmp_path):
    out = tmp_path / "out"

    def stages(setting, fails):
        def make():
            (out / "folder").mkdir(exist_ok=True)
            (out / "folder" / str(setting)).write_text("")
            if fails:
                raise ValueError("stop")

        return Stages(out, [Stage("s", make, outputs=[out / "folder"], settings={"a": setting})])

    with pytest.raises(ValueError, match="stop"):
        stages(1, True).run()
    stages(2, False).run()
    assert [p.name for p in (out / "folder").iterdir()] == ["2"]


def test_one_stage_alone_says_what_is_missing_before_it(chain):
    with pytest.raises(StageError, match=r"stage c: .*b is missing; stage b makes it: run --stage b first"):
        chain.run("c")
    assert not chain.out.exists()
    chain.run("a")
    chain.run("b")
    assert chain.run("c") == "c"
    chain.setting = 2
    with pytest.raises(StageError, match=r"stage d reads.*unless the output of b changes.*--stage a first"):
        chain.run("d")
    with pytest.raises(StageError, match="no such stage; there are a, b, c, d"):
        chain.run("e")


def test_a_missing_output_is_made_again(chain):
    chain.run()
    (chain.out / "d").unlink()
    assert chain.run() == "d"


def test_outputs_that_no_record_explains_are_refused_not_removed(chain):
    chain.out.mkdir()
    (chain.out / "b").write_text("precious")
    with pytest.raises(StageError, match="b exists, but no record says what it was made from"):
        chain.run()
    assert (chain.out / "b").read_text() == "precious"


def test_the_plan_writes_nothing_and_shows_states_and_costs(chain):
    text = plan(chain.stages(), {"a": (1.5, 2.0), "b": (0.25, 0.0)})
    assert not chain.out.exists()
    assert [line.split("|")[-2].strip() for line in text.splitlines()[2:6]] == ["to do"] * 4
    assert text.splitlines()[-1].split("|")[1:4] == [" in all ", "  1.75 ", " 2.0 "]
    chain.run()
    chain.setting = 2
    lines = plan(chain.stages(), {}).splitlines()
    assert "inputs changed: x.setting was 1, is 2" in lines[2]
    assert "done: unless the output of a changes" in lines[3]
    assert "done: unless the output of b changes" in lines[4]
    assert len({len(line) for line in lines}) == 1


def test_a_folder_counts_by_names_sizes_and_times(tmp_path):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "x").write_text("1")
    first = digest_of(folder)
    assert digest_of(folder) == first
    os.utime(folder / "sub" / "x", ns=(1, 1))
    changed = digest_of(folder)
    assert changed != first
    (folder / "y").write_text("")
    assert digest_of(folder) not in {first, changed}


def test_a_kept_stage_decides_itself_about_outputs_that_were_made_elsewhere(chain):
    """For example a model that torchrun trained in the folder: the stage runs, nothing is refused or removed."""
    chain.run("a")
    chain.run("b")
    (chain.out / "c").write_text("trained elsewhere")
    assert chain.run("c") == "c"


def test_an_output_inside_the_output_of_an_earlier_stage_belongs_to_the_stage_that_makes_it(tmp_path):
    """As a manifest inside a corpus: a stage that reads it waits for the stage that writes it, not for the corpus."""
    out, corpus = tmp_path / "out", tmp_path / "out" / "corpus"

    def make_corpus():
        corpus.mkdir(parents=True)

    stages = Stages(
        out,
        [
            Stage("corpus", make_corpus, outputs=[corpus], settings={"a": 1}),
            Stage("manifest", lambda: (corpus / "m").write_text(""), outputs=[corpus / "m"], settings={"a": 1}),
            Stage("read", lambda: None, inputs={"m": corpus / "m"}),
        ],
    )
    stages.run("corpus")
    with pytest.raises(StageError, match=r"m is missing; stage manifest makes it"):
        stages.run("read")


def test_bad_input_ends_a_recipe_with_one_line_and_an_interruption_with_the_way_to_resume(capsys):
    with pytest.raises(SystemExit) as stop, errors_in_one_line("recipe"):
        raise StageError("stage x: no")
    assert stop.value.code == 2
    assert capsys.readouterr().err == "recipe: error: stage x: no\n"
    with pytest.raises(SystemExit, match="interrupted; run the same command to resume"), errors_in_one_line("recipe"):
        raise KeyboardInterrupt
    with pytest.raises(AssertionError), errors_in_one_line("recipe"):
        raise AssertionError
