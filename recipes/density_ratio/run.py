"""Test what InfoNCE learns on correlated Gaussians, where the truth is known.

    python recipes/density_ratio/run.py [--out runs/density_ratio] [--nats 2 8] [--dim 8] [--seeds 3]

x and c have `dim` independent pairs of coordinates with correlation rho, so that I(x; c) = − dim/2 · log(1 − rho²) nats
and log p(x|c)/p(x) are known. Two critics f(x, c) = exp(score) are trained with InfoNCE on fresh samples:

    log-bilinear   xᵀ W c                      applied to x and c directly
    neural         g(x)ᵀ h(c)                  g and h have two hidden layers: the paper's form, with encoders

The script prints a table and writes to --out: bound.png, which compares log N − loss with the truth for each number of
candidates N; ratio.png, which compares the learned scores with the true log ratio; and results.json, which also
contains the settings.

Source: van den Oord et al. 2018, section 2.3 and appendix A.1.
"""

import argparse
import itertools
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from cpc.experiments import at_least
from cpc.files import write_json
from cpc.losses import info_nce, mutual_information_bound
from cpc.report import markdown_table, mean_and_deviation, save_figure

CRITICS = {"log-bilinear": 2e-2, "neural": 2e-3}  # with a learning rate at which each converges
DPI = 80  # of the figures

Embed = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # x, c → embeddings whose dot product is the score
COLOURS = {"log-bilinear": "tab:orange", "neural": "tab:blue", "true ratio": "black"}


class Critic(nn.Module):
    """A critic that embeds x and c; the dot product of the embeddings is the score."""

    def __init__(self, kind: str, dim: int, hidden: int = 128, embedding_dim: int = 32) -> None:
        super().__init__()

        def encoder() -> nn.Module:
            layers = [nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU()]
            return nn.Sequential(*layers, nn.Linear(hidden, embedding_dim))

        if kind == "log-bilinear":
            self.of_x, self.of_c = nn.Identity(), nn.Linear(dim, dim, bias=False)
        else:
            self.of_x, self.of_c = encoder(), encoder()

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return self.of_x(x), self.of_c(c)


