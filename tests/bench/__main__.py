"""python -m tests.bench step | account | encoder | criterion | losses | data | hours | features | probes [options]

Variants take turns in one process and the median counts, so that a noisy machine hits all alike: trust the ratios.
Memory is the growth of the resident peak in a process of its own.
"""

import argparse
import itertools
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, SGDClassifier

from cpc.config import Config, Scheme, read_config
from cpc.data import BatchSampler, Windows, read_manifest, scan_folder, write_manifest
from cpc.devices import keep_freed_buffers, resolve_precision
from cpc.features import CPCExtractor, extract_features
from cpc.infonce import Negatives, infonce
from cpc.losses import info_nce, nt_xent, sup_con
from cpc.model import Encoder, recomputing
from cpc.probes import BLOCK_FRAMES, TOL, streamed
from cpc.runs import build_model
from cpc.train import build_optimisers, stacked_maps
from tests.bench.plain import PlainCPC

S, FRAMES, K = 20480, 126, 12  # samples and frames of a window, steps


def median_seconds(variants, rounds):
    """{name: median seconds} of callables that take turns."""
    taken = {name: [] for name in variants}
    for round_ in range(rounds + 1):
        for name, run in variants.items():
            began = time.perf_counter()
            run()
            if round_:  # the first round warms up
                taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def print_table(seconds, base, rows=None):
    """Milliseconds, and how many times faster than `base`."""
    for name, value in seconds.items():
        more = "".join(f"  {x}" for x in (rows or {}).get(name, ()))
        print(f"{name:52s} {1e3 * value:9.1f} ms  {seconds[base] / value:6.2f} x{more}", flush=True)


def alone(options, table, variant, *flags):
    """What one variant of a table prints in a process of its own."""
    command = [sys.executable, "-m", "tests.bench", table, "--variant", variant, "--channels", str(options.channels)]
    command += ["--windows", str(options.windows), "--threads", str(options.threads), "--hours", str(options.hours)]
    command += flags
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


# --- the whole training step


def shaped(channels, kind="lstm", scheme="mixed_speaker", negatives=0):
    """The default configuration (Adam, the paper's 12 steps) in another width; an LSTM, as CPC_audio has."""
    parts = Config()
    return replace(
        parts, encoder=replace(parts.encoder, channels=channels), autoregressor=replace(parts.autoregressor, kind=kind),
        criterion=replace(parts.criterion, scheme=scheme, num_negatives=negatives),
    )  # fmt: skip


def our_step(parts, windows, precision, *, compiled=False, recompute=0):
    """A callable: forward, backward and optimiser of our model on a batch."""
    torch.manual_seed(0)
    network, x = build_model(parts), torch.randn(windows, S)
    optimise = our_optimiser(network, parts, precision)
    encode = torch.compile(network.g_enc, dynamic=False) if compiled else network.g_enc
    if recompute:
        encode = recomputing(encode, recompute)
    chosen = negatives_of(parts, windows)

    def loss():
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            z = encode(x)
            predictions = network.predict(network.g_ar(z))
        return infonce(z, predictions, chosen).losses.mean()

    def step():
        loss().backward()
        optimise()
        network.zero_grad(set_to_none=True)

    return step


def our_optimiser(network, parts, precision):
    """A callable: clip and update, as training does."""
    optimisers = build_optimisers(
        network, parts.optim.name, lr=parts.optim.lr, betas=parts.optim.betas, eps=parts.optim.eps,
        weight_decay=parts.optim.weight_decay, momentum=parts.optim.momentum,
        dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
    )  # fmt: skip

    def optimise():
        if parts.optim.clip_norm:
            torch.nn.utils.clip_grad_norm_(network.parameters(), parts.optim.clip_norm)
        for optimiser in optimisers:
            optimiser.step()

    return optimise


def negatives_of(parts, windows):
    """The negatives of a batch of whole windows of as many utterances."""
    return Negatives.of(
        parts.criterion.scheme, [0] * windows, list(range(windows)), [FRAMES] * windows,
        num_negatives=parts.criterion.num_negatives,
    )  # fmt: skip


def plain_step(channels, windows, precision="float32"):
    """The same with the plain yardstick: 128 gathered negatives."""
    torch.manual_seed(0)
    network, x = PlainCPC(channels), torch.randn(windows, S)
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-4)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = network(x)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


