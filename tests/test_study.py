"""recipes/minispeech/study_more.py: its loop is `cpc train`'s, so that what it changes is all that differs."""

from pathlib import Path

import pytest
import torch

from cpc import model
from cpc.config import CriterionConfig, OptimConfig
from cpc.train import train
from tests.conftest import load_script, tiny_config
from tests.test_train import weights

SCRIPT = Path(__file__).resolve().parents[1] / "recipes" / "minispeech" / "study_more.py"


@pytest.fixture(scope="module")
def study():
    return load_script(SCRIPT)


def test_the_preset_in_the_loop_that_is_written_out_has_the_weights_of_cpc_train(study, corpus, tmp_path):
    optimiser = OptimConfig(name="muon", lr=1e-2, warmup_updates=3, schedule="cosine", clip_norm=1.0)
    criterion = CriterionConfig(num_steps=3, num_negatives=5)
    config = tiny_config(corpus, optim=optimiser, criterion=criterion)
    expected = weights(train(config, tmp_path / "run"))
    study.train(config, study.SETTINGS["small"], tmp_path / "loop" / "last.pt")
    got = weights(tmp_path / "loop")
    assert got.keys() == expected.keys()
    for name in expected:
        assert torch.equal(got[name], expected[name]), name


def test_each_start_changes_the_weights_that_it_names_and_no_other(study, corpus):
    changes = {
        "convolutions start as Conv1d's": "g_enc.convs",
        "W_k start a tenth as large": "W.weight",
        "orthogonal recurrence": "g_ar.rnn.weight_hh_l0",
    }
    for name, changed in changes.items():
        network = model.build(tiny_config(corpus))
        before = {key: value.clone() for key, value in network.state_dict().items()}
        study.SETTINGS[name].start(network)
        for key, value in network.state_dict().items():
            assert torch.equal(value, before[key]) != key.startswith(changed), (name, key)
    gate = network.g_ar.rnn.weight_hh_l0[:8]
    assert torch.allclose(gate @ gate.T, torch.eye(8), atol=1e-5)
