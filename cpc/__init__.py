"""Contrastive predictive coding on audio: learn representations of sound from recordings without labels.

A convolutional encoder g_enc turns sound into a latent z every 10 ms, a recurrent network g_ar summarises the past into
a context c, and linear maps W_k predict the next latents from c: of some candidates, the true z_{t+k} is to score
highest. Knowing the phone and the speaker helps to predict, so c comes to contain both, and linear probes measure how
much.

Use a trained run:

    import cpc

    model = cpc.load("runs/mine")  # a run folder; help(cpc.load)
    z, c = model("speech.wav")  # (T, D_z), (T, D_c); any sound file
    z, c = model(waveforms)  # (S,) or (B, S) at model.sample_rate, tensor or array → (B, T, D_z), (B, T, D_c)
    predictions = model.predict(c)  # (K, B, T, D_z), of z_{t+1} … z_{t+K}

    stream = model.stream()  # a live signal in pieces of any length; help(cpc.CPC.stream)
    z, c = stream.feed(piece)  # the frames that are complete now

Train one, on a folder of recordings:

    from cpc.config import read_config
    from cpc.data import scan_folder, split_manifest, write_manifest
    from cpc.experiments import override
    from cpc.train import train

    manifest = split_manifest(scan_folder("recordings", speaker="{speaker}/*").manifest, by="utterance")
    write_manifest(manifest, "manifest.csv")
    config = override(read_config("small"), {"data.manifest": "manifest.csv"}, where="mine")
    train(config, "runs/mine")  # model=, on_log=: a network and a dashboard of one's own; help(cpc.train.train)

See what was learned:

    from cpc.features import extract_features, extractor_of_run, open_features
    from cpc.probes import probe_speakers

    extractor = extractor_of_run("runs/mine", "c")
    features = open_features(extract_features(extractor, manifest, "features/mine"))
    print(probe_speakers(features))  # or probe_phones, probe_column, probe_number, probe_abx

Where to read on: `cpc --help` in a shell lists the same stages as commands, and recipes/tour.ipynb is a lesson to run.
The rooms, in the order that data takes, are cpc.data (sound files → batches), cpc.labels (what is known about frames),
cpc.model (the networks), cpc.infonce (the criterion), cpc.losses (its relatives), cpc.train, cpc.features, cpc.probes,
cpc.report (figures and pages), cpc.export (networks for other runtimes) and cpc.experiments (the whole pipeline).
`help` of each lists what it exports.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cpc.doors import lazily

if TYPE_CHECKING:
    from cpc.hub import CPC

    __version__: str

__all__ = ["CPC", "__version__", "load"]


def load(run: str | Path, which: Literal["best", "last"] = "best", device: str = "cpu") -> "CPC":
    """Load the trained model of a run folder (or of a checkpoint file), ready to represent audio.

    Args:
        run: folder that `cpc train` wrote, or a checkpoint in it.
        which: "best" (lowest dev loss) or "last".
        device: "cpu", "cuda", "cuda:1", …, or "auto".

    Returns:
        The model in evaluation mode. It takes waveforms (S,) or (B, S), as tensors or arrays, and paths of sound files,
        which it decodes and resamples: `CPC.forward`. `CPC.stream` takes a live signal, and `save_pretrained` makes a
        folder for the Hugging Face hub.

    Raises:
        CheckpointError: missing, damaged, or of another architecture.
        ValueError: this machine has no such device.
    """
    from cpc.hub import load as load_model

    return load_model(run, which, device)


_import_on_first_use = lazily(__name__, {"CPC": "hub"})


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # which takes longer to import than all else here

        return version("cpc-audio")
    return _import_on_first_use(name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