STEPS = {
    "plain, float32": lambda o: plain_step(o.channels, o.windows),
    "plain, bf16": lambda o: plain_step(o.channels, o.windows, "bf16"),
    "ours, float32": lambda o: our_step(shaped(o.channels), o.windows, "float32"),
    "ours, bf16": lambda o: our_step(shaped(o.channels), o.windows, "bf16"),
    "ours, float32, recompute 4": lambda o: our_step(shaped(o.channels), o.windows, "float32", recompute=4),
    "ours, bf16, recompute 2": lambda o: our_step(shaped(o.channels), o.windows, "bf16", recompute=2),
    "ours, bf16, compiled encoder": lambda o: our_step(shaped(o.channels), o.windows, "bf16", compiled=True),
    "ours, float32, compiled encoder": lambda o: our_step(shaped(o.channels), o.windows, "float32", compiled=True),
    "ours, bf16, 128 drawn negatives": lambda o: our_step(shaped(o.channels, negatives=128), o.windows, "bf16"),
    "ours, bf16, GRU": lambda o: our_step(shaped(o.channels, "gru"), o.windows, "bf16"),
    "ours, bf16, GRU, current sequence": lambda o: our_step(
        shaped(o.channels, "gru", "current_sequence"), o.windows, "bf16"
    ),
}


def step(options):
    """Whole training step against the plain yardstick, with the peak of memory; then without kept buffers."""
    if options.variant:  # one variant in a process of its own
        if not options.default_malloc:
            keep_freed_buffers()
        run = STEPS[options.variant](options)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        run()
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(json.dumps([peak, median_seconds({"": run}, options.rounds)[""]]))
        return

    def of(name, *flags):
        return json.loads(alone(options, "step", name, "--rounds", "3", *flags).splitlines()[-1])

    names = [name for name in STEPS if options.compile or "compiled" not in name]
    memory = {name: (f"{of(name)[0]:7.0f} MB more",) for name in names}
    default = {
        f"{name}, default malloc": of(name, "--default-malloc")[1]
        for name in ("plain, float32", "ours, float32", "ours, bf16")
    }
    keep_freed_buffers()
    seconds = median_seconds({name: STEPS[name](options) for name in names}, options.rounds)
    print_table(seconds | default, "plain, float32", memory)


# --- parts


def product_rates():
    """FLOP a second of one large matrix product, by type."""
    rates = {}
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(4096, 4096).to(dtype) for _ in range(2))
        rates[name] = 2 * 4096**3 / median_seconds({"": lambda a=a, b=b: a @ b}, 3)[""]
        print(f"4096³ product, {name}: {rates[name] / 1e9:.0f} GFLOP/s")
    return rates


