"""Labels of frames in time: label files, phone intervals, forced alignment and training targets."""

from cpc.labels.forced import PHONES, align, write_textgrids
from cpc.labels.formats import Imported, LabelFormat, import_labels, read_intervals
from cpc.labels.grid import (
    LABEL_FIRST_CENTRE_SECONDS,
    LABEL_HOP_SAMPLES,
    LABEL_HOP_SECONDS,
    LABEL_SAMPLE_RATE,
    LABEL_WINDOW_SAMPLES,
    STANDARD_GRID,
    UNLABELLED,
    LabelGrid,
    LabelsError,
    labelled_utterances,
    labels_at,
    num_labels,
)
from cpc.labels.intervals import SILENCE, phone_name
from cpc.labels.phones import (
    PhoneLabels,
    phones_beside,
    read_labels,
    read_phone_classes,
    read_phone_labels,
    read_phones,
    write_labels,
    write_phones,
)
from cpc.labels.targets import FrameGrid, Targets, TargetsError
from cpc.labels.words import read_transcripts

__all__ = [
    "LABEL_FIRST_CENTRE_SECONDS",
    "LABEL_HOP_SAMPLES",
    "LABEL_HOP_SECONDS",
    "LABEL_SAMPLE_RATE",
    "LABEL_WINDOW_SAMPLES",
    "PHONES",
    "SILENCE",
    "STANDARD_GRID",
    "UNLABELLED",
    "FrameGrid",
    "Imported",
    "LabelFormat",
    "LabelGrid",
    "LabelsError",
    "PhoneLabels",
    "Targets",
    "TargetsError",
    "align",
    "import_labels",
    "labelled_utterances",
    "labels_at",
    "num_labels",
    "phone_name",
    "phones_beside",
    "read_intervals",
    "read_labels",
    "read_phone_classes",
    "read_phone_labels",
    "read_phones",
    "read_transcripts",
    "write_labels",
    "write_phones",
    "write_textgrids",
]
