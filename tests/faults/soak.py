"""Train for long, and watch the memory, the open files and the threads of the process."""

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np

from cpc.config import TrainConfig
from cpc.runs import append_metrics
from cpc.train import train
from tests.bench.common import private_megabytes
from tests.conftest import make_corpus, tiny_config

_WARM_UP = 0.2  # of the updates, in which caches fill


def soak(num_updates: int) -> str:
    """Train a tiny network for many updates.

    Returns:
        A row of the table: what grew, by a line fitted to all but the first updates.
    """
    seen: list[tuple[int, float, int, int]] = []

    def look(path: Path, line: Mapping[str, Any]) -> None:
        append_metrics(path, dict(line))
        if line["kind"] == "train":
            files = len(os.listdir("/proc/self/fd"))
            seen.append((line["update"], private_megabytes(), files, threading.active_count()))

    often = max(1, num_updates // 100)
    times = TrainConfig(
        num_updates, log_every=often, validate_every=5 * often, validate_batches=1, checkpoint_every=often
    )
    with TemporaryDirectory() as folder, patch("cpc.train.metrics.append_metrics", look):
        train(tiny_config(make_corpus(Path(folder) / "corpus"), train=times), Path(folder) / "run")
    later = np.array([row for row in seen if row[0] > _WARM_UP * num_updates], float)
    slopes = [1000 * float(np.polyfit(later[:, 0], later[:, i], 1)[0]) for i in (1, 2, 3)]
    grew = ", ".join(f"{slope:+.3f} {what}" for slope, what in zip(slopes, ("MB", "files", "threads"), strict=True))
    return f"soak        {num_updates:6d} updates: {grew} per 1,000"
