"""recipes/text: sentences of books, the encoder, rare words, and a small run the whole way."""

import hashlib
import io
import json
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import load_script, recipe_script

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "text"
OPTIONS = "--seeds 0 --epochs 2 --batch 4 --window 4 --word-dim 8 --latent-dim 16 --context-dim 8 --lr 0.01 --folds 3"
SUBJECTS, VERBS = ("the cat", "a dog", "my horse", "the bird"), ("sleeps here", "runs away", "eats well", "looks up")


@pytest.fixture(scope="module")
def sentences():
    return load_script(RECIPE / "sentences.py")


@pytest.fixture(scope="module")
def recipe():
    with recipe_script(RECIPE / "run.py") as script:
        yield script


@pytest.fixture(scope="module")
def root(tmp_path_factory, sentences):
    """All files that the recipe reads, tiny: a sentence's label is its subject."""
    root, rng = tmp_path_factory.mktemp("text"), np.random.default_rng(0)
    for path in sentences.listed(root):
        path.parent.mkdir(exist_ok=True)
        pairs = [(label, rng.choice(VERBS)) for label in [*rng.permutation(120) % 4]]
        if path.parent.name == "gutenberg":
            lines = [f"{SUBJECTS[label].capitalize()} {verb}." for label, verb in pairs]
        else:
            num_labels = 4 if path.name.startswith("TREC") else 2
            lines = [f"{label % num_labels} {SUBJECTS[label % num_labels]} {verb} ." for label, verb in pairs]
        path.write_text("\n".join(lines) + "\n", encoding="latin-1")
    return root


@pytest.fixture
def run(recipe, monkeypatch, capsys):
    def run(root, out):
        """Return what the script prints."""
        monkeypatch.setattr(sys, "argv", ["run.py", "--root", str(root), "--out", str(out), *OPTIONS.split()])
        recipe.main()
        return capsys.readouterr().out

    return run


def test_the_whole_way_and_a_second_call_that_trains_nothing(root, run, tmp_path):
    pytest.importorskip("gensim")
    printed = run(root, tmp_path)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if "|" in line]
    assert rows[0][1:] == ["MR", "CR", "Subj", "MPQA", "TREC"]
    scores = {row[0]: row[1:] for row in rows[2:]}
    assert scores["bag of words, TF-IDF"] == ["100.0"] * 5  # the subject decides the label
    assert scores["majority class"] == [*["50.0"] * 4, "25.0"]
    assert scores["paper: CPC on BookCorpus"] == ["76.9", "80.1", "91.2", "87.7", "96.8"]
    folder = tmp_path / "seed-0"
    for kind in ("all", "book"):
        metrics = json.loads((folder / f"{kind}.json").read_text())
        assert [epoch["epoch"] for epoch in metrics] == [1, 2]
        assert metrics[1]["train_gain"] > metrics[0]["train_gain"]
    assert 0 < (folder / "tsne.png").stat().st_size < 150_000
    before = (folder / "book.pt").stat().st_mtime_ns
    assert run(root, tmp_path).splitlines() == printed.splitlines()[-9:]
    assert (folder / "book.pt").stat().st_mtime_ns == before


def test_an_interrupted_training_ends_with_the_weights_of_an_uninterrupted_one(recipe, tmp_path):
    torch.manual_seed(0)
    books = [torch.randint(1, 9, (100, 6)) for _ in range(2)]
    sizes = {"word_dim": 4, "latent_dim": 4, "context_dim": 4, "lr": 0.01, "window": 4, "batch": 3}
    weights = {}
    for name, stops in {"whole": (3,), "interrupted": (1, 3)}.items():
        for epochs in stops:
            model = recipe.train(books, 9, "all", 0, tmp_path / f"{name}.pt", Namespace(epochs=epochs, **sizes))
        weights[name] = model.state_dict()
    assert all(torch.equal(weight, weights["interrupted"][key]) for key, weight in weights["whole"].items())


