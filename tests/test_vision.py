"""recipes/vision on scikit-learn's digits, from a folder of images to the table and the picture."""

import argparse
import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from tests.conftest import exit_status, load_script, recipe_script

FOLDER = Path(__file__).resolve().parents[1] / "recipes" / "vision"
network = load_script(FOLDER / "network.py")


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def script():
    """The script as a module."""
    with recipe_script(FOLDER / "run.py") as script:
        yield script


def recipe(script, *options) -> Done:
    """Run the script's main() in this process: one seed with few updates."""
    few = ["--seeds", "0", "--updates", "60", "--batch-size", "8", "--dim", "32"]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = exit_status(*few, *options, command=script.main)
    return Done(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Digits of 8 × 8 pixels, each pixel four wide: 30 a class to train on, 20 to test."""
    root, digits = tmp_path_factory.mktemp("digits"), load_digits()
    for label in range(10):
        for i, x in enumerate(digits.images[digits.target == label][:50]):
            folder = root / ("train" if i < 30 else "test") / f"digit{label}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.kron(x * 15, np.ones((4, 4))).astype(np.uint8)).save(folder / f"{i:02}.jpg")
    return root


@pytest.fixture(scope="module")
def outcome(script, root, tmp_path_factory):
    out = tmp_path_factory.mktemp("vision")
    done = recipe(script, "--root", root, "--out", out)
    assert done.code == 0, done.err
    return out, done.out


def results_in(out):
    return {result["row"]: result for result in (json.loads(p.read_text()) for p in out.glob("*/result.json"))}


def test_every_row_is_measured_and_cpc_learns(outcome):
    """The loss falls below that of a guess, log N, with each rule of negatives; every row is above chance."""
    out, printed = outcome
    results = results_in(out)
    assert len(results) == 6
    assert all(row in printed for row in results)
    assert min(result["test"] for result in results.values()) > 0.2
    cpc = {row: result for row, result in results.items() if row.startswith("CPC")}
    assert len(cpc) == 3
    assert all(result["loss"] < np.log(33) - 0.1 for result in cpc.values())
    with Image.open(out / "CPC_negatives_of_both-0" / "patches.png") as picture:
        assert picture.size == (70 * 9, 70 * 10)


def test_finished_rows_are_not_computed_again(outcome, script, root):
    """The second call prints the same table, times included."""
    out, printed = outcome
    done = recipe(script, "--root", root, "--out", out)
    assert done.out == printed


def test_an_interrupted_training_resumes_to_the_bit(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "UPDATES_A_CHECKPOINT", 10)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8, generator=generator)
    images = script.Images(x, torch.arange(20) % 2)
    options = argparse.Namespace(updates=30, lr=1e-3)

    def train(checkpoint, stop_at=None):
        torch.manual_seed(0)
        model, losses = network.CPC(16, 2), []

        def loss_of(x, y, update):
            if len(losses) == stop_at:
                raise KeyboardInterrupt
            losses.append(script.contrast(model, x, script.Rule(), 4, update).losses.mean())
            return losses[-1]

        found = script.train(model, loss_of, images, 4, options, 0, checkpoint)
        return len(losses), found["loss"], model.state_dict()

    num_updates, mean, weights = train(tmp_path / "whole.pt")
    assert num_updates == 30
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped.pt", stop_at=25)
    num_updates, mean_again, weights_again = train(tmp_path / "stopped.pt")
    assert num_updates == 10
    assert mean_again == mean
    assert all(torch.equal(weights[name], weights_again[name]) for name in weights)


def test_missing_images_and_other_settings_are_refused_in_one_line(outcome, script, root, tmp_path):
    done = recipe(script, "--root", tmp_path, "--out", tmp_path / "out")
    assert done.code == 2
    assert f"no {tmp_path}/train/CLASS/*.jpg" in done.err
    done = recipe(script, "--root", root, "--out", outcome[0], "--lr", "0.5")
    assert done.code == 2
    assert "lr was 0.005, is 0.5" in done.err
    done = recipe(script, "--root", root, "--steps", "7")
    assert done.code == 2
    assert "--steps: invalid choice: 7" in done.err


def test_an_image_of_another_size_or_that_is_damaged_is_named(script, root, tmp_path):
    shutil.copytree(root, tmp_path / "root")
    odd = tmp_path / "root" / "train" / "digit3" / "odd.jpg"
    Image.new("RGB", (30, 32)).save(odd)
    done = recipe(script, "--root", tmp_path / "root", "--out", tmp_path / "out")
    assert done.code == 2
    assert f"{odd}: 30 × 32 pixels, expected 32 × 32" in done.err
    odd.write_bytes(odd.read_bytes()[:300])
    done = recipe(script, "--root", tmp_path / "root", "--out", tmp_path / "out")
    assert done.code == 2
    assert f"{odd}: not an image that can be read" in done.err


def test_the_last_images_of_each_class_are_set_aside_and_none_is_lost(script):
    x = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 32, 32)
    rest, held_out = script.split(script.Images(x, torch.tensor([0] * 30 + [1] * 10)))
    assert held_out.x[:, 0, 0, 0].tolist() == [27, 28, 29, 39]
    assert sorted(rest.x[:, 0, 0, 0].tolist() + held_out.x[:, 0, 0, 0].tolist()) == list(range(40))


def test_validation_and_not_test_chooses_c(script, monkeypatch):
    """A weak and a strong regularisation give different classes where the classes' sizes and their means disagree."""
    monkeypatch.setattr(script, "CS", (1e-6, 1.0))
    value = torch.tensor([0.0] * 30 + [1.0] * 10)
    train = script.Images(value[:, None], (value > 0.5).long())
    few = script.Images(torch.ones(4, 1), torch.ones(4, dtype=torch.long))
    many = script.Images(torch.ones(4, 1), torch.zeros(4, dtype=torch.long))
    options = argparse.Namespace(probe_images=40)
    assert script.probe(lambda x: x, [train, few, many], options) == {"validation": 1.0, "test": 0.0, "C": 1.0}
    assert script.probe(lambda x: x, [train, many, few], options) == {"validation": 1.0, "test": 0.0, "C": 1e-6}


# --- the networks


def test_a_latent_is_that_of_its_patch_alone():
    """Encoding the whole image gives what encoding each 8 × 8 patch gives; the patches overlap by half."""
    torch.manual_seed(0)
    encoder, images = network.Encoder(16), torch.randn(2, 3, 32, 32)
    z = encoder(images)
    assert z.shape == (2, 7, 7, 16)
    for row, column in np.ndindex(7, 7):
        patch = images[:, :, 4 * row : 4 * row + 8, 4 * column : 4 * column + 8]
        torch.testing.assert_close(encoder(patch)[:, 0, 0], z[:, row, column])


def test_a_context_sees_its_row_and_all_rows_above_and_no_row_below():
    """Derivatives show what c depends on."""
    torch.manual_seed(0)
    g_ar = network.MaskedConvolution(16, 8)
    for row in (3, 6):
        z = torch.randn(1, 7, 7, 16, requires_grad=True)
        (seen,) = torch.autograd.grad(g_ar(z)[0, row, 3].sum(), z)
        by_row = seen[0].abs().sum((1, 2))
        assert (by_row[: row + 1] > 0).all()
        assert (by_row[row + 1 :] == 0).all()


@pytest.mark.parametrize("row", ["both", "the same image", "other images"])
def test_the_loss_equals_one_that_is_written_with_loops_over_the_grid(script, row):
    """The prediction of row i + k of the same column competes with patches of its image, of the others, or of both."""
    torch.manual_seed(0)
    model, images = network.CPC(8, 2), torch.randn(3, 3, 32, 32)
    found = script.contrast(model, images, script.RULES[f"CPC, negatives of {row}"], number=0, seed=0).losses
    z = model.g_enc(images)
    c = model.g_ar(z)
    for k in (1, 2):
        losses = []
        for b, i, j in np.ndindex(3, 7 - k, 7):
            p = model.W.weight[(k - 1) * 8 : k * 8] @ c[b, i, j] / model.tau
            scores = [z[b, i + k, j] @ p]
            for other, row_, column in np.ndindex(3, 7, 7):
                is_positive = (other, row_, column) == (b, i + k, j)
                wanted = {"the same image": other == b, "other images": other != b}.get(row, True)
                if wanted and not is_positive:
                    scores.append(z[other, row_, column] @ p)
            losses.append(-torch.log_softmax(torch.stack(scores), 0)[0])
        assert found[k - 1].item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)
