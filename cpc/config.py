"""Everything a training run can be told, as frozen dataclasses read from TOML; defaults are the paper's numbers.

An unknown key or a wrong value is an error that lists what is allowed. The same dataclasses make the command line
(`cpc train --help`).
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from cpc.files import write_bytes

T = TypeVar("T")

Scheme = Literal["mixed_speaker", "same_speaker", "mixed_speaker_excl", "same_speaker_excl", "current_sequence"]


class ConfigError(ValueError):
    """A configuration that cannot be used; one line: key, value, what is allowed."""


@dataclass(frozen=True)
class AudioConfig:
    """How waveforms reach g_enc."""

    sample_rate: int = 16000
    """Hz; files of another rate are an error unless `resample` is on."""
    resample: bool = False
    """Resample files of another rate on the fly."""
    normalise: Literal["utterance", "none"] = "utterance"
    """Bring each whole utterance to zero mean and unit variance. The paper does not say; without it the loss stays
    at log N for hundreds of updates and loudness is a shortcut."""


@dataclass(frozen=True)
class DataConfig:
    """What is trained on."""

    manifest: str = ""
    """CSV made by `cpc manifest`, relative to the working directory; its `split` column says train and dev."""
    window_samples: int = 20480
    """Length of a window at `audio.sample_rate` (the paper: 20480, 1.28 s)."""
    short: Literal["skip", "pad"] = "skip"
    """Utterances shorter than a window: leave them out, or fill them up with zeros that take part in nothing."""
    cache_megabytes: int = 1024
    """Keep up to this much decoded audio in memory, per worker (1 h at 16 kHz is 220 MB)."""
    cache: str = ""
    """Folder for the decoded audio as memory-mapped 16-bit samples, built at first use (115 MB an hour at 16 kHz): for
    corpora larger than memory whose files are slow to decode. None by default."""
    workers: int = 0
    """Processes that read audio; 0 reads in the training process."""


@dataclass(frozen=True)
class BatchConfig:
    """Which windows share a batch."""

    kind: Literal["mixed", "by_speaker", "by_utterance"] = "mixed"
    """Any windows; or groups of windows of one speaker or utterance, for negatives of the same speaker."""
    num_windows: int = 64
    """Windows in a batch (the paper: 8 GPUs × 8)."""
    windows_per_group: int = 4
    """Windows of each speaker or utterance in a batch; with kind = "mixed" it means nothing."""


@dataclass(frozen=True)
class EncoderConfig:
    """g_enc, the strided convolutions."""

    channels: int = 512
    """Width of each layer and of z, D_z (the paper: 512)."""
    strides: tuple[int, ...] = (5, 4, 2, 2, 2)
    """Stride of each layer; its kernel is twice as long (the paper: 5,4,2,2,2 and 10,8,4,4,4)."""
    norm: Literal["channel", "none", "batch"] = "channel"
    """Over the channels of each frame (CPC_audio), none, or batch (lets the batch into z: it warns)."""
    padding: Literal["none", "same", "cpc_audio"] = "none"
    """No padding; S // hop frames each centred in its hop; or 3,2,1,1,1 as in CPC_audio."""


@dataclass(frozen=True)
class AutoregressorConfig:
    """g_ar, the recurrent network."""

    kind: Literal["gru", "lstm"] = "gru"
    """The paper: gru; CPC_audio: lstm."""
    hidden: int = 256
    """Units, D_c (the paper: 256)."""
    layers: int = 1
    """Stacked layers (the paper: 1)."""


@dataclass(frozen=True)
class CriterionConfig:
    """InfoNCE."""

    num_steps: int = 12
    """K, how many steps ahead are predicted; one step is one hop of g_enc, 10 ms (the paper: 12)."""
    tau: float | Literal["sqrt_dim"] = "sqrt_dim"
    """Scores are z^T W_k c / tau. The paper: 1; at 256 channels that never left log N in 300 updates, sqrt(D_z) did
    before 100."""
    scheme: Scheme = "mixed_speaker"
    """Where negatives come from (the paper's Table 2): anything in the batch, the same speaker, either without the
    current utterance, or the current sequence only."""
    num_negatives: int = 0
    """Drawn for each anchor and step, with replacement; 0 takes all that the scheme admits, which is faster."""


