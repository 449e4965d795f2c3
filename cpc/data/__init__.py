"""From sound files to batches: audio, manifests, splits, windows and the composition of batches."""

from typing import TYPE_CHECKING

from cpc.data.audio import (
    AudioError,
    Segment,
    Sound,
    audio_blocks,
    audio_statistics,
    normalise,
    read_audio,
    refuse_changed,
    statistics_of,
)
from cpc.data.bad import BadAudio, tolerated
from cpc.data.columns import Joined, join_columns, read_columns
from cpc.data.encoding import encode_vorbis
from cpc.data.exchange import is_of_other_tool, list_other
from cpc.data.listings import Listing, list_folder, read_segments
from cpc.data.manifest import (
    SPLITS,
    Manifest,
    ManifestError,
    read_manifest,
    refuse_missing_files,
    write_manifest,
)
from cpc.data.resampling import RESAMPLER, Waveform, num_resampled
from cpc.data.scan import Scan, refuse_changed_files, scan_folder, scan_listing, scan_shard
from cpc.data.splits import By, read_utterance_list, refuse_leaks, split_as_listed, split_manifest
from cpc.doors import lazily

if TYPE_CHECKING:
    from cpc.data.augment import Augmentation
    from cpc.data.batches import BatchError, BatchSampler, Composition, count_left_out, epoch_batches
    from cpc.data.cache import CacheError
    from cpc.data.windows import Batch, WindowOptions, Windows, collate

__all__ = [
    "RESAMPLER",
    "SPLITS",
    "AudioError",
    "Augmentation",
    "BadAudio",
    "Batch",
    "BatchError",
    "BatchSampler",
    "By",
    "CacheError",
    "Composition",
    "Joined",
    "Listing",
    "Manifest",
    "ManifestError",
    "Scan",
    "Segment",
    "Sound",
    "Waveform",
    "WindowOptions",
    "Windows",
    "audio_blocks",
    "audio_statistics",
    "collate",
    "count_left_out",
    "encode_vorbis",
    "epoch_batches",
    "is_of_other_tool",
    "join_columns",
    "list_folder",
    "list_other",
    "normalise",
    "num_resampled",
    "read_audio",
    "read_columns",
    "read_manifest",
    "read_segments",
    "read_utterance_list",
    "refuse_changed",
    "refuse_changed_files",
    "refuse_leaks",
    "refuse_missing_files",
    "scan_folder",
    "scan_listing",
    "scan_shard",
    "split_as_listed",
    "split_manifest",
    "statistics_of",
    "tolerated",
    "write_manifest",
]

__getattr__ = lazily(
    __name__,
    {
        "Augmentation": "augment",
        "BatchError": "batches",
        "BatchSampler": "batches",
        "Composition": "batches",
        "count_left_out": "batches",
        "epoch_batches": "batches",
        "CacheError": "cache",
        "Batch": "windows",
        "WindowOptions": "windows",
        "Windows": "windows",
        "collate": "windows",
    },
)
