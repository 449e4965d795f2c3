"""The picture of negatives shows the sets that the criterion uses."""

import numpy as np
import pytest

from cpc.infonce import Negatives, Rule
from cpc.report import negatives_figure
from cpc.report.negatives import candidates_of
from tests.reference import negatives_of, negatives_of_rule

SPEAKER, UTTERANCE, NUM_FRAMES = [0, 0, 1, 0, 1, 1], [0, 1, 2, 0, 3, 4], [9, 9, 9, 7, 9, 5]
COLUMNS = {"speaker": SPEAKER, "utterance": UTTERANCE}
SCHEMES = ("mixed_speaker", "same_speaker", "mixed_speaker_excl", "same_speaker_excl", "current_sequence")


def marked(kinds, value):
    return {(int(b), int(t)) for b, t in np.argwhere(kinds == value)}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_marked_latents_are_the_definitions_set(scheme):
    negatives = Negatives.of(scheme, NUM_FRAMES, COLUMNS)
    for b, t, k in [(0, 0, 1), (3, 2, 4), (5, 1, 2), (2, 8 - 3, 3)]:
        kinds = candidates_of(negatives, (b, t), k)
        assert marked(kinds, -1) == {(b, t + k)}
        assert marked(kinds, 1) == negatives_of(scheme, SPEAKER, UTTERANCE, NUM_FRAMES, b, t, k)


def test_distances_are_kept():
    rule, start = Rule(("utterance",), (), min_distance=2, max_distance=4), [0, 0, 0, 3, 0, 0]
    negatives = Negatives.of(rule, NUM_FRAMES, COLUMNS, first_frame=start)
    assert marked(candidates_of(negatives, (0, 3), 2), 1) == negatives_of_rule(
        rule, COLUMNS, NUM_FRAMES, start, 0, 3, 2
    )


def test_drawn_negatives_are_those_of_their_seed():
    sets = [
        marked(
            candidates_of(Negatives.of("mixed_speaker", NUM_FRAMES, COLUMNS, num_negatives=5, seed=s), (1, 2), 3),
            1,
        )
        for s in (0, 0, 1)
    ]
    assert sets[0] == sets[1] != sets[2]
    for found in sets:
        assert 1 <= len(found) <= 5
        assert found <= negatives_of("mixed_speaker", SPEAKER, UTTERANCE, NUM_FRAMES, 1, 2, 3)


def test_the_legend_counts_and_the_rows_are_named():
    negatives = Negatives.of("same_speaker_excl", NUM_FRAMES, COLUMNS)
    figure = negatives_figure(negatives, (0, 1), 2, names=list("abcdef"))
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == list("abcdef")
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["context c", "positive, k = 2 frames ahead", "negatives: 9", "not compared"]
    assert axes.lines[0].get_xydata().tolist() == [[1.5, 0.5]]