@dataclass(frozen=True)
class LossConfig:
    """What is minimised: CPC, or an objective that it is compared with."""

    name: Literal["cpc", "supervised", "nt_xent", "clip", "moco", "sup_con"] = "cpc"
    """cpc: predict the next latents, as [criterion] says. supervised: name each frame's class by a linear layer on c.
    nt_xent (SimCLR), clip (symmetric InfoNCE), moco (a queue of keys): tell two windows of an utterance from others, by
    c averaged over each. sup_con: pull windows of one class together, or frames of one phone."""
    target: str = "speaker"
    """Of supervised and sup_con: phone, or a column of the manifest."""
    labels: str = ""
    """Phone labels for the target phone: a line an utterance, an integer each 10 ms."""
    temperature: float = 0.1
    """Cosines are divided by it (SimCLR: 0.1; MoCo and CLIP: 0.07)."""
    queue_length: int = 1024
    """Of moco: keys of earlier batches that are negatives (MoCo: 65536, of a million images)."""
    momentum: float = 0.99
    """Of moco: how slowly the network that makes the keys follows (MoCo: 0.999, over many more updates)."""


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser and its learning rate."""

    name: Literal["adam", "adamw", "muon"] = "adam"
    """The paper: Adam. muon: Muon on the matrices between hidden units, AdamW on the rest."""
    lr: float = 2e-4
    """Learning rate after warm-up (the paper: 2e-4)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of Adam's running moments (PyTorch's values)."""
    eps: float = 1e-8
    """Adam's epsilon (PyTorch's value)."""
    momentum: float = 0.95
    """Of Muon (its authors' value)."""
    weight_decay: float = 0.0
    """On matrices; biases and gains have none."""
    warmup_updates: int = 0
    """Updates over which the learning rate rises linearly from 0."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """After warm-up: constant, or down to 0 at the last update, along half a cosine or a line."""
    clip_norm: float = 0.0
    """Largest norm of the whole gradient; 0 does not clip."""


@dataclass(frozen=True)
class TrainConfig:
    """How long, and what is written when."""

    num_updates: int = 300_000
    """Updates in all (the paper: about 300k)."""
    log_every: int = 20
    """Updates between lines of metrics.jsonl."""
    validate_every: int = 1000
    """Updates between passes over the dev split; the checkpoint with the lowest dev loss is best.pt."""
    validate_batches: int = 50
    """Batches of a pass over the dev split, at most."""
    checkpoint_every: int = 1000
    """Updates between writings of last.pt."""
    keep_every: int = 0
    """Updates between checkpoints of the weights that are kept, kept/UPDATE.pt; 0 keeps none."""


@dataclass(frozen=True)
class Config:
    """A training run."""

    seed: int = 0
    """Of weights, windows, batches and negatives."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps; auto takes the first there is of cuda, mps, cpu."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """bf16 computes the networks under autocast (scores stay float32); auto takes it where the device multiplies
    bf16 in hardware."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile of g_enc; auto takes it on CUDA for 2000 updates or more, where it pays its warm-up back."""
    recompute: int = 0
    """Encode a batch in this many pieces, each computed anew in the backward pass: less memory, up to a fifth slower
    (`docs/performance.md`). 0 keeps all activations."""
    audio: AudioConfig = field(default_factory=AudioConfig)
    data: DataConfig = field(default_factory=DataConfig)
    batches: BatchConfig = field(default_factory=BatchConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    autoregressor: AutoregressorConfig = field(default_factory=AutoregressorConfig)
    criterion: CriterionConfig = field(default_factory=CriterionConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


PRESETS = Path(__file__).parent / "presets"


def read_config(path: str | Path) -> Config:
    """Read a TOML file, or a preset by its name ("small", "paper"); what it leaves out keeps its default.

    Raises:
        ConfigError: missing file, not TOML, an unknown key, a value of the wrong type or out of range.
    """
    path = Path(path)
    presets = sorted(p.stem for p in PRESETS.glob("*.toml"))
    if str(path) in presets:
        path = PRESETS / f"{path}.toml"
    missing = f"no such configuration; give a TOML file or a preset: {', '.join(presets)}"
    return config_from_dict(read_toml(path, missing=missing), where=str(path))


def read_toml(path: Path, *, missing: str) -> dict[str, Any]:
    """The values of a TOML file.

    Raises:
        ConfigError: the file is not there, which is said in the words of `missing`; or it is not TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: {missing}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None


def config_from_dict(values: dict[str, Any], *, where: str) -> Config:
    """Build a checked Config from nested dictionaries; `where` names their source in errors."""
    config = parse_as(Config, values, where=where)
    check_config(config, where=where)
    return config


def parse_as(kind: type[T], values: dict[str, Any], *, where: str) -> T:
    """Plain values as the dataclass that describes them.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type; items of lists are counted from 1.
    """
    from pydantic import TypeAdapter, ValidationError

    refuse_unknown(values, kind, where)
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        parts = [str(part + 1 if isinstance(part, int) else part) for part in first["loc"]]
        key = ".".join(part for part in parts if not part.startswith(("literal[", "float", "tuple")))
        raise ConfigError(f"{where}: {key}: got {first['input']!r}: {first['msg'].lower()}") from None


def config_to_dict(config: Config) -> dict[str, Any]:
    """Nested dictionaries of plain values, from which `from_dict` builds the same Config."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def config_identity(config: Config) -> dict[str, Any]:
    """The settings that decide what is learned: not where it runs, nor where its data lie and how they are read."""
    values = config_to_dict(config)
    del values["device"], values["compile"], values["recompute"], values["loss"]["labels"]
    for key in ("manifest", "workers", "cache", "cache_megabytes"):
        del values["data"][key]
    return values


def write_config(config: Config, path: Path) -> None:
    """Write as TOML, such that `read` gives the same Config."""
    values = config_to_dict(config)
    lines = [f"{key} = {_toml(value)}" for key, value in values.items() if not isinstance(value, dict)]
    for section, fields in values.items():
        if isinstance(fields, dict):
            lines += ["", f"[{section}]", *(f"{key} = {_toml(value)}" for key, value in fields.items())]
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def _toml(value: object) -> str:
    # JSON's strings, booleans, lists and finite numbers are TOML's as well.
    return json.dumps(value, ensure_ascii=False)


def refuse_unknown(values: dict[str, Any], kind: Any, where: str, prefix: str = "") -> None:
    """Refuse keys that are no field of a dataclass, in its sections as well.

    Raises:
        ConfigError: naming the key and those that are allowed.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key, value in values.items():
        if key not in fields:
            inside = f" in [{prefix[:-1]}]" if prefix else ""
            raise ConfigError(f"{where}: unknown key {prefix}{key}; allowed{inside}: {', '.join(fields)}")
        section = fields[key].default_factory
        if dataclasses.is_dataclass(section):
            if not isinstance(value, dict):
                raise ConfigError(f"{where}: {key}: got {value!r}, expected a table [{key}]")
            refuse_unknown(value, section, where, f"{prefix}{key}.")


def check_config(config: Config, *, where: str = "configuration") -> None:
    """Refuse values that cannot work.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    positive = {
        "audio.sample_rate": config.audio.sample_rate,
        "data.window_samples": config.data.window_samples,
        "batches.num_windows": config.batches.num_windows,
        "batches.windows_per_group": config.batches.windows_per_group,
        "encoder.channels": config.encoder.channels,
        "encoder.strides": min(config.encoder.strides, default=0),
        "autoregressor.hidden": config.autoregressor.hidden,
        "autoregressor.layers": config.autoregressor.layers,
        "criterion.num_steps": config.criterion.num_steps,
        "criterion.tau": 1 if config.criterion.tau == "sqrt_dim" else config.criterion.tau,
        "loss.temperature": config.loss.temperature,
        "loss.queue_length": config.loss.queue_length,
        "optim.lr": config.optim.lr,
        "train.num_updates": config.train.num_updates,
        "train.log_every": config.train.log_every,
        "train.validate_every": config.train.validate_every,
        "train.validate_batches": config.train.validate_batches,
        "train.checkpoint_every": config.train.checkpoint_every,
    }
    for key, value in positive.items():
        if not value > 0:
            raise ConfigError(f"{where}: {key}: got {value}, expected more than 0")
    not_negative = {
        "seed": config.seed,
        "recompute": config.recompute,
        "data.cache_megabytes": config.data.cache_megabytes,
        "data.workers": config.data.workers,
        "criterion.num_negatives": config.criterion.num_negatives,
        "train.keep_every": config.train.keep_every,
        "optim.weight_decay": config.optim.weight_decay,
        "optim.warmup_updates": config.optim.warmup_updates,
        "optim.clip_norm": config.optim.clip_norm,
    }
    for key, value in not_negative.items():
        if not value >= 0:
            raise ConfigError(f"{where}: {key}: got {value}, expected 0 or more")
    for key, value in {"optim.momentum": config.optim.momentum, "loss.momentum": config.loss.momentum}.items():
        if not 0 <= value < 1:
            raise ConfigError(f"{where}: {key}: got {value}, expected 0 or more, below 1")
    if config.recompute and config.encoder.norm == "batch":
        raise ConfigError(
            f"{where}: recompute: got {config.recompute}, but encoder.norm = 'batch' needs the whole batch; pass 0"
        )
    if config.loss.name in ("supervised", "sup_con") and config.loss.target == "phone" and not config.loss.labels:
        raise ConfigError(f"{where}: loss.labels: got none, a phone target needs one; pass --loss.labels FILE")
    in_group = config.batches.windows_per_group if config.batches.kind == "by_utterance" else 1
    if config.loss.name in ("nt_xent", "clip", "moco") and (
        in_group < 2 or (config.loss.name != "nt_xent" and in_group != 2)
    ):
        raise ConfigError(
            f"{where}: loss.name: {config.loss.name} compares windows of one utterance; set batches.kind = "
            '"by_utterance" and batches.windows_per_group = 2'
        )
