"""Learn what is in images by predicting rows of patches, and compare where the negatives come from.

    python recipes/vision/run.py --root CIFAR-10-images [--out runs/vision] [--seeds 0 1 2]

Every image is cut into 7 × 7 overlapping patches; from the rows above, CPC predicts the latents of the rows below. A
logistic regression then classifies images by their pooled latents. It is compared with raw pixels, with the untrained
network, and with the same network trained on the labels.

The script prints a table. Each row and seed has a folder in --out, and CPC's folders hold patches.png, which shows the
patches that lie nearest to each other. The same command resumes an unfinished training and skips finished rows, and
seeds can run side by side, each in a call of its own with the same --out.

Source: van den Oord et al. 2018, section 3.2.
"""

import argparse
import hashlib
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from images import Images, as_input, read_images, split
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from network import CELL, CPC, GRID, PATCH, Encoder, pool
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from tqdm import tqdm

from cpc.devices import autocast, keep_freed_buffers, resolve_precision
from cpc.experiments import at_least, errors_in_one_line
from cpc.files import claim, locked, replacing
from cpc.infonce import InfoNCE, Negatives, Rule, infonce
from cpc.report import markdown_table, mean_and_deviation, save_figure

RULES = {  # rows of CPC
    "CPC, negatives of both": Rule(),
    "CPC, negatives of the same image": Rule(same=("image",)),
    "CPC, negatives of other images": Rule(different=("image",)),
}
SUPERVISED = "supervised network"
ROWS = ("raw pixels", "untrained network", *RULES, SUPERVISED)
CS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
UPDATES_A_CHECKPOINT = 500
CPU = torch.device("cpu")
PRECISION = resolve_precision("auto", CPU)


def contrast(network: CPC, x: Tensor, rule: Rule, number: int, seed: int) -> InfoNCE:
    """Compute InfoNCE of images x (B, 3, 32, 32) against `number` negatives a rule admits; 0 takes all of them."""
    image = [b for b in range(len(x)) for _ in range(GRID)]  # each image has seven columns
    negatives = Negatives.of(rule, [GRID] * len(image), {"image": image}, num_negatives=number, seed=seed)
    return infonce(*network(x), negatives)


