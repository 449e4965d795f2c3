"""What is known about frames, in time."""

from typing import TYPE_CHECKING

from cpc.doors import lazily
from cpc.labels.forced import ARPABET, PHONES, Summary, align, read_dictionary, read_transcripts, write_textgrids
from cpc.labels.intervals import (
    SILENCE,
    Interval,
    import_labels,
    phone_name,
    phones_at_labels,
    read_ctm,
    read_textgrid,
    write_ctm,
    write_labels,
    write_textgrid,
)
from cpc.labels.phones import (
    BORDER_TOLERANCE_HOPS,
    LABEL_FIRST_CENTRE_SECONDS,
    LABEL_HOP_SAMPLES,
    LABEL_HOP_SECONDS,
    LABEL_RATE,
    LABEL_SAMPLE_RATE,
    LABEL_WINDOW_SAMPLES,
    UNLABELLED,
    LabelsError,
    PhoneLabels,
    labelled_utterances,
    labels_at,
    num_labels,
    read_labels,
    read_phone_classes,
    read_phone_labels,
    read_phones,
)

if TYPE_CHECKING:
    from cpc.labels.targets import Targets

__all__ = [
    "ARPABET",
    "BORDER_TOLERANCE_HOPS",
    "LABEL_FIRST_CENTRE_SECONDS",
    "LABEL_HOP_SAMPLES",
    "LABEL_HOP_SECONDS",
    "LABEL_RATE",
    "LABEL_SAMPLE_RATE",
    "LABEL_WINDOW_SAMPLES",
    "PHONES",
    "SILENCE",
    "UNLABELLED",
    "Interval",
    "LabelsError",
    "PhoneLabels",
    "Summary",
    "Targets",
    "align",
    "import_labels",
    "labelled_utterances",
    "labels_at",
    "num_labels",
    "phone_name",
    "phones_at_labels",
    "read_ctm",
    "read_dictionary",
    "read_labels",
    "read_phone_classes",
    "read_phone_labels",
    "read_phones",
    "read_textgrid",
    "read_transcripts",
    "write_ctm",
    "write_labels",
    "write_textgrid",
    "write_textgrids",
]

__getattr__ = lazily(__name__, {"Targets": "targets"})
