"""What the package stands on: no network unless a download was asked for, and dependencies with a licence."""

import socket
from pathlib import Path

import pytest

from cpc.data import read_manifest, scan_folder
from cpc.features import SpectralExtractor, extract_features, open_features
from cpc.labels import align
from cpc.probes import probe_speakers
from cpc.report import write_page
from cpc.train import train
from tests.conftest import load_script, tiny_config

LICENCES = load_script(Path(__file__).parents[1] / ".ci" / "licences.py")


@pytest.fixture
def offline(monkeypatch):
    """Refuse every connection, and every question to a name server."""

    def refuse(*args, **_):
        raise AssertionError(f"the network was asked for {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_nothing_asks_the_network(offline, corpus, tmp_path):
    with pytest.raises(AssertionError, match="network"):
        socket.create_connection(("example.org", 80))
    assert len(scan_folder(corpus.parent, progress=False).manifest) == 15
    run = train(tiny_config(corpus), tmp_path / "run")
    manifest = read_manifest(corpus)
    features = extract_features(SpectralExtractor("mfcc"), manifest, tmp_path / "features", progress=False)
    assert probe_speakers(open_features(features), progress=lambda _: None).accuracy > 0
    write_page(run, tmp_path / "page.html")
    pytest.importorskip("pocketsphinx")
    align(manifest, dict.fromkeys(manifest.utterances, "one"), tmp_path / "labels")


def test_every_dependency_states_its_licence(capsys):
    assert LICENCES.main([]) == 0
    names = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert names >= {"cpc-audio", "torch", "numpy", "scikit-learn", "soundfile"}
    assert "NOT STATED" not in names
    assert "pytest" not in names


def test_a_dependency_without_a_licence_is_told(monkeypatch):
    class Package:
        from email.message import Message

        metadata = Message()

    Package.metadata["Name"] = "unknown"
    assert LICENCES.licence(Package) == ""
    monkeypatch.setattr(LICENCES, "installed", lambda *_: {"unknown": type("P", (Package,), {"version": "1"})})
    assert LICENCES.main([]) == 1
