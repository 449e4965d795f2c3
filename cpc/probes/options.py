"""The options of a probe."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

Evaluate = Literal["test", "dev"]
Classifier = Literal["linear", "mlp"]
Pooling = Literal["mean", "mean_deviation"]

DEV_SHARE = 4  # one dev frame is drawn for every four train frames

CONDITIONS = {  # of ABX: the field of each in its result, and its name in words
    f"{speaker}_speaker_{context}_context": f"{speaker} speaker, {context} context"
    for context in ("any", "same")
    for speaker in ("within", "across")
}


class ProbeError(ValueError):
    """Options, features, splits, labels or a result file that a probe cannot use; one line."""


@dataclass(frozen=True)
class Options:
    """The options of a probe."""

    evaluate: Evaluate = "test"
    """Split on which the accuracy is measured. Use dev while choices are still being made: it leaves test untouched,
    but its accuracy is optimistic because C is chosen there."""
    classifier: Classifier = "linear"
    """linear: multinomial logistic regression. mlp: a network with one hidden layer, stopped by its dev accuracy (the
    paper: 72.5 % of phones)."""
    pooling: Pooling | None = None
    """Train on one vector for each utterance instead of its frames: their mean, or mean_deviation, which appends their
    standard deviation. For labels of whole utterances, such as the source of a sound."""
    hidden: int = 256
    """Units of the hidden layer; ignored by linear. The paper does not state its width."""
    max_frames: int = 100_000
    """Number of train frames drawn uniformly without replacement (100000 are about 17 minutes at 10 ms); it bounds
    memory and time. 0 streams all train frames from disk, which only linear can do."""
    Cs: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0)
    """Inverse regularisation strengths; the one with the highest dev accuracy is chosen. Ignored by mlp."""
    shuffle_labels: bool = False
    """Permute the labels among the train frames. In this control, a probe can only learn how frequent each class is."""
    seed: int = 0
    """Seed of the random draws of frames, of shuffled labels, of the mlp's weights and of the bootstrap."""
    max_iter: int = 200
    """Maximum number of L-BFGS iterations for each C. Each C starts from the previous one's solution, so a C that
    hardly moves the optimum takes few iterations or none."""
    # A tolerance of 1e-3 instead of 1e-4 costs MFCC 0.4 points of phone accuracy and 256-dimensional features 0.2: it
    # would flatter the network.
    tol: float = 3e-4
    """Largest absolute derivative of the mean loss, in nats per frame, at which a linear classifier has converged."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ProbeError: a value is out of range, or two do not work together.
        """
        choices = {"evaluate": get_args(Evaluate), "classifier": get_args(Classifier)}
        choices |= {"pooling": get_args(Pooling)} if self.pooling is not None else {}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ProbeError(f"{name}: got {getattr(self, name)!r}, allowed: {', '.join(allowed)}")
        if self.max_frames < DEV_SHARE and self.max_frames != 0:
            raise ProbeError(f"max_frames: got {self.max_frames}, expected at least {DEV_SHARE}, or 0 for all")
        if self.max_frames == 0 and self.classifier != "linear":
            raise ProbeError("max_frames: got 0, which streams all frames, but only the linear classifier can do that")
        if self.hidden < 1:
            raise ProbeError(f"hidden: got {self.hidden}, expected at least 1")
        if not self.Cs or min(self.Cs) <= 0:
            raise ProbeError(f"Cs: got {self.Cs}, expected one or more positive numbers")
        if self.seed < 0:
            raise ProbeError(f"seed: got {self.seed}, expected at least 0")

    def identity(self) -> dict[str, Any]:
        """State what a result depends on; records from before there was pooling lack it, and stay valid."""
        values = dataclasses.asdict(self)
        if self.pooling is None:
            del values["pooling"]
        return values
