"""Checkpoint × manifest → frames on disk."""

from typing import TYPE_CHECKING

from cpc.doors import lazily
from cpc.features.store import Features, FeaturesError, Frames, Layer, open_features

if TYPE_CHECKING:
    from cpc.features.extract import CPCExtractor, Dtype, Extractor, extract_features, extractor_of_run, mark_last
    from cpc.features.spectral import NUM_CEPSTRA, NUM_MELS, SpectralExtractor

__all__ = [
    "NUM_CEPSTRA",
    "NUM_MELS",
    "CPCExtractor",
    "Dtype",
    "Extractor",
    "Features",
    "FeaturesError",
    "Frames",
    "Layer",
    "SpectralExtractor",
    "extract_features",
    "extractor_of_run",
    "mark_last",
    "open_features",
]

__getattr__ = lazily(
    __name__,
    {
        "CPCExtractor": "extract",
        "Dtype": "extract",
        "Extractor": "extract",
        "extract_features": "extract",
        "extractor_of_run": "extract",
        "mark_last": "extract",
        "NUM_CEPSTRA": "spectral",
        "NUM_MELS": "spectral",
        "SpectralExtractor": "spectral",
    },
)
