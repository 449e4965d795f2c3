"""What InfoNCE learns, where the truth is known: correlated Gaussians.

    python recipes/density_ratio/run.py [--out runs/density_ratio] [--nats 2 8] [--dim 8] [--seeds 3]

x and c have `dim` independent pairs of coordinates with correlation rho, so that I(x; c) = − dim/2 · log(1 − rho²) nats
and log p(x|c)/p(x) are known. Two critics f(x, c) = exp(score) are trained with InfoNCE on fresh samples:

    log-bilinear   xᵀ W c                      on x and c as they are
    neural         g(x)ᵀ h(c)                  g and h with two hidden layers: the paper's form, with encoders

and put in --out: bound.png, log N − loss against the truth over the number of candidates N; ratio.png, the learned
score against the true log ratio; results.json, which also has the settings. A table is printed.

Source: van den Oord et al. 2018, section 2.3 and appendix A.1.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from cpc.files import write_bytes
from cpc.losses import info_nce, mutual_information_bound

CRITICS = {"log-bilinear": 2e-2, "neural": 2e-3}  # and the learning rate at which each gets there
COLOURS = {"log-bilinear": "tab:orange", "neural": "tab:blue", "true ratio": "black"}


class Critic(nn.Module):
    """Embeddings of x and c whose dot product is the score."""

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
    """Embeddings whose dot product is log p(x|c)/p(x) but for a function of c, which cancels among candidates x.

    log p(x|c)/p(x) = (rho xᵀc − rho²/2 |x|² − rho²/2 |c|²) / (1 − rho²) + I: bilinear, but for the term in |x|².
    """
    square = -(rho**2) / 2 * x.square().sum(1, keepdim=True)
    return torch.cat([x, square], 1), torch.cat([rho * c, torch.ones_like(c[:, :1])], 1) / (1 - rho**2)


def draw(rho: float, count: int, dim: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pairs (x, c) of standard normal coordinates with correlation rho."""
    c, noise = torch.randn(2, count, dim, generator=generator)
    return rho * c + math.sqrt(1 - rho**2) * noise, c


def loss_of(embedded: tuple[Tensor, Tensor]) -> Tensor:
    """InfoNCE of N pairs: each c picks its x out of all N."""
    of_x, of_c = embedded
    return info_nce(of_c, of_x, temperature=1.0, similarity="dot")


