"""The baselines' features, the classifiers, and the picture of what they separate."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.model_selection import GridSearchCV, StratifiedKFold, StratifiedShuffleSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

QUESTIONS = ("description", "entity", "abbreviation", "person", "place", "number")  # TREC's classes
CS = (0.25, 1.0, 4.0, 16.0)  # for logistic regression on rows of unit length


def train_word2vec(books: list[list[list[str]]], seed: int) -> Any:
    """Train word2vec (skip-gram) on the books; the result is keyed by word."""
    try:
        from gensim.models import Word2Vec
    except ImportError:
        raise ValueError("word vectors need gensim; pip install 'cpc-audio[text]'") from None
    sentences = [sentence for book in books for sentence in book]
    # Two workers would not be reproducible.
    return Word2Vec(sentences, vector_size=300, epochs=10, min_count=2, sg=1, workers=1, seed=seed).wv


def mean_vectors(sentences: list[list[str]], vectors: Any) -> np.ndarray:
    """Return the mean of each sentence's word2vec vectors, 0 where it has none: (N, D)."""
    nothing = np.zeros((1, vectors.vector_size), dtype=np.float32)
    known = ([vectors[word] for word in sentence if word in vectors] for sentence in sentences)
    return np.stack([np.mean(found or nothing, axis=0) for found in known])


def score(kind: str, inputs: list[Any], labels: list[list[int]], seed: int, folds: int) -> float:
    """Return a classifier's accuracy on a set: on its test file if it has one, else the mean over the folds.

    C is chosen on a fifth of the data that the classifier is fitted on; the final fit includes this fifth.
    """
    if kind == "majority":
        classifier: Any = DummyClassifier()
    else:  # rows of unit length, as those of TF-IDF, so that the same values of C suit all
        words = TfidfVectorizer(analyzer=list, sublinear_tf=True)
        scale = [words] if kind == "tf-idf" else [StandardScaler(), Normalizer()]
        held_out = StratifiedShuffleSplit(1, test_size=0.2, random_state=seed)
        pipeline = make_pipeline(*scale, LogisticRegression(max_iter=1000))
        classifier = GridSearchCV(pipeline, {"logisticregression__C": CS}, cv=held_out)
    if len(inputs) == 2:
        return float(classifier.fit(inputs[0], labels[0]).score(inputs[1], labels[1]))
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return float(np.mean(cross_val_score(classifier, inputs[0], labels[0], cv=split)))


def tsne_figure(features: dict[str, np.ndarray], labels: list[int], seed: int) -> Figure:
    """Plot a t-SNE of TREC's test questions for each kind of features, coloured by the type of the answer."""
    figure = Figure(figsize=(4.5 * len(features), 4.5), layout="constrained")
    for axes, (name, x) in zip(figure.subplots(1, len(features), squeeze=False)[0], features.items(), strict=True):
        x = Normalizer().fit_transform(StandardScaler().fit_transform(x))
        places = TSNE(perplexity=min(30, len(x) // 4), random_state=seed).fit_transform(x)
        for label, question in enumerate(QUESTIONS):
            here = places[np.array(labels) == label]
            axes.plot(*here.T, ".", ms=5, color=f"C{label}", label=question)
        axes.set(title=name, xticks=[], yticks=[])
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=6, title="asked for")
    return figure