def encoder_flops(channels, windows):
    """Of the products, forward and backward."""
    flops = 0
    for c_in, kernel, hop in zip([1] + [channels] * 4, (10, 8, 4, 4, 4), (5, 20, 40, 80, 160), strict=True):
        # Forward; the gradient of the weight; and, but for the waveform, of the input.
        flops += 2 * (S // hop) * kernel * c_in * channels * windows * (2 if c_in == 1 else 3)
    return flops


def stages(parts, windows, precision):
    """{stage: callable} of one training step, each forward and backward by itself, and the FLOPs of its products."""
    torch.manual_seed(0)
    network, updated, x = build_model(parts), build_model(parts), torch.randn(windows, S)
    for p in updated.parameters():
        p.grad = torch.randn_like(p)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    dim, hidden = parts.encoder.channels, parts.autoregressor.hidden
    z, c = torch.rand(windows, FRAMES, dim).to(dtype), torch.rand(windows, FRAMES, hidden)
    predictions, chosen = (torch.randn(K, windows, FRAMES, dim) / 16).to(dtype), negatives_of(parts, windows)

    def both(forward, *inputs):
        def run():
            leaves = [x.clone().requires_grad_() for x in inputs]
            network.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                y = forward(*leaves)
            y.backward(torch.ones_like(y))

        return run

    candidates = FRAMES * (1 if parts.criterion.scheme == "current_sequence" else windows)
    frames, gates = windows * FRAMES, {"gru": 3, "lstm": 4}[parts.autoregressor.kind]
    runs = {
        "encoder": both(lambda: network.g_enc(x)),
        "autoregressor": both(network.g_ar, z),
        "predictor": both(network.predict, c),
        "criterion": both(lambda z, p: infonce(z, p, chosen).losses.mean(), z, predictions),
        "optimiser": our_optimiser(updated, parts, precision),
    }
    flops = {
        "encoder": encoder_flops(dim, windows),
        "autoregressor": 3 * 2 * frames * gates * hidden * (dim + hidden),
        "predictor": 3 * 2 * frames * K * hidden * dim,
        "criterion": 3 * 2 * sum(windows * (FRAMES - k) for k in range(1, K + 1)) * candidates * dim,
        "optimiser": 0,
    }
    if parts.optim.name == "muon":
        for p, n in stacked_maps(network).items():  # of n maps each; five rounds of three products
            short, long = sorted((len(p) // n, p.shape[1]))
            flops["optimiser"] += 5 * n * (4 * short**2 * long + 2 * short**3)
    return runs, flops


def account(options):
    """Where each millisecond of a step goes: products at a large product's rate, overhead of operations, the rest."""
    shapes = {
        "preset small": read_config("small"),
        f"GRU, {options.channels} channels, all pairs, Adam": shaped(options.channels, "gru"),
    }
    if options.variant:  # the whole step with malloc as it is
        shape, precision = options.variant.split("; ")
        run = our_step(shapes[shape], options.windows, precision)
        print(median_seconds({"": run}, options.rounds)[""])
        return
    rounds, default = ("--rounds", str(options.rounds)), {}
    for shape, precision in itertools.product(shapes, ("float32", "bf16")):
        default[shape, precision] = float(alone(options, "account", f"{shape}; {precision}", *rounds).splitlines()[-1])
    keep_freed_buffers()
    rates = product_rates()
    for (shape, precision), with_default in default.items():
        parts = shapes[shape]
        runs, flops = stages(parts, options.windows, precision)
        runs["whole step"] = our_step(parts, options.windows, precision)
        # The same operations on next to no data: what calling them costs (less for all pairs: in fewer blocks).
        empty_parts = replace(
            parts, encoder=replace(parts.encoder, channels=8), autoregressor=replace(parts.autoregressor, hidden=8)
        )
        empty, _ = stages(empty_parts, 1, precision)
        seconds = median_seconds(runs | {f"{name}, empty": run for name, run in empty.items()}, options.rounds)
        print(f"{shape}, {precision}:\n{'':16s}{'ms':>8s}{'products':>10s}{'calls':>8s}{'rest':>8s}")
        totals = [0.0] * 3
        for name in empty:
            spent, products = 1e3 * seconds[name], 1e3 * flops[name] / rates[precision]
            calls = 1e3 * seconds[f"{name}, empty"]
            rest = spent - products - calls
            print(f"{name:16s}{spent:8.1f}{products:10.1f}{calls:8.1f}{rest:8.1f}")
            totals = [total + value for total, value in zip(totals, (spent, products, calls), strict=True)]
        print(f"{'sum':16s}{totals[0]:8.1f}{totals[1]:10.1f}{totals[2]:8.1f}{totals[0] - totals[1] - totals[2]:8.1f}")
        whole = 1e3 * seconds["whole step"]
        print(f"whole step {whole:.1f} ms; with malloc as it is {1e3 * with_default:.1f} ms", flush=True)


def encoder(options):
    """Encoder forward + backward, and its rate as a share of one large product's."""
    keep_freed_buffers()
    variants, flops, rates = {}, encoder_flops(options.channels, options.windows), product_rates()
    x = torch.randn(options.windows, S)
    for norm in ("channel", "none"):
        for precision in rates:
            for compiled in (False, True) if options.compile else (False,):
                network = Encoder(options.channels, norm=norm)
                encode = torch.compile(network, dynamic=False) if compiled else network

                def run(network=network, encode=encode, precision=precision):
                    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                        z = encode(x)
                    z.float().sum().backward()
                    network.zero_grad(set_to_none=True)

                variants[f"ours, norm {norm}, {precision}{', compiled' if compiled else ''}"] = run
    plain = PlainCPC(options.channels)

    def run_plain():
        plain.encode(x).sum().backward()
        plain.zero_grad(set_to_none=True)

    seconds = median_seconds({"plain (Conv1d, channel norm), float32": run_plain, **variants}, options.rounds)
    shares = {
        name: (f"{100 * flops / value / rates['bf16' if 'bf16' in name else 'float32']:4.0f} % of the product's rate",)
        for name, value in seconds.items()
    }
    print_table(seconds, "plain (Conv1d, channel norm), float32", shares)


def criterion(options):
    """InfoNCE forward + backward of each scheme against gathered negatives."""
    keep_freed_buffers()
    b = options.windows
    z = torch.randn(b, FRAMES, options.channels, requires_grad=True)
    predictions = (torch.randn(K, b, FRAMES, options.channels) / 16).requires_grad_()
    c = torch.randn(b, FRAMES, 256, requires_grad=True)
    plain = PlainCPC(options.channels)

    def run_of(scheme, num_negatives):
        speaker, utterance = [i // 4 for i in range(b)], list(range(b))
        negatives = Negatives.of(scheme, speaker, utterance, [FRAMES] * b, num_negatives=num_negatives)
        return lambda: infonce(z, predictions, negatives).losses.mean().backward()

    base = "plain: 128 gathered an anchor (and W_k)"
    variants = {base: lambda: plain.criterion(z, c).backward()}
    for scheme in Scheme.__args__:
        variants[f"{scheme}, all"] = run_of(scheme, 0)
    variants["mixed_speaker, 128 drawn"] = run_of("mixed_speaker", 128)
    print_table(median_seconds(variants, options.rounds), base)


def embedding_losses(options):
    """Losses of embeddings, forward + backward: all scores at once against blocks; seconds and the peak of memory."""
    if options.variant:
        name, n, chunk_size = options.variant.split(",")
        chunk_size = int(chunk_size) or None
        x = torch.randn(int(n), options.channels, requires_grad=True)
        y = torch.randn(int(n), options.channels, requires_grad=True)
        labels = torch.arange(int(n)) // 4
        run = {
            "info_nce": lambda: info_nce(x, y, chunk_size=chunk_size),
            "symmetric": lambda: info_nce(x, y, symmetric=True, chunk_size=chunk_size),
            "nt_xent": lambda: nt_xent(x, labels, chunk_size=chunk_size),
            "sup_con": lambda: sup_con(x, labels, chunk_size=chunk_size),
        }[name]
        info_nce(x[:8], y[:8], chunk_size=4).backward()  # modules that torch imports when they are first used
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        run().backward()
        taken = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps([taken, peak / 1024, (peak - before) / 1024]))
        return
    largest = options.embeddings
    for name in ("info_nce", "symmetric", "nt_xent", "sup_con"):
        for n, chunk_size in ((largest // 4, 0), (largest // 4, 256), (largest, 256)):
            taken, peak, more = json.loads(alone(options, "losses", f"{name},{n},{chunk_size}").splitlines()[-1])
            kind = f"{chunk_size} rows at a time" if chunk_size else "all scores at once"
            print(f"{name:10s} {n:6d} x {options.channels}, {kind:20s} {taken:7.2f} s, "
                  f"peak {peak:6.0f} MB, {more:6.0f} MB more than before", flush=True)  # fmt: skip


# --- data, features, probes: on a real corpus


def data(options):
    """Windows per second from files and from memory; start-up with a manifest of many rows."""
    with tempfile.TemporaryDirectory() as folder:
        short = read_manifest(options.manifest)
        for rows in (len(short), options.rows):
            table = pd.concat([short.table] * -(-rows // len(short)), ignore_index=True).head(rows)
            table["path"] = [str((short.root / path).resolve()) for path in table["path"]]
            table["utterance"] = [f"{name}-{i}" for i, name in enumerate(table["utterance"])]
            path = Path(folder) / "manifest.csv"
            table.to_csv(path, index=False)
            before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
            manifest = read_manifest(path)
            read = time.perf_counter() - began
            windows = Windows(manifest, resample=True)
            sampler = BatchSampler(windows, 0, 10, kind="mixed", num_windows=8, windows_per_group=4, seed=0)
            first = next(iter(sampler))
            total = time.perf_counter() - began
            hours = windows.num_samples.sum() / 16000 / 3600
            more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            print(f"{rows:8d} rows, {hours:7.1f} h: manifest {read:.1f} s, first batch at {total:.1f} s, {more:.0f} MB")
        assert len(first) == 8
    for name, megabytes in (("files, with their statistics", 0), ("files", 0), ("memory", 4096), ("cache", 0)):
        if name != "files":
            cache = tempfile.TemporaryDirectory() if name == "cache" else None
            windows = Windows(short, resample=True, cache_megabytes=megabytes, cache=cache.name if cache else "")
        order = np.random.default_rng(0).permutation(len(windows))[:400]
        if name == "memory":
            for i in order:
                windows[0, int(i)]
        began = time.perf_counter()
        for i in order:
            windows[0, int(i)]
        print(f"{name:40s} {len(order) / (time.perf_counter() - began):9.0f} windows/s a process")


def hours(options):
    """A corpus of many hours, the manifest's files again and again under other names: start-up, rate, memory, cache.

    The files themselves are few, so the system has them in memory: what is measured is our part, not a disk.
    """
    if options.variant:
        open_hours(options)
        return
    short = read_manifest(options.manifest)
    corpus_hours = (short.table["num_samples"] / short.table["sample_rate"]).sum() / 3600
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for copy in range(max(1, round(options.hours / corpus_hours))):
            for i in range(len(short)):
                link = folder / "sound" / f"{copy:04d}" / short.table["path"][i]
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(short.audio_path(i).resolve())
        began = time.perf_counter()
        table = scan_folder(folder / "sound", speaker="none", progress=False).manifest
        write_manifest(table, folder / "sound" / "manifest.csv")
        print(f"cpc manifest: {len(table)} files in {time.perf_counter() - began:.1f} s", flush=True)
        for name in ("files", "cache"):
            print(
                alone(options, "hours", name, "--manifest", str(folder / "sound" / "manifest.csv")), end="", flush=True
            )


def open_hours(options):
    """Read windows at random, from the files or from a cache on disk; the memory of the process must level out."""
    before, began = private_megabytes(), time.perf_counter()
    table = read_manifest(options.manifest)
    cache = str(table.root / "cache") if options.variant == "cache" else ""
    windows = Windows(table, resample=True, cache_megabytes=256, cache=cache)
    opened, audio_hours = time.perf_counter() - began, windows.num_samples.sum() / windows.sample_rate / 3600
    parts = np.array_split(np.random.default_rng(0).permutation(len(windows))[:4000], 4)
    marks, began = [], time.perf_counter()
    for part in parts:
        for i in part:
            windows[0, int(i)]
        marks.append(f"{private_megabytes() - before:.0f}")
    count = sum(map(len, parts))
    rate = count / (time.perf_counter() - began)
    print(f"{options.variant:6s} {audio_hours:6.1f} h: opened in {opened:6.1f} s, {rate:6.0f} windows/s a process; "
          f"{', '.join(marks)} MB of its own more after each quarter of {count} windows")  # fmt: skip


def private_megabytes():
    """Memory of this process alone: without pages of mapped files, which the system takes back when it needs them."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"^RssAnon:\s+(\d+) kB", status, re.M)[1]) / 1024


def feature_rate(options):
    """Features: times real time of short files, side by side; and of long files in constant memory."""
    if options.variant:
        long_file(options)
        return
    short = read_manifest(options.manifest)
    seconds = (short.table["num_samples"] / short.table["sample_rate"]).sum()
    network = network_of(options)
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("float32", "bf16"):
            layer = f"c, {precision}"
            extractor = CPCExtractor(network, "c", precision=precision)
            began = time.perf_counter()
            extract_features(extractor, short, Path(folder) / layer, resample=True, progress=False)
            taken = time.perf_counter() - began
            print(f"{layer}: {len(short)} files, {seconds:.0f} s in {taken:.1f} s: {seconds / taken:.0f} x real time")
    print(alone(options, "features", "long"), end="")


def long_file(options):
    """One file of an hour, and of ten minutes before: the peak of memory must not grow with the length."""
    with tempfile.TemporaryDirectory() as folder:
        for minutes in (10, 60):
            sound = Path(folder) / str(minutes) / "long.flac"
            sound.parent.mkdir()
            with soundfile.SoundFile(sound, "w", 16000, 1) as file:
                for i in range(minutes):
                    file.write(0.1 * np.random.default_rng(i).standard_normal(16000 * 60))
            table = scan_folder(sound.parent, speaker="none", progress=False).manifest
            began = time.perf_counter()
            extract_features(CPCExtractor(network_of(options), "c", precision="bf16"), table,
                             Path(folder) / f"f{minutes}", progress=False)  # fmt: skip
            taken, peak = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"c, bf16: a file of {minutes} min: {60 * minutes / taken:.0f} x real time, peak {peak:.0f} MB")


def network_of(options):
    """A random model of the wanted width, without normalisation."""
    parts = Config()
    return build_model(replace(parts, encoder=replace(parts.encoder, channels=options.channels, norm="none")))


def probes(options):
    """Time and accuracy of scikit-learn's solvers against frames: synthetic frames of 40 classes."""
    rng, dim = np.random.default_rng(0), options.channels
    means = 0.14 * rng.standard_normal((40, dim))
    # Directions of very different size, turned: as ill-conditioned as a network's features are.
    mixing = np.logspace(0, -2, dim)[:, None] * np.linalg.qr(rng.standard_normal((dim, dim)))[0]

    def draw(count):
        y = rng.integers(40, size=count)
        x = (means[y] + rng.standard_normal((count, dim))) @ mixing
        return (x / x.std(axis=0)).astype(np.float32), y

    def stream(x, y, x_dev, y_dev):
        def blocks(epoch):
            order = np.random.default_rng(epoch).permutation(len(x))
            for first in range(0, len(x), BLOCK_FRAMES):
                rows = order[first : first + BLOCK_FRAMES]
                yield x[rows], y[rows]

        return streamed(blocks, len(x), np.arange(40), x_dev, y_dev, (0.1,), 0, lambda line: None)[0].model

    x_dev, y_dev = draw(20_000)
    for frames in options.frames:
        x, y = draw(frames)
        solvers = {
            "lbfgs": LogisticRegression(C=0.1, max_iter=200, tol=TOL),
            "newton-cg": LogisticRegression(C=0.1, max_iter=50, tol=1e-3, solver="newton-cg"),
            "saga": LogisticRegression(C=0.1, max_iter=20, tol=1e-3, solver="saga"),
            "SGD (partial_fit, 5 passes)": SGDClassifier("log_loss", alpha=1e-5, average=True, random_state=0),
            "streaming (cpc.probes.classifiers.streamed)": None,
        }
        for name, solver in solvers.items():
            if frames > 50_000 and name in ("newton-cg", "saga"):
                continue
            began = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                if solver is None:
                    solver = stream(x, y, x_dev, y_dev)
                elif name.startswith("SGD"):
                    for _ in range(5):
                        for first in range(0, frames, 10_000):
                            part = slice(first, first + 10_000)
                            solver.partial_fit(x[part], y[part], classes=np.arange(40))
                else:
                    solver.fit(x, y)
            taken = time.perf_counter() - began
            print(f"{frames:8d} frames x {dim}  {name:40s} {taken:7.1f} s  accuracy "
                  f"{100 * (solver.predict(x_dev) == y_dev).mean():.2f}", flush=True)  # fmt: skip


TABLES = {
    "step": step, "account": account, "encoder": encoder, "criterion": criterion, "losses": embedding_losses,
    "data": data, "hours": hours, "features": feature_rate, "probes": probes,
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--windows", type=int, default=8, help="in a batch")
    parser.add_argument("--rounds", type=int, default=7, help="medians are over this many")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--embeddings", type=int, default=32_768, help="N of the largest batch of losses")
    parser.add_argument("--compile", action="store_true", help="also torch.compile (a minute more)")
    parser.add_argument("--manifest", default="runs/minispeech/corpus/manifest.csv", help="of data, hours and features")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the large manifest of data")
    parser.add_argument(
        "--hours", type=float, default=100, help="of sound in the table hours; the cache takes 115 MB each"
    )
    parser.add_argument("--frames", type=int, nargs="+", default=[50_000, 200_000, 1_000_000], help="of probes")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    parser.add_argument("--default-malloc", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.variant:
        print(
            f"torch {torch.__version__}, {options.threads} threads, precision auto = "
            f"{resolve_precision('auto', torch.device('cpu'))}; {options.channels} channels, {options.windows} windows"
        )
    TABLES[options.table](options)


if __name__ == "__main__":
    main()
