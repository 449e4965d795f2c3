"""Features: checkpoint × manifest → frames on disk."""

from typing import TYPE_CHECKING

from cpc.doors import lazily
from cpc.features.store import Features, FeaturesError, Layer, open_features

if TYPE_CHECKING:
    from cpc.features.derived import DerivedExtractor
    from cpc.features.extract import Dtype, extract_features, is_plain_of
    from cpc.features.extractors import (
        CPCExtractor,
        Extractor,
        ModelExtractor,
        extractor_of_run,
        untrained_extractor,
    )
    from cpc.features.shards import extract_shard
    from cpc.features.spectral import SpectralExtractor

__all__ = [
    "CPCExtractor",
    "DerivedExtractor",
    "Dtype",
    "Extractor",
    "Features",
    "FeaturesError",
    "Layer",
    "ModelExtractor",
    "SpectralExtractor",
    "extract_features",
    "extract_shard",
    "extractor_of_run",
    "is_plain_of",
    "open_features",
    "untrained_extractor",
]

__getattr__ = lazily(
    __name__,
    {
        "DerivedExtractor": "derived",
        "Dtype": "extract",
        "extract_features": "extract",
        "is_plain_of": "extract",
        "CPCExtractor": "extractors",
        "Extractor": "extractors",
        "ModelExtractor": "extractors",
        "extractor_of_run": "extractors",
        "untrained_extractor": "extractors",
        "extract_shard": "shards",
        "SpectralExtractor": "spectral",
    },
)
