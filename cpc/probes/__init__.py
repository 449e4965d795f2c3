"""Probes: what features on disk say about phones and speakers. They read files, never a model."""

from cpc.probes.classifiers import streamed
from cpc.probes.frames import Evaluate, ProbeError
from cpc.probes.linear import BLOCK_FRAMES, TOL, Classifier, probe_phones, probe_speakers, save, summary

__all__ = [
    "BLOCK_FRAMES",
    "TOL",
    "Classifier",
    "Evaluate",
    "ProbeError",
    "probe_phones",
    "probe_speakers",
    "save",
    "streamed",
    "summary",
]