def test_a_model_that_predicts_nothing_gains_nothing_whatever_the_size_of_its_batches(recipe):
    model = recipe.SentenceCPC(9, Namespace(word_dim=4, latent_dim=4, context_dim=4))
    torch.nn.init.zeros_(model.W.weight)
    batches = [torch.randint(1, 9, (size, 5, 6)) for size in (1, 4)]
    with torch.no_grad():
        found = recipe.summary([model(batch) for batch in batches], batches, "dev")
    assert found == {"dev_gain": pytest.approx(0, abs=1e-4), "dev_accuracy": 0}


def test_a_summary_counts_windows_and_not_batches(recipe):
    results = [Namespace(log_n=torch.ones(3), losses=torch.zeros(3), accuracies=torch.ones(3)) for _ in range(2)]
    results[1].losses += 4
    batches = [torch.zeros(3, 5, 6), torch.zeros(1, 5, 6)]
    assert recipe.summary(results, batches, "dev") == {"dev_gain": 0.0, "dev_accuracy": 100.0}


def test_the_loss_equals_one_that_is_written_with_loops_over_the_sentences(recipe, monkeypatch):
    """c of a sentence predicts the next three among all sentences of the batch."""
    monkeypatch.setattr(recipe, "resolve_precision", lambda *_: "float32")
    torch.manual_seed(0)
    model = recipe.SentenceCPC(9, Namespace(word_dim=4, latent_dim=5, context_dim=6))
    numbers = torch.randint(9, (2, 5, 7))
    found = model(numbers)
    z = torch.stack([model.g_enc(window) for window in numbers])
    c = model.g_ar(z)
    for k in (1, 2, 3):
        losses = []
        for b, t in np.ndindex(2, 5 - k):
            p = model.W.weight[(k - 1) * 5 : k * 5] @ c[b, t] / 5**0.5
            scores = torch.stack([z[other, s] @ p for other, s in np.ndindex(2, 5)])
            losses.append(-torch.log_softmax(scores, 0)[b * 5 + t + k])
        assert found.losses[k - 1].item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)


def test_the_ends_of_books_are_not_trained_on(recipe, tmp_path):
    options, weights = Namespace(epochs=1, word_dim=4, latent_dim=4, context_dim=4, lr=0.1, window=4, batch=3), []
    for end in (1, 2):
        book = torch.randint(1, 9, (100, 6), generator=torch.Generator().manual_seed(0))
        book[95:] = end
        weights.append(recipe.train([book], 9, "all", 0, tmp_path / f"{end}.pt", options).state_dict())
    assert all(torch.equal(weight, weights[1][key]) for key, weight in weights[0].items())


def test_the_encoder_is_the_mean_of_a_convolution_over_each_sentence_alone(recipe):
    torch.manual_seed(0)
    encoder = recipe.SentenceEncoder(9, 4, 5)
    numbers = torch.tensor([[3, 4, 5, 0], [6, 0, 0, 0], [0, 0, 0, 0], [7, 8, 1, 2]])
    z = encoder(numbers)
    for row, found in zip(numbers, z, strict=True):
        words = row[row != 0]
        alone = encoder.convolution(encoder.words(words).T[None])[0].relu().mean(1) if len(words) else torch.zeros(5)
        torch.testing.assert_close(found, alone)


