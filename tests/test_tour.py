"""recipes/tour.ipynb runs from top to bottom, and git holds it without outputs."""

from pathlib import Path

import pytest

from tests.conftest import write_sound

nbformat = pytest.importorskip("nbformat", reason="pip install -e '.[test]'")
nbclient = pytest.importorskip("nbclient", reason="pip install -e '.[test]'")
RECIPES = Path(__file__).resolve().parents[1] / "recipes"


def executes(test):
    """Mark a test that starts a kernel, whose libraries warn of each other."""
    ignored = ("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore:.*loop.*:RuntimeWarning")
    return pytest.mark.slow(pytest.mark.filterwarnings(*ignored)(test))


def read():
    return nbformat.read(RECIPES / "tour.ipynb", as_version=4)


def parameters(notebook):
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    return cell


def run(notebook, out, **changes):
    """Execute the notebook where its reader would, with other parameters; return the outputs of all cells."""
    changes = {"OUT": str(out), **changes}
    parameters(notebook).source += "".join(f"\n{name} = {value!r}" for name, value in changes.items())
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(RECIPES)}}).execute()
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def pictures(outputs):
    return sum("image/png" in output.get("data", {}) for output in outputs)


def text_of(outputs):
    texts = [output["text"] for output in outputs if output.output_type == "stream" and output.name == "stdout"]
    return "".join(texts + [output["data"].get("text/markdown", "") for output in outputs if "data" in output])


def test_it_is_stored_without_outputs():
    for cell in read().cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)


@executes
def test_it_goes_from_sounds_to_a_map_of_phones(tmp_path):
    """On little data: each figure is displayed, each row of the table is there, and the stream equals the whole."""
    pytest.importorskip("espeakng_loader", reason="minispeech is made by espeak-ng: pip install -e '.[demo]'")
    outputs = run(read(), tmp_path / "tour", MINUTES=1.5, SPEAKERS=3, UPDATES=12)
    assert pictures(outputs) == 1 + 4 + 1 + 1 + 1 + 2  # sound, negatives, loss, steps, confusions, maps
    assert sum("audio" in output.get("data", {}).get("text/html", "") for output in outputs) == 1
    text = text_of(outputs)
    assert "finished after 12 updates" in text
    for row in ("most frequent phone", "MFCC", "untrained network, c", "CPC, c"):
        assert f"| {row}" in text
    difference = float(text.split("largest difference from the whole utterance: ")[1].split()[0])
    assert difference < 1e-5


@executes
def test_it_takes_a_folder_of_the_readers_own_sounds(tmp_path):
    """Without phone labels, it says what is missing and maps the speakers; a second training makes a second run."""
    for speaker in "abc":
        for i in range(5):
            write_sound(
                tmp_path / "sounds" / speaker / f"{speaker}{i}.wav", 3.0, seed=ord(speaker) + 10 * i, rate=22050
            )
    notebook = read()
    (training,) = [cell for cell in notebook.cells if "class LiveLoss" in cell.source]
    notebook.cells.insert(notebook.cells.index(training), training.copy())
    outputs = run(notebook, tmp_path / "tour", FOLDER=str(tmp_path / "sounds"), UPDATES=4)
    assert pictures(outputs) == 1 + 4 + 2 + 1 + 1  # sound, negatives, losses, steps, the map of speakers
    assert "No phone labels" in text_of(outputs)
    assert sorted(path.name for path in (tmp_path / "tour").glob("run-*")) == ["run-1", "run-2"]