def true_ratio(rho: float, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Embed x and c so that the dot product is log p(x|c)/p(x) up to a function of c, which cancels among candidates.

    log p(x|c)/p(x) = (rho xᵀc − rho²/2 |x|² − rho²/2 |c|²) / (1 − rho²) + I is bilinear except for the term in |x|².
    """
    square = -(rho**2) / 2 * x.square().sum(1, keepdim=True)
    return torch.cat([x, square], 1), torch.cat([rho * c, torch.ones_like(c[:, :1])], 1) / (1 - rho**2)


def draw(rho: float, count: int, dim: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw pairs (x, c) of standard normal coordinates with correlation rho, each (count, dim)."""
    c, noise = torch.randn(2, count, dim, generator=generator)
    return rho * c + math.sqrt(1 - rho**2) * noise, c


def loss_of(embedded: tuple[Tensor, Tensor]) -> Tensor:
    """Compute InfoNCE of N pairs: each c identifies its x among all N."""
    of_x, of_c = embedded
    return info_nce(of_c, of_x, temperature=1.0, similarity="dot")


def train(kind: str, rho: float, options: argparse.Namespace, seed: int, bar: tqdm) -> Critic:
    """Train a critic on fresh pairs, with a cosine schedule of the learning rate."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    critic = Critic(kind, options.dim)
    optimiser = torch.optim.Adam(critic.parameters(), lr=CRITICS[kind])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.updates)
    for _ in range(options.updates):
        loss = loss_of(critic(*draw(rho, options.batch_size, options.dim, generator)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        bar.update()
    return critic


@torch.no_grad()
def bounds_of(embed: Embed, rho: float, options: argparse.Namespace) -> list[float]:
    """Compute log N − loss for each N, on test pairs that are the same for every critic."""
    bounds = []
    for n in candidates(options):
        generator = torch.Generator().manual_seed(10**6 + n)
        sets = max(16, min(1000, 2 * options.largest // n))
        loss = sum(loss_of(embed(*draw(rho, n, options.dim, generator))).item() for _ in range(sets)) / sets
        bounds.append(mutual_information_bound(loss, n).value.item())
    return bounds


@torch.no_grad()
def scores_of(embed: Embed, rho: float, options: argparse.Namespace) -> np.ndarray:
    """Compute scores (contexts, candidates) minus each context's mean.

    In column 0, x is drawn from p(x|c), in the other columns from p(x).
    """
    x, c = draw(rho, 200, options.dim, torch.Generator().manual_seed(7))
    of_x, of_c = embed(x, c)
    scores = of_c @ of_x.T  # row i has its own x in column i
    scores = torch.stack([row.roll(-i) for i, row in enumerate(scores)])
    return (scores - scores.mean(1, keepdim=True)).numpy()


def candidates(options: argparse.Namespace) -> list[int]:
    """List the numbers of candidates N at which the bound is measured."""
    return [2**i for i in range(1, int(math.log2(options.largest)) + 1)]


def run(options: argparse.Namespace) -> None:
    """Run the experiment."""
    rhos = {nats: math.sqrt(1 - math.exp(-2 * nats / options.dim)) for nats in options.nats}
    results, scores = [], {}
    num_updates = len(rhos) * len(CRITICS) * options.seeds * options.updates
    with tqdm(total=num_updates, unit="update", disable=None) as bar:
        for nats, rho in rhos.items():
            truth = partial(true_ratio, rho)
            expected = scores[nats, "true ratio"] = scores_of(truth, rho, options)
            row = {"nats": nats, "critic": "true ratio", "seed": None, "bounds": bounds_of(truth, rho, options)}
            results.append(row)
            for kind, seed in itertools.product(CRITICS, range(options.seeds)):
                bar.set_description(f"{nats:g} nats, {kind}, seed {seed}")
                critic = train(kind, rho, options, seed, bar)
                learned = scores_of(critic, rho, options)
                scores.setdefault((nats, kind), learned)  # the figure shows the first seed
                row = {"nats": nats, "critic": kind, "seed": seed, "bounds": bounds_of(critic, rho, options)}
                row["correlation"] = float(np.corrcoef(learned.ravel(), expected.ravel())[0, 1])
                row["slope"] = float(np.polyfit(expected.ravel(), learned.ravel(), 1)[0])
                results.append(row)
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    settings["candidates"] = candidates(options)
    write_json(options.out / "results.json", {"settings": settings, "results": results})
    save_figure(bound_figure(results, rhos, options), options.out / "bound.png", dpi=DPI)
    save_figure(ratio_figure(scores, rhos), options.out / "ratio.png", dpi=DPI)
    print(table(results, rhos, options))


def limit_of(kind: str, nats: float, rho: float, dim: int) -> float:
    """Return the limit of the bound for N → ∞ of a critic that has learned all it can.

    Without the term in |x|², the best W is rho · 1: E[rho xᵀc] − E log E exp(rho xᵀc) = rho² dim − rho² dim / 2.
    """
    return rho**2 * dim / 2 if kind == "log-bilinear" else nats


def table(results: list[dict], rhos: dict[float, float], options: argparse.Namespace) -> str:
    """Format a table of the truth and the critics, with mean ± deviation over the seeds."""
    n = candidates(options)[-1]
    bound = f"bound at N = {n} (log N = {math.log(n):.2f})"
    rows = [["critic", "I(x; c)", "limit, N → ∞", bound, "correlation", "slope"]]
    for (nats, rho), kind in itertools.product(rhos.items(), ("true ratio", *CRITICS)):
        runs = [row for row in results if row["nats"] == nats and row["critic"] == kind]
        bounds = mean_and_deviation([row["bounds"][-1] for row in runs], decimals=3)
        correlation, slope = (
            mean_and_deviation([row[key] for row in runs], decimals=3) if key in runs[0] else "1"
            for key in ("correlation", "slope")
        )
        limit = f"{limit_of(kind, nats, rho, options.dim):.2f}"
        rows.append([kind, f"{nats:g}", limit, bounds, correlation, slope])
    return markdown_table(rows)


def bound_figure(results: list[dict], rhos: dict[float, float], options: argparse.Namespace) -> Figure:
    """Plot the bounds against N, with one panel for each mutual information."""
    figure = Figure(figsize=(5 * len(rhos), 4), layout="constrained")
    for axes, (nats, rho) in zip(figure.subplots(1, len(rhos), squeeze=False)[0], rhos.items(), strict=True):
        n = np.array(candidates(options))
        axes.plot(n, np.log(n), ":", color="grey", label="ceiling log N")
        axes.axhline(nats, color="grey", label="truth")
        limit = limit_of("log-bilinear", nats, rho, options.dim)
        axes.axhline(limit, ls="--", color=COLOURS["log-bilinear"], lw=0.8, label="limit, log-bilinear")
        for kind in ("true ratio", *CRITICS):
            bounds = np.array([row["bounds"] for row in results if row["nats"] == nats and row["critic"] == kind])
            style = {"ls": "--", "marker": "x"} if kind == "true ratio" else {"marker": "."}
            axes.plot(n, bounds.mean(0), color=COLOURS[kind], label=kind, **style)
            axes.fill_between(n, bounds.min(0), bounds.max(0), color=COLOURS[kind], alpha=0.2)
        axes.set_xscale("log", base=2)
        axes.set_ylim(0, 1.15 * nats)
        axes.set(xlabel="candidates N", ylabel="log N − loss (nats)", title=f"I(x; c) = {nats:g} nats, rho = {rho:.2f}")
        axes.legend(fontsize=8)
    return figure


def ratio_figure(scores: dict, rhos: dict[float, float]) -> Figure:
    """Plot the learned scores against the true log ratio, minus each context's mean."""
    figure = Figure(figsize=(5 * len(rhos), 8), layout="constrained")
    grid = figure.subplots(len(CRITICS), len(rhos), squeeze=False)
    for column, nats in enumerate(rhos):
        expected = scores[nats, "true ratio"]
        for axes, kind in zip(grid[:, column], CRITICS, strict=True):
            learned = scores[nats, kind]
            axes.plot(expected[:, 1::8].ravel(), learned[:, 1::8].ravel(), ",", color="grey", label="x from p(x)")
            axes.plot(expected[:, 0], learned[:, 0], ".", ms=3, color=COLOURS[kind], label="x from p(x|c)")
            axes.axline((0, 0), slope=1, color="black", lw=0.8)
            correlation = np.corrcoef(learned.ravel(), expected.ravel())[0, 1]
            axes.set_title(f"{kind}, {nats:g} nats: r = {correlation:.3f}")
            axes.set_xlabel("log p(x|c)/p(x) − mean of the context")
            axes.set_ylabel("learned score − mean of the context")
            axes.legend(fontsize=8, loc="upper left")
    return figure


def main() -> None:
    """Parse the options and run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/density_ratio"), help="folder for the results")
    parser.add_argument("--nats", type=float, nargs="+", default=[2.0, 8.0], help="values of the mutual information")
    parser.add_argument("--dim", type=at_least(1), default=8, help="dimension of x and of c")
    parser.add_argument("--updates", type=at_least(1), default=1500, help="updates of each critic")
    parser.add_argument("--batch-size", type=at_least(2), default=512, help="pairs per update; also N in training")
    parser.add_argument("--largest", type=at_least(2), default=4096, help="largest N at which the bound is measured")
    parser.add_argument(
        "--seeds", type=at_least(1), default=3, help="number of critics of each kind; their seeds are 0, 1, …"
    )
    options = parser.parse_args()
    if min(options.nats) <= 0:
        parser.error(f"--nats: got {min(options.nats)}, expected above 0")
    try:
        run(options)
    except KeyboardInterrupt:
        sys.exit("interrupted")


if __name__ == "__main__":
    main()
