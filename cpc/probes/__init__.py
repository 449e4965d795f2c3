"""Probes measure what features on disk tell about phones and speakers. They read files, never a model."""

from typing import TYPE_CHECKING

from cpc.doors import lazily
from cpc.probes.options import Evaluate, Options, ProbeError
from cpc.probes.result import Result

if TYPE_CHECKING:
    from cpc.probes.linear import probe_phones, probe_speakers

__all__ = [
    "Evaluate",
    "Options",
    "ProbeError",
    "Result",
    "probe_phones",
    "probe_speakers",
]

# On first use, because scikit-learn takes a second to load and the command line needs the options alone.
__getattr__ = lazily(__name__, {"probe_phones": "linear", "probe_speakers": "linear"})
