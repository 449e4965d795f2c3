"""The rooms that only read files open without torch, and their doors keep what they announce."""

import subprocess
import sys
from importlib import import_module

import pytest


@pytest.mark.parametrize("room", ["data", "labels", "features", "probes", "report"])
def test_a_room_that_reads_files_opens_without_torch(room):
    code = f"import sys, cpc.{room}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("room", ["data", "labels", "features", "probes", "report"])
def test_every_name_that_a_door_announces_exists(room):
    """Names that are imported on first use exist too; any other name is an ordinary AttributeError."""
    door = import_module(f"cpc.{room}")
    for name in door.__all__:
        assert getattr(door, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = door.nothing
