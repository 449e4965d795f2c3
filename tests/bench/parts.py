"""Time the parts of a training step: the encoder, the criterion, and an account of every part."""

import itertools
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor

from cpc.config import Config, Scheme, read_config
from cpc.devices import keep_freed_buffers
from cpc.infonce import Negatives, infonce
from cpc.model import Encoder
from cpc.runs import build_model
from cpc.train import declared_maps
from tests.bench.common import (
    Run,
    median_seconds,
    print_result,
    print_table,
    product_rates,
    result_of_variant,
    seconds_of,
)
from tests.bench.plain import PlainCPC
from tests.bench.steps import FRAMES, SAMPLES, STEPS, our_negatives, our_step, our_update, shape


def print_encoder(options: Namespace) -> None:
    """Print the time of the encoder's forward and backward passes, and its share of a large product's rate."""
    keep_freed_buffers()
    rates, flops = product_rates(), encoder_flops(options.channels, options.windows)
    x = torch.randn(options.windows, SAMPLES)
    base, plain = "plain (Conv1d, channel norm), float32", PlainCPC(options.channels)

    def run_plain() -> None:
        plain.encode(x).sum().backward()
        plain.zero_grad(set_to_none=True)

    runs = {base: run_plain}
    for norm, precision in itertools.product(("channel", "none"), rates):
        encoder = Encoder(options.channels, norm=norm)
        runs[f"ours, norm {norm}, {precision}"] = _encoder_run(encoder, encoder, x, precision)
        if options.compile:
            compiled = torch.compile(encoder, dynamic=False)
            runs[f"ours, norm {norm}, {precision}, compiled"] = _encoder_run(encoder, compiled, x, precision)
    seconds = median_seconds(runs, options.rounds)
    shares = {}
    for name, value in seconds.items():
        rate = rates["bf16" if "bf16" in name else "float32"]
        shares[name] = f"{100 * flops / value / rate:4.0f} % of the product's rate"
    print_table(seconds, base, shares)


def _encoder_run(encoder: Encoder, encode: Callable[[Tensor], Tensor], x: Tensor, precision: str) -> Run:
    """Build the forward and backward passes of an encoder, which `encode` may have compiled."""

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            z = encode(x)
        z.float().sum().backward()
        encoder.zero_grad(set_to_none=True)

    return run