def test_a_rare_word_goes_where_the_linear_map_of_the_common_words_puts_it(recipe):
    """Word vectors that are an affine map of word2vec's are continued by that map."""

    class Vectors(dict):
        key_to_index = property(dict.keys)

        def __getitem__(self, words):
            return np.stack([dict.__getitem__(self, word) for word in words])

    rng = np.random.default_rng(0)
    vectors = Vectors({f"w{i}": rng.standard_normal(3).astype(np.float32) for i in range(12)})
    vocabulary = {f"w{i}": i + 2 for i in range(10)} | {"unknown to word2vec": 12}
    matrix, offset = rng.standard_normal((3, 4)).astype(np.float32), np.float32(0.5)
    encoder = recipe.SentenceEncoder(13, 4, 5)
    encoder.words.weight.data[2:12] = torch.tensor(vectors[[f"w{i}" for i in range(10)]] @ matrix + offset)
    larger = recipe.add_rare_words(encoder, vocabulary, vectors)
    assert larger == vocabulary | {"w10": 13, "w11": 14}
    expected = torch.tensor(vectors[["w10", "w11"]] @ matrix + offset)
    torch.testing.assert_close(encoder.words.weight[13:].detach(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["all", "book"])
def test_windows_are_neighbouring_sentences_of_one_book_and_batches_are_of_one_book_or_of_all(kind, recipe):
    books = [torch.arange(70)[:, None], 100 + torch.arange(9)[:, None]]
    for seed in range(5):
        batches = recipe.batches_of(books, kind, Namespace(window=4, batch=30), seed)
        assert len(batches) == (1 if kind == "all" else 2)
        windows = torch.cat(batches)[..., 0]
        assert (windows.diff(dim=1) == 1).all()
        assert len(windows.unique()) == windows.numel() >= 64 + 4
    with pytest.raises(ValueError, match="got 80, but the longest part of a book has 70 sentences"):
        recipe.batches_of(books, kind, Namespace(window=80, batch=3), 0)


def test_sentences_end_at_full_stops_but_not_after_titles(sentences):
    book = '*END*THE SMALL PRINT! x\n\nCHAPTER I\n\n"Is Mr. Knightley here?" he said. She\ndoesn\'t know, in 1811.\n\n'
    book += "End of the Project Gutenberg Etext"
    assert sentences.sentences_of(book) == [
        ['"', "is", "mr", ".", "knightley", "here", "?", '"', "he", "said", "."],
        ["she", "does", "n't", "know", ",", "in", "0", "."],
    ]


def test_contractions_are_the_same_words_however_a_set_writes_them(sentences):
    assert sentences.words_of("it 's n 't") == sentences.words_of("It's n't")
    assert sentences.words_of("does n 't") == sentences.words_of("doesn't") == ["does", "n't"]


def test_the_byte_0x85_ends_no_sentence_and_a_line_without_label_is_refused(sentences, tmp_path):
    (tmp_path / "a.all").write_bytes(b"1 caf\xe9 \x85 fine\n0 bad\n")
    assert sentences.read_set(tmp_path / "a.all")[1] == [1, 0]
    (tmp_path / "b.all").write_bytes(b"1 good\nno label\n")
    with pytest.raises(ValueError, match=r"b\.all, line 2: got 'no label', expected a number and a sentence"):
        sentences.read_set(tmp_path / "b.all")


def test_missing_data_is_one_line_that_names_the_way_out(run, capsys, tmp_path):
    with pytest.raises(SystemExit, match="2"):
        run(tmp_path / "nothing", tmp_path / "out")
    (line,) = capsys.readouterr().err.splitlines()
    assert "austen-emma.txt: no such file; --root takes the folder" in line
    assert "--download" in line


def test_a_download_with_another_checksum_is_refused_and_leaves_nothing(sentences, tmp_path, monkeypatch):
    asked = []

    def fetch(url, timeout):
        asked.append(url)
        return io.BytesIO(b"something else")

    monkeypatch.setattr(sentences, "urlopen", fetch)
    with pytest.raises(ValueError, match="SHA-256"):
        sentences.find_files(tmp_path, download=True)
    assert asked == [f"{sentences.SOURCES['gutenberg']}/austen-emma.txt"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_download_with_the_right_checksum_is_kept_and_what_is_there_is_not_fetched(sentences, tmp_path, monkeypatch):
    there, missing = tmp_path / "gutenberg" / "a.txt", tmp_path / "gutenberg" / "b.txt"
    there.parent.mkdir()
    there.write_bytes(b"mine")
    checksum = hashlib.sha256(b"the book").hexdigest()
    monkeypatch.setattr(sentences, "listed", lambda root: {there: "", missing: checksum})
    monkeypatch.setattr(sentences, "urlopen", lambda url, timeout: io.BytesIO(b"the book"))
    sentences.find_files(tmp_path, download=True)
    assert (there.read_bytes(), missing.read_bytes()) == (b"mine", b"the book")
