"""Probes measure what features on disk tell about phones, speakers and other labels. They read files, never a model."""

from typing import TYPE_CHECKING

from cpc.doors import lazily
from cpc.probes.options import CONDITIONS, Evaluate, Options, Pooling, ProbeError
from cpc.probes.result import Result

if TYPE_CHECKING:
    from cpc.probes.abx import AbxResult, AbxScore, missing_for_abx, probe_abx
    from cpc.probes.linear import probe_column, probe_phones, probe_speakers
    from cpc.probes.regression import Regression, probe_number

__all__ = [
    "CONDITIONS",
    "AbxResult",
    "AbxScore",
    "Evaluate",
    "Options",
    "Pooling",
    "ProbeError",
    "Regression",
    "Result",
    "missing_for_abx",
    "probe_abx",
    "probe_column",
    "probe_number",
    "probe_phones",
    "probe_speakers",
]

# On first use, because scikit-learn takes a second to load and the command line needs the options alone.
__getattr__ = lazily(
    __name__,
    {
        "AbxResult": "abx",
        "Regression": "regression",
        "AbxScore": "abx",
        "missing_for_abx": "abx",
        "probe_abx": "abx",
        "probe_column": "linear",
        "probe_number": "regression",
        "probe_phones": "linear",
        "probe_speakers": "linear",
    },
)
