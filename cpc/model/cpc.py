"""The CPC model: g_enc, g_ar and W_k, connected as in Fig. 1 of the paper.

waveform x → g_enc → z → g_ar → c → W_k c / tau, the prediction of z_{t+k}
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from cpc.model.autoregressor import Autoregressor, Bidirectional
from cpc.model.encoder import Encoder
from cpc.model.inputs import as_batch, normalised
from cpc.model.logmel import LogMelEncoder
from cpc.model.predictor import Predictor
from cpc.model.streaming import FixedNormaliser, Memory, RunningNormaliser, Stream


class CPC(nn.Module):
    """Contrastive predictive coding.

    Args:
        g_enc: waveform (B, S) → z (B, T, D_z).
        g_ar: z → c (B, T, D_c).
        predictor: c → predictions (K, B, T, D_z).
        predictor_back: the same for the frames before t, from the second half of c; None if g_ar reads only forwards.
        tau: divisor of the scores.
        sample_rate: Hz, rate of the waveforms.
        normalise: whether `forward` normalises each utterance to zero mean and unit variance.

    Attributes:
        read: decodes a sound file to (S,) samples at `sample_rate`; None until `cpc.load` sets it.
    """

    def __init__(
        self,
        g_enc: Encoder | LogMelEncoder,
        g_ar: Autoregressor | Bidirectional,
        predictor: Predictor,
        predictor_back: Predictor | None = None,
        *,
        tau: float,
        sample_rate: int = 16000,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        self.g_enc, self.g_ar, self.W, self.W_back = g_enc, g_ar, predictor, predictor_back
        self.tau, self.sample_rate, self.normalise = tau, sample_rate, normalise
        self.read: Callable[[str | Path], NDArray[np.float32]] | None = None

    def forward(self, waveforms: Tensor | NDArray[np.generic] | str | Path) -> tuple[Tensor, Tensor]:
        """Represent whole utterances.

        Args:
            waveforms: one utterance (S,) or several (B, S) at `sample_rate`, at any level, as a tensor or an array of a
                float type, int16 or int32; or the path of a sound file of any rate.

        Returns:
            z (B, T, D_z) and c (B, T, D_c), without B for one utterance; frame i is centred at sample
            `g_enc.geometry.centre(i)`.

        Raises:
            ValueError: another shape or type, a value that is not finite, or too few samples for a frame.
            AudioError: the sound file cannot be read.
        """
        if isinstance(waveforms, str | Path):
            if self.read is None:
                raise ValueError(f"{waveforms}: only a model that cpc.load returned reads sound files; pass samples")
            waveforms = self.read(waveforms)
        is_single = np.ndim(waveforms) == 1
        z, c = self.represent(self.prepare(waveforms))
        return (z[0], c[0]) if is_single else (z, c)

    def prepare(self, waveforms: Tensor | NDArray[np.generic]) -> Tensor:
        """Turn whole utterances (S,) or (B, S), as `forward` takes them, into the windows (B, S) of `represent`.

        Raises:
            ValueError: another shape or type, or a value that is not finite.
        """
        batch = as_batch(waveforms, next(self.parameters()).device)
        if not self.normalise:
            return batch
        # In float32, the deviation of a long utterance is off by 1e-6 of its value; MPS knows no float64.
        return normalised(batch) if batch.device.type == "mps" else normalised(batch.double()).float()

    def represent(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Represent windows (B, S) cut from utterances that are already normalised; return z and c like `forward`."""
        z = self.g_enc(windows)
        return z, self.g_ar(z)

    def predict(self, c: Tensor) -> Tensor:
        """Compute W_k c_t / tau for all k: (B, T, D_c) → (K, B, T, D_z). Its product with z_{t+k} is log f_k.

        Only the half of c that has read forwards predicts what follows.
        """
        predictions: Tensor = self.W(c[..., : self.W.context_dim] / self.tau)
        return predictions

    def predict_back(self, c: Tensor) -> Tensor:
        """Predict z_{t−k} as `predict` does z_{t+k}, from the half of c that has read backwards."""
        assert self.W_back is not None
        predictions: Tensor = self.W_back(c[..., -self.W_back.context_dim :] / self.tau)
        return predictions

    def stream(self, statistics: tuple[float, float] | None = None) -> Stream:
        """Represent a live signal piece by piece.

            stream = model.stream()
            for piece in microphone:  # (S,) samples at model.sample_rate, of any length, even one
                z, c = stream.feed(piece)  # (t, D_z), (t, D_c): the frames that are complete now, possibly none
            z, c = stream.close()  # the frames that padding at the end completes; none with encoder.padding = "none"

        Latency: frame i is returned by the call that completes `g_enc.geometry.min_samples(i + 1)` samples, of which it
        sees the last one. Without padding, the first frame needs a receptive field (465 samples or 29 ms with the
        paper's strides, 400 or 25 ms for log-mel energies), and each further one a hop (10 ms). A frame's centre is
        then half a receptive field old.

        Normalisation: if the run normalises utterances (`audio.normalise`), their mean and deviation are not known
        before they end. Each sample is then normalised by the mean and the deviation of all samples up to it, whatever
        the pieces. This converges to the whole utterance's, but the first seconds differ from `forward`, more so after
        silence; with `statistics`, z and c equal those of `forward`. Without normalisation they always do.

        Args:
            statistics: mean and deviation of the signal, if they are known from elsewhere, such as an earlier recording
                of the same microphone: `cpc.data.audio_statistics`.

        Raises:
            ValueError: g_ar reads whole files from both ends; or statistics for a run that does not normalise, or with
                a deviation that is not positive.
        """
        if statistics is not None and not self.normalise:
            raise ValueError(f'statistics: got {statistics}, but this run has audio.normalise = "none"; leave them out')
        running = RunningNormaliser() if self.normalise else FixedNormaliser(0.0, 1.0)
        return Stream(
            self.represent_block,
            self.g_enc.geometry,
            running if statistics is None else FixedNormaliser(*statistics),
            next(self.parameters()).device,
        )

    def represent_block(self, block: Tensor, memory: Memory | None, last: bool) -> tuple[Tensor, Tensor, Memory]:
        """Represent the next block of a long, normalised waveform. The concatenated blocks equal the whole.

        Args:
            block: (B, S) the next samples.
            memory: what the previous block returned; None at the start of a file.
            last: whether the file ends here.

        Returns:
            z and c of the frames that are now complete (possibly none), and the memory for the next block.
        """
        tails, state = memory if memory is not None else (None, None)
        z, tails = self.g_enc.stream(block, tails, last=last)
        c, state = self.g_ar.stream(z, state)
        return z, c, (tails, state)
