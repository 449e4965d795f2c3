"""Folders for the Hugging Face hub: complete, bit-equal, with a card from the run; the network is never used."""

import json
import shutil
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import cpc
import cpc.hub
from cpc.config import AutoregressorConfig, Config, CriterionConfig, DataConfig, EncoderConfig, LossConfig
from cpc.files import write_json
from cpc.runs import build_model, save_weights
from tests.conftest import write_sound

huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture(autouse=True)
def closed_network(monkeypatch):
    def refuse(*_):
        raise OSError("the network is closed")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def run(tmp_path, corpus):
    torch.manual_seed(0)
    config = Config(
        data=DataConfig(manifest=str(corpus)),
        encoder=EncoderConfig(16),
        autoregressor=AutoregressorConfig(hidden=8),
        criterion=CriterionConfig(num_steps=3),
        loss=LossConfig(labels="/home/somebody/phone_labels.txt"),
    )
    (tmp_path / "run").mkdir()
    save_weights(tmp_path / "run" / "best.safetensors", config, build_model(config), update=1200)
    return tmp_path / "run"


def test_a_saved_model_comes_back_equal_to_the_bit(run, tmp_path):
    """All weights, the settings, and what it computes from a sound file; `cpc.load` reads the folder's weights, too."""
    model = cpc.load(run)
    model.save_pretrained(tmp_path / "saved")
    assert sorted(p.name for p in (tmp_path / "saved").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    write_sound(tmp_path / "a.wav", 0.5, seed=0)
    for again in (cpc.CPC.from_pretrained(tmp_path / "saved"), cpc.load(tmp_path / "saved" / "model.safetensors")):
        assert isinstance(again, cpc.CPC)
        assert not again.training
        weights = again.state_dict()
        assert weights.keys() == model.state_dict().keys()
        assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())
        assert all(map(torch.equal, again(tmp_path / "a.wav"), model(tmp_path / "a.wav")))
        assert (again.tau, again.sample_rate, again.normalise) == (model.tau, model.sample_rate, model.normalise)
        assert again.update == 1200
    again.save_pretrained(tmp_path / "twice")
    first, second = (tmp_path / folder / "model.safetensors" for folder in ("saved", "twice"))
    assert first.read_bytes() == second.read_bytes()


def test_the_settings_are_published_without_the_folders_of_this_machine(run, tmp_path):
    cpc.load(run).save_pretrained(tmp_path / "saved")
    settings = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert settings["encoder"]["channels"] == 16
    assert settings["data"]["manifest"] == "manifest.csv"
    assert settings["loss"]["labels"] == "phone_labels.txt"
    for path in (tmp_path / "saved").iterdir():
        assert b"somebody" not in path.read_bytes()


def test_the_card_is_filled_from_the_run(run, tmp_path):
    """Corpus, settings, and results once there are some; the licence is left open."""
    cpc.load(run).save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text()
    header = huggingface_hub.ModelCard(card).data.to_dict()
    assert header["library_name"] == "cpc-audio"
    assert "license" not in header
    assert "for 1200 updates" in card
    assert "a frame every 10 ms, the first one centred at 14.5 ms" in card
    assert "15 utterances of 3 speakers, 0.01 hours (train 9, dev 3, test 3)" in card
    assert "num_steps = 3" in card
    assert "No probe has been run." in card
    accuracy = {"accuracy": 0.723, "accuracy_interval": [0.7, 0.75]}
    write_json(run / "results.json", {"phone": {"cpc_c": accuracy, "majority": {"accuracy": 0.16}}})
    cpc.load(run).save_pretrained(tmp_path / "probed", model_card_kwargs={"license": "cc-by-4.0"})
    card = (tmp_path / "probed" / "README.md").read_text()
    assert "| CPC c          |          72.3 |" in card
    assert huggingface_hub.ModelCard(card).data.license == "cc-by-4.0"


def test_the_card_does_not_claim_another_training(run, tmp_path):
    """Networks trained with labels, or elsewhere, say so."""
    model = cpc.load(run)
    model.config = replace(model.config, loss=LossConfig("supervised"))
    card = model.generate_model_card().text
    assert "trained with the objective `supervised`" in card
    assert "without labels" not in card
    model.update = 0
    assert "elsewhere, and imported into cpc-audio." in model.generate_model_card().text


def test_pushing_uploads_the_whole_folder(run, monkeypatch):
    uploaded = {}

    class Api:
        def __init__(self, **_):
            pass

        def create_repo(self, repo_id, **_):
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(self, *, repo_id, folder_path, **_):
            uploaded[repo_id] = sorted(path.name for path in folder_path.iterdir())
            return "done"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    assert cpc.load(run).push_to_hub("somebody/first") == "done"
    assert uploaded == {"somebody/first": ["README.md", "config.json", "model.safetensors"]}


def test_a_model_of_the_hub_is_read_from_what_was_downloaded(run, tmp_path, monkeypatch):
    """Only the download goes to the hub: revision and token reach it."""
    model, asked = cpc.load(run), []
    model.save_pretrained(tmp_path / "saved")

    def download(repo_id, filename, *, revision=None, token=None, **_):
        asked.append((repo_id, filename, revision, token))
        return str(shutil.copy(tmp_path / "saved" / filename, tmp_path / filename))

    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", download)
    monkeypatch.setattr("cpc.hub.hf_hub_download", download)
    again = cpc.CPC.from_pretrained("somebody/first", revision="v1", token="t")
    assert asked == [("somebody/first", name, "v1", "t") for name in ("config.json", "model.safetensors")]
    assert all(torch.equal(again.state_dict()[name], weight) for name, weight in model.state_dict().items())


def test_what_cannot_be_loaded_or_saved_is_refused_in_one_line(run, tmp_path):
    with pytest.raises(cpc.hub.HubError, match=r"^no/such/folder: no such folder, and not loaded from the hub: .*"):
        cpc.CPC.from_pretrained("no/such/folder")
    (tmp_path / "empty").mkdir()
    with pytest.raises(cpc.hub.HubError, match=r"empty: holds no model\.safetensors, which save_pretrained writes;"):
        cpc.CPC.from_pretrained(tmp_path / "empty")
    model = build_model(cpc.load(run).config, cpc.CPC)
    with pytest.raises(cpc.hub.HubError, match="came from no run"):
        model.save_pretrained(tmp_path / "saved")


def test_without_huggingface_hub_models_load_and_its_methods_name_the_extra(run):
    """Nothing imports it before a model is loaded, either."""
    code = f"""
import sys
import cpc
assert "huggingface_hub" not in sys.modules and "torch" not in sys.modules
sys.modules["huggingface_hub"] = None
model = cpc.load({str(run)!r})
for call in (model.save_pretrained, model.push_to_hub, cpc.CPC.from_pretrained):
    try:
        call("a/b")
    except ValueError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["models for the hub need huggingface_hub: pip install 'cpc-audio[hub]'"] * 3
