"""Time the losses of embeddings: all scores at once against blocks of rows."""

import time
from argparse import Namespace

import torch

from cpc.losses import info_nce, nt_xent, sup_con
from tests.bench.common import peak_megabytes, print_result, result_of_variant


def print_losses(options: Namespace) -> None:
    """Print seconds and peak memory of the forward and backward passes of each loss."""
    if options.variant:
        name, n, chunk_size = options.variant.split(",")
        _measure(name, int(n), options.channels, int(chunk_size) or None)
        return
    largest = options.embeddings
    for name in ("info_nce", "symmetric", "nt_xent", "sup_con"):
        for n, chunk_size in ((largest // 4, 0), (largest // 4, 256), (largest, 256)):
            taken, peak, more = result_of_variant(options, "losses", f"{name},{n},{chunk_size}")
            kind = f"{chunk_size} rows at a time" if chunk_size else "all scores at once"
            sizes = f"{name:10s} {n:6d} x {options.channels}, {kind:20s}"
            print(f"{sizes} {taken:7.2f} s, peak {peak:6.0f} MB, {more:6.0f} MB more than before", flush=True)


def _measure(name: str, n: int, dim: int, chunk_size: int | None) -> None:
    """Print seconds, the resident peak and its growth, in MB, of one loss on (n, dim) embeddings."""
    x, y = torch.randn(n, dim, requires_grad=True), torch.randn(n, dim, requires_grad=True)
    labels = torch.arange(n) // 4
    run = {
        "info_nce": lambda: info_nce(x, y, chunk_size=chunk_size),
        "symmetric": lambda: info_nce(x, y, symmetric=True, chunk_size=chunk_size),
        "nt_xent": lambda: nt_xent(x, labels, chunk_size=chunk_size),
        "sup_con": lambda: sup_con(x, labels, chunk_size=chunk_size),
    }[name]
    info_nce(x[:8], y[:8], chunk_size=4).backward()  # torch imports some of its modules on first use
    before, began = peak_megabytes(), time.perf_counter()
    run().backward()
    taken, peak = time.perf_counter() - began, peak_megabytes()
    print_result([taken, peak, peak - before])