def encoder_flops(channels: int, windows: int) -> int:
    """Count the floating-point operations of the encoder's products, forward and backward."""
    flops = 0
    for c_in, kernel, hop in zip([1] + [channels] * 4, (10, 8, 4, 4, 4), (5, 20, 40, 80, 160), strict=True):
        # Forward, the weight's gradient and, except for the waveform, the input's gradient.
        flops += 2 * (SAMPLES // hop) * kernel * c_in * channels * windows * (2 if c_in == 1 else 3)
    return flops


def print_criterion(options: Namespace) -> None:
    """Print the time of InfoNCE's forward and backward passes under each scheme, against gathered negatives."""
    keep_freed_buffers()
    windows, channels = options.windows, options.channels
    z = torch.randn(windows, FRAMES, channels, requires_grad=True)
    predictions = (torch.randn(STEPS, windows, FRAMES, channels) / 16).requires_grad_()
    c = torch.randn(windows, FRAMES, 256, requires_grad=True)
    plain = PlainCPC(channels)

    def run_of(scheme: str, num_negatives: int) -> Run:
        columns = {"speaker": [i // 4 for i in range(windows)]}
        negatives = Negatives.of(scheme, [FRAMES] * windows, columns, num_negatives=num_negatives)
        return lambda: infonce(z, predictions, negatives).losses.mean().backward()

    base = "plain: 128 gathered an anchor (and W_k)"
    runs: dict[str, Run] = {base: lambda: plain.criterion(z, c).backward()}
    runs |= {f"{scheme}, all": run_of(scheme, 0) for scheme in get_args(Scheme)}
    runs["mixed_speaker, 128 drawn"] = run_of("mixed_speaker", 128)
    print_table(median_seconds(runs, options.rounds), base)


def print_account(options: Namespace) -> None:
    """Print where a step's milliseconds go: products at a large product's rate, calls of operations, the rest."""
    configs = {
        "preset small": read_config("small"),
        f"GRU, {options.channels} channels, all pairs, Adam": shape(options.channels, "gru"),
    }
    if options.variant:  # the whole step with malloc as it is
        name, precision = options.variant.split("; ")
        print_result([seconds_of(our_step(configs[name], options.windows, precision), options.rounds)])
        return
    default, rounds = {}, ("--rounds", str(options.rounds))
    for name, precision in itertools.product(configs, ("float32", "bf16")):
        [default[name, precision]] = result_of_variant(options, "account", f"{name}; {precision}", *rounds)
    keep_freed_buffers()
    rates = product_rates()
    for (name, precision), seconds in default.items():
        print(f"{name}, {precision}:\n{'':16s}{'ms':>8s}{'products':>10s}{'calls':>8s}{'rest':>8s}")
        whole = _print_account_of(configs[name], precision, rates[precision], options)
        print(f"whole step {1e3 * whole:.1f} ms; with malloc as it is {1e3 * seconds:.1f} ms", flush=True)


def _print_account_of(config: Config, precision: str, rate: float, options: Namespace) -> float:
    """Print the account of one configuration; return the median seconds of its whole step."""
    runs, flops = part_runs(config, options.windows, precision), part_flops(config, options.windows)
    # The same operations on next to no data take only what calling them costs. With all pairs that is an underestimate:
    # the scores are computed in fewer blocks.
    encoder, autoregressor = replace(config.encoder, channels=8), replace(config.autoregressor, hidden=8)
    empty = part_runs(replace(config, encoder=encoder, autoregressor=autoregressor), 1, precision)
    variants = runs | {f"{name}, empty": run for name, run in empty.items()}
    variants["whole step"] = our_step(config, options.windows, precision)
    seconds = median_seconds(variants, options.rounds)
    sums = [0.0, 0.0, 0.0]
    for name in runs:
        values = 1e3 * seconds[name], 1e3 * flops[name] / rate, 1e3 * seconds[f"{name}, empty"]
        _print_parts(name, *values)
        sums = [total + value for total, value in zip(sums, values, strict=True)]
    _print_parts("sum", *sums)
    return seconds["whole step"]


def _print_parts(name: str, spent: float, products: float, calls: float) -> None:
    print(f"{name:16s}{spent:8.1f}{products:10.1f}{calls:8.1f}{spent - products - calls:8.1f}")


def part_runs(config: Config, windows: int, precision: str) -> dict[str, Run]:
    """Map each part of a step to a callable of its forward and backward passes, by themselves."""
    torch.manual_seed(0)
    network, updated, x = build_model(config), build_model(config), torch.randn(windows, SAMPLES)
    for p in updated.parameters():
        p.grad = torch.randn_like(p)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    dim, hidden = config.encoder.channels, config.autoregressor.hidden
    z, c = torch.rand(windows, FRAMES, dim).to(dtype), torch.rand(windows, FRAMES, hidden)
    predictions = (torch.randn(STEPS, windows, FRAMES, dim) / 16).to(dtype)
    negatives = our_negatives(config, windows)

    def both(forward: Callable[..., Tensor], *inputs: Tensor) -> Run:
        def run() -> None:
            leaves = [x.clone().requires_grad_() for x in inputs]
            network.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                y = forward(*leaves)
            y.backward(torch.ones_like(y))

        return run

    return {
        "encoder": both(lambda: network.g_enc(x)),
        "autoregressor": both(network.g_ar, z),
        "predictor": both(network.predict, c),
        "criterion": both(lambda z, p: infonce(z, p, negatives).losses.mean(), z, predictions),
        "optimiser": our_update(updated, config, precision),
    }


def part_flops(config: Config, windows: int) -> dict[str, int]:
    """Count the floating-point operations of each part's products, forward and backward."""
    dim, hidden = config.encoder.channels, config.autoregressor.hidden
    frames, gates = windows * FRAMES, {"gru": 3, "lstm": 4}[config.autoregressor.kind]
    candidates = FRAMES * (1 if config.criterion.scheme == "current_sequence" else windows)
    anchors = sum(windows * (FRAMES - k) for k in range(1, STEPS + 1))
    optimiser = 0
    if config.optim.name == "muon":
        for p, n in declared_maps(build_model(config)).items():
            if n == 0:  # Muon leaves it to AdamW
                continue
            # n maps each; five rounds of three products
            short, long = sorted((len(p) // n, p.shape[1]))
            optimiser += 5 * n * (4 * short**2 * long + 2 * short**3)
    return {
        "encoder": encoder_flops(dim, windows),
        "autoregressor": 3 * 2 * frames * gates * hidden * (dim + hidden),
        "predictor": 3 * 2 * frames * STEPS * hidden * dim,
        "criterion": 3 * 2 * anchors * candidates * dim,
        "optimiser": optimiser,
    }