def train(
    network: nn.Module,
    loss_of: Callable[[Tensor, Tensor, int], Tensor],
    images: Images,
    batch_size: int,
    options: argparse.Namespace,
    seed: int,
    checkpoint: Path,
) -> dict[str, float]:
    """Train a network, or resume its training from a checkpoint, which is written from time to time.

    Args:
        network: the network to train, in place.
        loss_of: the loss of a batch of inputs (B, 3, 32, 32) and labels (B,), and of the number of the update.
        images: images to train on.
        batch_size: B.
        options: the options of the command line.
        seed: decides the batches together with the number of the update, so that a resumed training sees the same ones.
        checkpoint: file of the network, the optimiser and the losses.

    Returns:
        The mean loss of the last tenth of the updates, and the seconds of the training.
    """
    optimiser = torch.optim.AdamW(network.parameters(), lr=options.lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, options.lr, options.updates, pct_start=0.1)
    losses: list[float] = []
    start = time.perf_counter()
    parts = {"network": network, "optimiser": optimiser, "schedule": schedule}
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        losses = state["losses"]
        start -= state["seconds"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
    for update in tqdm(range(len(losses), options.updates), desc=checkpoint.parent.name, disable=None):
        generator = torch.Generator().manual_seed(10**6 * seed + update)
        batch = torch.randint(len(images.y), (batch_size,), generator=generator)
        x = as_input(images.x[batch])
        is_mirrored = torch.rand(len(x), generator=generator) < 0.5
        x[is_mirrored] = x[is_mirrored].flip(3)
        with autocast(CPU, PRECISION):
            loss = loss_of(x, images.y[batch], update)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if len(losses) % UPDATES_A_CHECKPOINT == 0 or len(losses) == options.updates:
            state = {name: part.state_dict() for name, part in parts.items()}
            state |= {"losses": losses, "seconds": time.perf_counter() - start}
            with replacing(checkpoint) as path:
                torch.save(state, path)
    return {"loss": float(np.mean(losses[-(options.updates // 10) :])), "seconds": state["seconds"]}


@torch.no_grad()
def latents(g_enc: Encoder, x: Tensor) -> Tensor:
    """Encode images (n, 3, 32, 32) to latents (n, 7, 7, D)."""
    with autocast(CPU, PRECISION):
        return torch.cat([g_enc(as_input(part)).float() for part in x.split(256)])


def probe(features: Callable[[Tensor], Tensor], parts: list[Images], options: argparse.Namespace) -> dict[str, float]:
    """Fit a logistic regression to training images, choose its C by validation, and score it on test images.

    Returns:
        Accuracies in [0, 1] and C.
    """
    chosen = torch.randperm(len(parts[0].y), generator=torch.Generator().manual_seed(0))[: options.probe_images]
    parts = [Images(parts[0].x[chosen], parts[0].y[chosen]), *parts[1:]]
    raw = [torch.cat([features(part) for part in images.x.split(256)]).numpy() for images in parts]
    scaler, fits = StandardScaler().fit(raw[0]), {}
    (x, y), validation, test = ((scaler.transform(x), images.y.numpy()) for x, images in zip(raw, parts, strict=True))
    for C in tqdm(CS, desc="probe", disable=None):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # validation also judges fits that have not converged
            model = LogisticRegression(C=C, max_iter=100).fit(x, y)
        fits[C] = model.score(*validation), model
    C = max(fits, key=lambda C: fits[C][0])
    return {"validation": fits[C][0], "test": fits[C][1].score(*test), "C": C}


def measure(row: str, seed: int, parts: list[Images], options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Train what a row needs, and probe it; return the probe's result, and the loss and the time of the training."""
    if row == "raw pixels":
        return probe(lambda x: as_input(x).flatten(1), parts, options)
    torch.manual_seed(seed)
    model, batch_size, found = CPC(options.dim, options.steps), options.batch_size, {}
    network, g_enc = model, model.g_enc
    if row == SUPERVISED:
        classify = nn.Linear(2 * options.dim, int(parts[0].y.max()) + 1)
        network = nn.ModuleList([g_enc, classify])
        batch_size *= 4  # without predictions, an update takes as long with four times as many images

    def loss_of(x: Tensor, y: Tensor, update: int) -> Tensor:
        if row == SUPERVISED:
            return F.cross_entropy(classify(pool(g_enc(x))), y)
        return contrast(model, x, RULES[row], options.num_negatives, update).losses.mean()

    if row != "untrained network":
        found = train(network, loss_of, parts[0], batch_size, options, seed, folder / "last.pt")
    if row in RULES:
        save_figure(patches_figure(g_enc, parts[-1]), folder / "patches.png", dpi=70)
    return {**found, **probe(lambda x: pool(latents(g_enc, x)), parts, options)}


def run(options: argparse.Namespace) -> None:
    """Measure every row for every seed, and print the table."""
    images, classes = read_images(options.root / "train")
    test, test_classes = read_images(options.root / "test")
    if test_classes != classes:
        raise ValueError(f"{options.root}: the classes of test are {test_classes}, those of train {classes}")
    parts = [*split(images), test]
    settings = {name: value for name, value in vars(options).items() if name not in ("root", "out", "seeds")}
    settings["images"] = [hashlib.sha256(part.x.numpy()).hexdigest()[:16] for part in parts]
    results: dict[str, list[dict]] = {row: [] for row in ROWS}
    seeds = dict.fromkeys(options.seeds)
    runs = [*((row, seed) for seed in seeds for row in ROWS[1:]), ("raw pixels", 0)]  # pixels need no seed
    for row, seed in runs:
        folder = options.out / f"{row.replace(',', '').replace(' ', '_')}-{seed}"
        with locked(folder, "row", wait=True):
            ours = claim(folder, {"row": row, "seed": seed, **settings}, record="result.json", what="results")
            if not ours.complete:
                ours.finish(**measure(row, seed, parts, options, folder))
        results[row].append(ours.content)
    rows = [["linear probe", "test, %", "validation, %", "loss, nats", "training, s"]]
    for row, found in results.items():
        columns = [[100 * one["test"] for one in found], [100 * one["validation"] for one in found]]
        columns += [[one[key] for one in found if key in one] for key in ("loss", "seconds")]
        cells = [mean_and_deviation(values, decimals=n) for values, n in zip(columns, (1, 1, 2, 0), strict=True)]
        rows.append([row, *cells])
    print(markdown_table(rows))


def patches_figure(g_enc: Encoder, test: Images, num_images: int = 2000, num_nearest: int = 8) -> Figure:
    """Show the patch in the middle of a test image of each class, and those of other images that lie nearest in z."""
    chosen = torch.linspace(0, len(test.y) - 1, min(num_images, len(test.y))).long()
    x, y, middle = test.x[chosen], test.y[chosen], GRID * GRID // 2
    z = latents(g_enc, x).flatten(1, 2)  # (n, 49, D)
    z = F.normalize(z - z.mean((0, 1)), dim=2)
    queries = [int((y == label).nonzero()[0]) for label in y.unique()][:10]
    figure = Figure(figsize=(num_nearest + 1, len(queries)), layout="constrained")
    for axes, i in zip(figure.subplots(len(queries), num_nearest + 1, squeeze=False), queries, strict=True):
        similarity, place = (z @ z[i, middle]).max(1)  # (n,): the best patch of each image
        similarity[i], place[i] = 2, middle  # the query itself comes first
        for panel, j in zip(axes, similarity.topk(num_nearest + 1).indices, strict=True):
            row, column = divmod(int(place[j]), GRID)
            panel.imshow(x[j].permute(1, 2, 0).numpy(), interpolation="nearest")  # and it compresses well
            corner, colour = (column * CELL - 0.5, row * CELL - 0.5), "red" if j == i else "yellow"
            panel.add_patch(Rectangle(corner, PATCH, PATCH, fill=False, color=colour, lw=1.5))
            panel.set_axis_off()
    return figure


def main() -> None:
    """Parse the options and run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with train/CLASS/*.jpg and test/CLASS/*.jpg")
    parser.add_argument("--out", type=Path, default=Path("runs/vision"), help="folder for the results")
    parser.add_argument(
        "--seeds", type=at_least(0), nargs="+", default=[0, 1, 2], help="one training of each row for each"
    )
    parser.add_argument("--updates", type=at_least(20), default=2500, help="updates of each network")
    parser.add_argument(
        "--batch-size", type=at_least(2), default=16, help="images per update (supervised: four times as many)"
    )
    parser.add_argument("--lr", type=float, default=5e-3, help="highest learning rate of AdamW")
    parser.add_argument("--dim", type=at_least(4), default=256, help="D_z; c has half of it")
    parser.add_argument(
        "--probe-images", type=at_least(10), default=10000, help="training images, with labels, of each probe"
    )
    parser.add_argument(
        "--steps", type=int, choices=range(1, GRID), default=5, help="K: rows that are predicted from each row"
    )
    parser.add_argument("--num-negatives", type=at_least(1), default=32, help="patches drawn for each prediction")
    options = parser.parse_args()
    keep_freed_buffers()
    with errors_in_one_line("vision"):
        run(options)


if __name__ == "__main__":
    main()
