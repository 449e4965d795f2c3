"""Print one table of tests/bench/README.md.

Variants take turns in one process, and the table shows medians, so trust the ratios rather than the milliseconds.
Peaks of memory are measured in a process of their own.
"""

import argparse
from pathlib import Path

import torch

from cpc.devices import resolve_precision
from tests.bench.contention import print_contention
from tests.bench.corpus import print_data, print_features, print_hours
from tests.bench.losses import print_losses
from tests.bench.parts import print_account, print_criterion, print_encoder
from tests.bench.probes import print_probes
from tests.bench.race import print_memory, print_race
from tests.bench.ranks import print_ranks
from tests.bench.steps import print_steps

TABLES = {
    "step": print_steps,
    "account": print_account,
    "encoder": print_encoder,
    "criterion": print_criterion,
    "losses": print_losses,
    "data": print_data,
    "hours": print_hours,
    "features": print_features,
    "probes": print_probes,
    "contention": print_contention,
    "ranks": print_ranks,
    "race": print_race,
    "memory": print_memory,
}


def read_options() -> argparse.Namespace:
    """Read the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__, formatter_class=raw)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--channels", type=int, default=256, help="width of the encoder, or of embeddings and frames")
    parser.add_argument("--windows", type=int, default=8, help="windows in a batch")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds, of which the table shows the median")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--embeddings", type=int, default=32_768, help="losses: N of the largest batch")
    parser.add_argument("--compile", action="store_true", help="also time torch.compile, which takes a minute more")
    parser.add_argument(
        "--manifest",
        default="runs/minispeech/corpus/manifest.csv",
        help="data, hours, features, contention, ranks, race: the corpus (CSV)",
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="data: rows of the large manifest")
    parser.add_argument(
        "--hours", type=float, default=100, help="hours: length of the corpus; the cache takes 115 MB for each hour"
    )
    parser.add_argument(
        "--frames", type=int, nargs="+", default=[50_000, 200_000, 1_000_000], help="probes: numbers of train frames"
    )
    parser.add_argument(
        "--minutes", type=int, nargs="+", default=[10, 60], help="features: lengths of the long files, ascending"
    )
    parser.add_argument("--seconds", type=float, default=10, help="contention: length of a measurement")
    parser.add_argument("--theirs", type=Path, default=Path("CPC_audio"), help="race, memory: a clone of CPC_audio")
    parser.add_argument("--race-minutes", type=float, default=20, help="race: minutes of training that theirs has")
    parser.add_argument("--variant", help=argparse.SUPPRESS)  # one row of a table, in a process of its own
    parser.add_argument("--default-malloc", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Print the table that the command line names."""
    options = read_options()
    torch.set_num_threads(options.threads)
    if not options.variant:
        precision = resolve_precision("auto", torch.device("cpu"))
        sizes = f"{options.channels} channels, {options.windows} windows"
        print(f"torch {torch.__version__}, {options.threads} threads, precision auto = {precision}; {sizes}")
    TABLES[options.table](options)


if __name__ == "__main__":
    main()
