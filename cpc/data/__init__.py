"""Sound files to batches."""

from typing import TYPE_CHECKING

from cpc.data.audio import (
    EXTENSIONS,
    AudioError,
    AudioInfo,
    Waveform,
    audio_blocks,
    audio_info,
    audio_statistics,
    normalise,
    num_resampled,
    read_audio,
    statistics_of,
)
from cpc.data.manifest import (
    COLUMNS,
    Manifest,
    ManifestError,
    Scan,
    read_manifest,
    scan_folder,
    scan_summary,
    write_manifest,
)
from cpc.data.splits import SPLITS, By, read_utterance_list, refuse_leaks, split_as_listed, split_manifest
from cpc.doors import lazily

if TYPE_CHECKING:
    from cpc.data.batches import BatchError, BatchSampler, Composition, epoch_batches, num_left_out
    from cpc.data.cache import Cache, CacheError, open_cache
    from cpc.data.windows import Batch, Window, Windows, collate

__all__ = [
    "COLUMNS",
    "EXTENSIONS",
    "SPLITS",
    "AudioError",
    "AudioInfo",
    "Batch",
    "BatchError",
    "BatchSampler",
    "By",
    "Cache",
    "CacheError",
    "Composition",
    "Manifest",
    "ManifestError",
    "Scan",
    "Waveform",
    "Window",
    "Windows",
    "audio_blocks",
    "audio_info",
    "audio_statistics",
    "collate",
    "epoch_batches",
    "normalise",
    "num_left_out",
    "num_resampled",
    "open_cache",
    "read_audio",
    "read_manifest",
    "read_utterance_list",
    "refuse_leaks",
    "scan_folder",
    "scan_summary",
    "split_as_listed",
    "split_manifest",
    "statistics_of",
    "write_manifest",
]

__getattr__ = lazily(
    __name__,
    {
        "BatchError": "batches",
        "BatchSampler": "batches",
        "Composition": "batches",
        "epoch_batches": "batches",
        "num_left_out": "batches",
        "Cache": "cache",
        "CacheError": "cache",
        "open_cache": "cache",
        "Batch": "windows",
        "Window": "windows",
        "Windows": "windows",
        "collate": "windows",
    },
)
