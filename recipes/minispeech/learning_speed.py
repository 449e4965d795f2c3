"""Compare how fast some settings learn on this machine: phone accuracy on dev against minutes of training.

    python recipes/minispeech/learning_speed.py [--corpus runs/minispeech/corpus] [--out runs/learning_speed]

Each setting in SETTINGS is trained with checkpoints kept on the way, and c of each checkpoint is probed with 30,000
train frames. The picture has MFCC as the line to cross. Finished runs and probes are kept.
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from cpc.config import read_config
from cpc.data import read_manifest
from cpc.experiments import errors_in_one_line, evaluate_once, override
from cpc.features import Extractor, SpectralExtractor, extractor_of_run
from cpc.files import write_json
from cpc.labels import read_phone_labels
from cpc.probes import Options, Result
from cpc.report import markdown_table, percent, save_figure
from cpc.runs import read_checkpoint
from cpc.train import complete

SETTINGS = {  # name: preset or file, changed fields, updates, updates between probes
    "paper, one GPU's 8 windows": ("paper", {"batches.num_windows": 8, "data.workers": 0}, 600, 200),
    "small, before the study": (Path(__file__).parent / "small_before.toml", {}, 2400, 800),
    "small": ("small", {}, 2400, 400),
    "small, 4800 updates": ("small", {}, 4800, 1600),
}
Curve = list[tuple[int, float, float]]  # update, seconds of training, phone accuracy


def main() -> None:
    """Train, probe, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("runs/minispeech/corpus"), help="corpus of run.py")
    parser.add_argument("--out", type=Path, default=Path("runs/learning_speed"), help="folder to write")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="settings to compare")
    options = parser.parse_args()
    with errors_in_one_line("learning_speed"):
        mfcc = accuracy(options.corpus, SpectralExtractor("mfcc"), options.out / "mfcc.json")
        curves = {name: learn(name, options.corpus, options.out) for name in options.only}
        report(mfcc, curves, options.out)


def learn(name: str, corpus: Path, out: Path) -> Curve:
    """Train one setting and probe the checkpoints that were kept on the way."""
    preset, changes, num_updates, every = SETTINGS[name]
    changes = {
        **changes,
        "data.manifest": str(corpus / "manifest.csv"),
        "train.num_updates": num_updates,
        "train.keep_every": every,
        "train.checkpoint_every": every,
        "train.validate_every": num_updates,
        "train.log_every": 10,
    }
    run = out / "".join(c if c.isalnum() else "-" for c in name)
    complete(override(read_config(preset), changes, where=name), run)
    curve = []
    for kept in sorted((run / "kept").iterdir()):  # .pt of earlier versions, too
        payload = read_checkpoint(kept)[1]
        result = accuracy(corpus, extractor_of_run(kept, "c"), run / "probes" / f"{kept.stem}.json")
        curve.append((payload["update"], payload["seconds"], result))
    return curve


def accuracy(corpus: Path, extractor: Extractor, path: Path) -> float:
    """Measure the phone accuracy on dev; the result is kept at `path`, the frames are not."""
    if not path.exists():
        manifest, labels = read_manifest(corpus / "manifest.csv"), read_phone_labels(corpus / "phone_labels.txt")
        probes = {"phone": Options(max_frames=30_000, Cs=(0.1,), evaluate="dev")}
        evaluate_once(extractor, manifest, labels, probes, frames=path.with_suffix(".frames"))["phone"].save(path)
    return Result.read(path).accuracy


def report(mfcc: float, curves: dict[str, Curve], out: Path) -> None:
    """Print the table, and write it as JSON and as a picture."""
    rows = [["setting", "updates", "minutes", "phone accuracy, %"]]
    for name, curve in curves.items():
        rows += [[name, str(update), f"{seconds / 60:.1f}", percent(share)] for update, seconds, share in curve]
    print(f"\nMFCC: {percent(mfcc)} % of dev frames\n\n{markdown_table(rows)}")
    write_json(out / "learning_speed.json", {"mfcc": mfcc, **curves})
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        minutes, shares = [seconds / 60 for _, seconds, _ in curve], [100 * share for *_, share in curve]
        axes.plot(minutes, shares, marker="o", label=name)
    axes.axhline(100 * mfcc, color="black", linestyle="--", label="MFCC")
    axes.set(xlabel="minutes of training", ylabel="phone accuracy on dev, %")
    axes.legend()
    save_figure(figure, out / "learning_speed.png")


if __name__ == "__main__":
    main()