def train(kind: str, rho: float, options: argparse.Namespace, seed: int, bar: tqdm) -> Critic:
    """A critic trained on fresh pairs, its learning rate on a cosine."""
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
def bounds_of(embed, rho: float, options: argparse.Namespace) -> list[float]:
    """Log N − loss for each N, on pairs that are alike for every critic and were in no training."""
    out = []
    for n in options.candidates:
        generator = torch.Generator().manual_seed(10**6 + n)
        sets = max(16, min(1000, 2 * options.largest // n))
        loss = sum(loss_of(embed(*draw(rho, n, options.dim, generator))).item() for _ in range(sets)) / sets
        out.append(mutual_information_bound(loss, n).value.item())
    return out


@torch.no_grad()
def scores_of(embed, rho: float, options: argparse.Namespace) -> np.ndarray:
    """(contexts, candidates) scores less each context's mean; column 0 is drawn from p(x|c), the rest from p(x)."""
    x, c = draw(rho, 200, options.dim, torch.Generator().manual_seed(7))
    of_x, of_c = embed(x, c)
    scores = of_c @ of_x.T  # row i: its own x is in column i
    scores = torch.stack([row.roll(-i) for i, row in enumerate(scores)])
    return (scores - scores.mean(1, keepdim=True)).numpy()


def run(options: argparse.Namespace) -> None:
    """The experiment, from top to bottom."""
    options.candidates = [2**i for i in range(1, int(math.log2(options.largest)) + 1)]
    rhos = {nats: math.sqrt(1 - math.exp(-2 * nats / options.dim)) for nats in options.nats}
    results, scores = [], {}
    num_updates = len(rhos) * len(CRITICS) * options.seeds * options.updates
    with tqdm(total=num_updates, unit="update", disable=None) as bar:
        for nats, rho in rhos.items():

            def truth(x: Tensor, c: Tensor, rho: float = rho) -> tuple[Tensor, Tensor]:
                return true_ratio(rho, x, c)

            expected = scores[nats, "true ratio"] = scores_of(truth, rho, options)
            results.append(
                {"nats": nats, "critic": "true ratio", "seed": None, "bounds": bounds_of(truth, rho, options)}
            )
            for kind in CRITICS:
                for seed in range(options.seeds):
                    bar.set_description(f"{nats:g} nats, {kind}, seed {seed}")
                    critic = train(kind, rho, options, seed, bar)
                    learned = scores_of(critic, rho, options)
                    scores.setdefault((nats, kind), learned)  # the first seed is drawn
                    results.append({
                        "nats": nats, "critic": kind, "seed": seed, "bounds": bounds_of(critic, rho, options),
                        "correlation": float(np.corrcoef(learned.ravel(), expected.ravel())[0, 1]),
                        "slope": float(np.polyfit(expected.ravel(), learned.ravel(), 1)[0]),
                    })  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    write_bytes(options.out / "results.json", json.dumps({"settings": settings, "results": results}, indent=1).encode())
    bound_picture(results, rhos, options).savefig(options.out / "bound.png", dpi=80)
    ratio_picture(scores, rhos).savefig(options.out / "ratio.png", dpi=80)
    print(table(results, rhos, options))


def ceiling_of(kind: str, nats: float, rho: float, dim: int) -> float:
    """What the bound of a critic tends to with N, had it learned all it can.

    Without the term in |x|² the best is W = rho · 1: E[rho xᵀc] − E log E exp(rho xᵀc) = rho² dim − rho² dim / 2.
    """
    return rho**2 * dim / 2 if kind == "log-bilinear" else nats


def table(results: list[dict], rhos: dict[float, float], options: argparse.Namespace) -> str:
    """Rows of truth and critics, mean ± deviation over the seeds."""
    n = options.candidates[-1]
    lines = [
        f"| I(x; c) | critic | limit, N → ∞ | bound at N = {n} (log N = {math.log(n):.2f}) | correlation | slope |",
        "| ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for nats, rho in rhos.items():
        for kind in ("true ratio", *CRITICS):
            of = [row for row in results if row["nats"] == nats and row["critic"] == kind]
            cells = [f"{nats:g}", kind, f"{ceiling_of(kind, nats, rho, options.dim):.2f}"]
            cells.append(spread([row["bounds"][-1] for row in of]))
            cells += [spread([row[key] for row in of]) if key in of[0] else "1" for key in ("correlation", "slope")]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean ± standard deviation, the latter where there are several."""
    more = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{more}"


def bound_picture(results: list[dict], rhos: dict[float, float], options: argparse.Namespace) -> Figure:
    """Bounds over N, a panel for each mutual information."""
    figure = Figure(figsize=(5 * len(rhos), 4), layout="constrained")
    for axes, (nats, rho) in zip(figure.subplots(1, len(rhos), squeeze=False)[0], rhos.items(), strict=True):
        n = np.array(options.candidates)
        axes.plot(n, np.log(n), ":", color="grey", label="ceiling log N")
        axes.axhline(nats, color="grey", label="truth")
        limit = ceiling_of("log-bilinear", nats, rho, options.dim)
        axes.axhline(limit, ls="--", color=COLOURS["log-bilinear"], lw=0.8, label="limit of log-bilinear")
        for kind in ("true ratio", *CRITICS):
            bounds = np.array([row["bounds"] for row in results if row["nats"] == nats and row["critic"] == kind])
            style = {"ls": "--", "marker": "x"} if kind == "true ratio" else {"marker": "."}
            axes.plot(n, bounds.mean(0), color=COLOURS[kind], label=kind, **style)
            axes.fill_between(n, bounds.min(0), bounds.max(0), color=COLOURS[kind], alpha=0.2)
        axes.set_xscale("log", base=2)
        axes.set_ylim(0, 1.15 * nats)
        axes.set(xlabel="N candidates", ylabel="log N − loss, nats", title=f"I(x; c) = {nats:g} nats, rho = {rho:.2f}")
        axes.legend(fontsize=8)
    return figure


def ratio_picture(scores: dict, rhos: dict[float, float]) -> Figure:
    """Learned scores against the truth, each context's mean removed."""
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
            axes.set(
                title=f"{kind}, {nats:g} nats: r = {correlation:.3f}", ylabel="learned score − mean of the context"
            )
            axes.set_xlabel("log p(x|c)/p(x) − mean of the context")
            axes.legend(fontsize=8, loc="upper left")
    return figure


def main() -> None:
    """Read the options, run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/density_ratio"), help="folder of the results")
    parser.add_argument("--nats", type=float, nargs="+", default=[2.0, 8.0], help="mutual informations to try")
    parser.add_argument("--dim", type=int, default=8, help="of x and of c")
    parser.add_argument("--updates", type=int, default=1500, help="of each critic")
    parser.add_argument("--batch-size", type=int, default=512, help="pairs of an update, and so its candidates")
    parser.add_argument("--largest", type=int, default=4096, help="the largest N of the pictures")
    parser.add_argument("--seeds", type=int, default=3, help="critics of each kind: seeds 0, 1, …")
    options = parser.parse_args()
    for name in ("dim", "updates", "seeds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: got {getattr(options, name)}, expected 1 or more")
    if min(options.batch_size, options.largest) < 2:
        parser.error(f"--batch-size, --largest: got {options.batch_size}, {options.largest}, expected 2 or more")
    if min(options.nats) <= 0:
        parser.error(f"--nats: got {min(options.nats)}, expected above 0")
    try:
        run(options)
    except KeyboardInterrupt:
        sys.exit("interrupted")


if __name__ == "__main__":
    main()
