"""Time the whole training step against the plain yardstick."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from cpc.config import Config
from cpc.devices import keep_freed_buffers
from cpc.infonce import Negatives, infonce
from cpc.model import CPC, recomputing
from cpc.runs import build_model
from cpc.train import build_optimisers
from tests.bench.common import (
    Run,
    median_seconds,
    peak_megabytes,
    print_result,
    print_table,
    result_of_variant,
    seconds_of,
)
from tests.bench.plain import PlainCPC

SAMPLES, FRAMES, STEPS = 20480, 126, 12  # samples and latents of a window, steps predicted

Encode = Callable[[Tensor], Tensor]


def print_steps(options: Namespace) -> None:
    """Print time and peak memory of the step, then the time without kept buffers."""
    runs = step_runs(options.channels, options.windows)
    if options.variant:
        _measure_alone(runs[options.variant], options)
        return

    def alone(name: str, *flags: str) -> list[float]:
        return result_of_variant(options, "step", name, "--rounds", "3", *flags)

    names = [name for name in runs if options.compile or "compiled" not in name]
    memory = {name: f"{alone(name)[0]:7.0f} MB more" for name in names}
    default = {
        f"{name}, default malloc": alone(name, "--default-malloc")[1]
        for name in ("plain, float32", "ours, float32", "ours, bf16")
    }
    keep_freed_buffers()
    seconds = median_seconds({name: runs[name]() for name in names}, options.rounds)
    print_table(seconds | default, "plain, float32", memory)


def _measure_alone(build: Callable[[], Run], options: Namespace) -> None:
    """Print the growth of the resident peak in the first step, in MB, and the median seconds."""
    if not options.default_malloc:
        keep_freed_buffers()
    step = build()
    before = peak_megabytes()
    step()
    print_result([peak_megabytes() - before, seconds_of(step, options.rounds)])


def step_runs(channels: int, windows: int) -> dict[str, Callable[[], Run]]:
    """Map the name of each variant to a function that builds its step."""
    lstm = shape(channels)
    drawn = replace(lstm, criterion=replace(lstm.criterion, num_negatives=128))
    gru = shape(channels, "gru")
    current = replace(gru, criterion=replace(gru.criterion, scheme="current_sequence"))
    compiled = partial(torch.compile, dynamic=False)
    return {
        "plain, float32": partial(plain_step, channels, windows, "float32"),
        "plain, bf16": partial(plain_step, channels, windows, "bf16"),
        "ours, float32": partial(our_step, lstm, windows, "float32"),
        "ours, bf16": partial(our_step, lstm, windows, "bf16"),
        "ours, float32, recompute 4": partial(our_step, lstm, windows, "float32", partial(recomputing, num_pieces=4)),
        "ours, bf16, recompute 2": partial(our_step, lstm, windows, "bf16", partial(recomputing, num_pieces=2)),
        "ours, bf16, compiled encoder": partial(our_step, lstm, windows, "bf16", compiled),
        "ours, float32, compiled encoder": partial(our_step, lstm, windows, "float32", compiled),
        "ours, bf16, 128 drawn negatives": partial(our_step, drawn, windows, "bf16"),
        "ours, bf16, GRU": partial(our_step, gru, windows, "bf16"),
        "ours, bf16, GRU, current sequence": partial(our_step, current, windows, "bf16"),
    }


def shape(channels: int, kind: str = "lstm") -> Config:
    """Return the default configuration (Adam, the paper's 12 steps) with this width; CPC_audio has an LSTM."""
    default = Config()
    return replace(
        default,
        encoder=replace(default.encoder, channels=channels),
        autoregressor=replace(default.autoregressor, kind=kind),
    )


def our_step(config: Config, windows: int, precision: str, wrap: Callable[[Encode], Encode] = lambda encode: encode):
    """Build one step of our model on random windows: forward, backward and optimiser.

    Args:
        config: the model and its optimiser.
        windows: number of windows in the batch.
        precision: "float32" or "bf16".
        wrap: what to do with the encoder, such as compiling it.

    Returns:
        a callable that takes the step.
    """
    torch.manual_seed(0)
    network, x = build_model(config), torch.randn(windows, SAMPLES)
    update, encode, negatives = (
        our_update(network, config, precision),
        wrap(network.g_enc),
        our_negatives(config, windows),
    )

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            z = encode(x)
            predictions = network.predict(network.g_ar(z))
        infonce(z, predictions, negatives).losses.mean().backward()
        update()
        network.zero_grad(set_to_none=True)

    return step


def our_update(network: CPC, config: Config, precision: str) -> Run:
    """Build a callable that clips and applies the gradients, as training does."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    optimisers = build_optimisers(network, config.optim, dtype)

    def update() -> None:
        if config.optim.clip_norm:
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.optim.clip_norm)
        for optimiser in optimisers:
            optimiser.step()

    return update


def our_negatives(config: Config, windows: int) -> Negatives:
    """Return the negatives of a batch of whole windows, each of an utterance of its own, all of one speaker."""
    return Negatives.of(
        config.criterion.scheme,
        [FRAMES] * windows,
        {"speaker": [0] * windows},
        num_negatives=config.criterion.num_negatives,
    )


def plain_step(channels: int, windows: int, precision: str) -> Run:
    """Build one step of the plain yardstick, which gathers 128 negatives for each anchor."""
    torch.manual_seed(0)
    network, x = PlainCPC(channels), torch.randn(windows, SAMPLES)
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-4)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = network(x)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step
