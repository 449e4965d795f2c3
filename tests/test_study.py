"""recipes/minispeech/study_more.py: its loop is `cpc train`'s, so that what it changes is all that differs."""

import importlib.util
from pathlib import Path

import pytest
import torch

from cpc.config import OptimConfig
from cpc.train import train
from tests.conftest import tiny_config

SCRIPT = Path(__file__).resolve().parents[1] / "recipes" / "minispeech" / "study_more.py"


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("minispeech_study_more", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def weights(path):
    return torch.load(path, weights_only=True)["model"]


def test_the_preset_in_the_loop_that_is_written_out_has_the_weights_of_cpc_train(study, corpus, tmp_path):
    optimiser = OptimConfig(name="muon", lr=1e-2, warmup_updates=3, schedule="cosine", clip_norm=1.0)
    config = tiny_config(corpus, optim=optimiser)
    expected = weights(train(config, tmp_path / "run") / "last.pt")
    study.train(config, study.SETTINGS["small"], tmp_path / "loop" / "last.pt")
    got = weights(tmp_path / "loop" / "last.pt")
    assert got.keys() == expected.keys()
    for name in expected:
        assert torch.equal(got[name], expected[name]), name


@pytest.mark.parametrize(
    "name", ["convolutions start as Conv1d's", "W_k start a tenth as large", "orthogonal recurrence"]
)
def test_every_other_start_changes_the_weights_that_it_names(study, corpus, tmp_path, name):
    config = tiny_config(corpus)
    for setting in ("small", name):
        study.train(config, study.SETTINGS[setting], tmp_path / setting / "last.pt")
    small, other = (weights(tmp_path / setting / "last.pt") for setting in ("small", name))
    changed = {"c": "g_enc.convs.1.weight", "W": "W.weight", "o": "g_ar.rnn.weight_hh_l0"}[name[0]]
    assert not torch.equal(small[changed], other[changed])
