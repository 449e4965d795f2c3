"""A live signal in pieces gives the frames of the whole, as soon as they can be computed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cpc.config import AudioConfig, AutoregressorConfig, Config, EncoderConfig
from cpc.runs import build_model

CASES = {
    "unpadded": {"encoder": EncoderConfig(channels=16)},
    "same": {"encoder": EncoderConfig(channels=16, padding="same")},
    "cpc_audio": {"encoder": EncoderConfig(channels=16, padding="cpc_audio")},
    "logmel": {"encoder": EncoderConfig(kind="logmel", channels=16)},
    "lstm": {"encoder": EncoderConfig(channels=16), "autoregressor": AutoregressorConfig(kind="lstm", hidden=8)},
}


def model_of(case, normalise="none"):
    torch.manual_seed(0)
    base = Config(autoregressor=AutoregressorConfig(hidden=8), audio=AudioConfig(normalise=normalise))
    return build_model(replace(base, **CASES[case])).eval()


def signal(num_samples=4321):
    return 0.05 + 0.2 * torch.randn(num_samples, generator=torch.Generator().manual_seed(1))


def stream_of(model, x, sizes, **options):
    """Feed a signal in pieces of these sizes, over and over; return all z and c."""
    stream, frames, start = model.stream(**options), [], 0
    while start < len(x):
        size = sizes[len(frames) % len(sizes)]
        frames.append(stream.feed(x[start : start + size]))
        start += size
    frames.append(stream.close())
    return [torch.cat(pieces) for pieces in zip(*frames, strict=True)]


@pytest.mark.parametrize("sizes", [[1], [0, 7, 160, 3], [4321]], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_pieces_of_any_length_give_the_frames_of_the_whole(case, sizes):
    model, x = model_of(case), signal()
    for pieces, whole in zip(stream_of(model, x, sizes), model(x), strict=True):
        torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", ["unpadded", "same", "logmel"])
def test_with_the_utterances_mean_and_deviation_a_stream_equals_the_whole(case):
    model, x = model_of(case, "utterance"), signal()
    statistics = (x.mean().item(), x.std(correction=0).item())
    for pieces, whole in zip(stream_of(model, x, [137], statistics=statistics), model(x), strict=True):
        torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=0)


def test_without_them_each_sample_is_normalised_by_those_up_to_it():
    """The oracle is a loop; whatever the pieces, the frames are those of what it normalises."""
    model, x = model_of("unpadded", "utterance"), signal(2000)
    normalised = [
        (x[i].double() - seen.mean()) / seen.std(correction=0).clamp_min(1e-8)
        for i, seen in ((i, x[: i + 1].double()) for i in range(len(x)))
    ]
    expected = model.represent(torch.stack(normalised).float()[None])
    for sizes in ([1], [333, 2], [2000]):
        for pieces, whole in zip(stream_of(model, x, sizes), expected, strict=True):
            torch.testing.assert_close(pieces, whole[0], atol=1e-5, rtol=0)


def test_silence_and_a_constant_are_streamed_as_silence():
    """No rounding noise is amplified, however large the offset and however long the signal."""
    model = model_of("unpadded", "utterance")
    for level in (0.0, 0.9):
        z, c = stream_of(model, torch.full((50_000,), level), [16_000])
        expected = model.represent(torch.zeros(1, 50_000))
        torch.testing.assert_close(z, expected[0][0], atol=1e-5, rtol=0)
        torch.testing.assert_close(c, expected[1][0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_a_frame_comes_with_the_last_sample_that_it_sees(case):
    """The latency that the docstring states: frame i is there after `min_samples(i + 1)` samples and not before."""
    model, x = model_of(case), signal(1500)
    stream, geometry = model.stream(), model.g_enc.geometry
    counts = np.cumsum([len(stream.feed(x[i : i + 1])[0]) for i in range(len(x))])
    expected = [sum(geometry.min_samples(i + 1) <= n for i in range(20)) for n in range(1, len(x) + 1)]
    assert counts.tolist() == expected


def test_arrays_and_integers_are_taken_as_by_forward():
    model, x = model_of("unpadded"), (signal() * 2**15).round().short()
    for given in (x.numpy(), x, x.float().numpy() / 2**15):
        z, _ = stream_of(model, given, [1000])
        torch.testing.assert_close(z, model(x)[0], atol=1e-5, rtol=0)


def test_a_network_that_reads_from_both_ends_cannot_stream():
    model = build_model(Config(autoregressor=AutoregressorConfig(directions="both")))
    with pytest.raises(ValueError, match=r"^g_ar reads whole files from both ends .* c cannot be streamed$"):
        model.stream()


@pytest.mark.parametrize(
    ("normalise", "statistics", "says"),
    [
        ("none", (0.0, 1.0), r'^statistics: got \(0\.0, 1\.0\), but this run has audio\.normalise = "none"'),
        ("utterance", (0.0, 0.0), r"^statistics: got mean 0\.0 and deviation 0\.0, expected .* deviation > 0$"),
        ("utterance", (float("nan"), 1.0), r"^statistics: got mean nan"),
    ],
)
def test_statistics_that_make_no_sense_are_refused(normalise, statistics, says):
    with pytest.raises(ValueError, match=says):
        model_of("unpadded", normalise).stream(statistics)


def test_a_closed_stream_and_a_batch_are_refused():
    stream = model_of("unpadded").stream()
    with pytest.raises(ValueError, match=r"^piece: got shape \(2, 100\), expected \(S,\)"):
        stream.feed(torch.zeros(2, 100))
    assert [len(frames) for frames in stream.close()] == [0, 0]
    for call in (stream.close, lambda: stream.feed(torch.zeros(10))):
        with pytest.raises(ValueError, match=r"^stream: closed; call model\.stream\(\)"):
            call()
