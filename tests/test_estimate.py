"""The speed of a run is measured on this machine, and the measurement leaves nothing behind."""

import tempfile
from dataclasses import replace

from cpc.experiments import measure_speed
from tests.conftest import tiny_config


def test_speed_is_measured_for_batches_of_any_size_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("cpc.experiments.estimate._FILE_SECONDS", 2)
    monkeypatch.setattr("cpc.experiments.estimate._LARGE", 8)
    config = tiny_config(tmp_path / "no_such_manifest.csv")
    for num_windows in (4, 32):
        speed = measure_speed(replace(config, batches=replace(config.batches, num_windows=num_windows)))
        assert speed.update_seconds > 0
        assert speed.extraction > 0
    assert not list(tmp_path.glob("tmp*"))
