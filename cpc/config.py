"""All settings of a training run: frozen dataclasses that are read from TOML. The defaults are the paper's numbers.

Types carry the constraints, so an unknown key or a wrong value is an error that lists what is allowed. The command line
(`cpc train --help`) is made from the same dataclasses.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from cpc.files import write_bytes

T = TypeVar("T")
# What pydantic inserts into the location of an error: the alternative of a union that it tried.
_ALTERNATIVE = re.compile(r"int|float|literal\[.*|tuple\[.*|constrained-.*|function-.*")

LOGMEL_HOP_SECONDS = 0.010  # between the frames of the encoder "logmel", at any rate

Scheme = Literal["mixed_speaker", "same_speaker", "mixed_speaker_excl", "same_speaker_excl", "current_sequence"]
RuleName = Literal[Scheme, "rule"]
# The upper bounds are far beyond what anybody trains: they stop a mistyped number before it fills the memory.
PositiveInt = Annotated[int, Field(gt=0, le=2**40)]
NotNegativeInt = Annotated[int, Field(ge=0, le=2**40)]
Width = Annotated[int, Field(gt=0, le=2**20)]
PositiveFloat = Annotated[float, Field(gt=0)]
NotNegativeFloat = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
# Far outside what is useful, so that only infinities and slips are refused.
Decibel = Annotated[float, Field(ge=-100, le=100)]
Cent = Annotated[float, Field(ge=-1200, le=1200)]
ReverberationSeconds = Annotated[float, Field(ge=0.01, le=10)]


def _refuse_descending(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise PydanticCustomError("bounds", "Input should be the lower bound and then the upper one")
    return bounds


_ASCENDING = AfterValidator(_refuse_descending)


class ConfigError(ValueError):
    """A configuration that cannot be used; one line: key, value, what is allowed."""


@dataclass(frozen=True)
class AudioConfig:
    """How waveforms reach g_enc."""

    sample_rate: Annotated[int, Field(gt=0, le=10**7)] = 16000
    """Hz. A file of another rate is an error unless `resample` is on."""
    resample: bool = False
    """Resample files of another rate while reading them."""
    normalise: Literal["utterance", "none"] = "utterance"
    """Normalise each whole utterance to zero mean and unit variance. The paper does not say whether it does; without it
    the loss stays at log N for hundreds of updates, and loudness is a shortcut."""


@dataclass(frozen=True)
class DataConfig:
    """The training data."""

    manifest: str = ""
    """CSV file that `cpc manifest` wrote; a run keeps its absolute path. Its `split` column names train and dev."""
    window_samples: PositiveInt = 20480
    """Length of a window at `audio.sample_rate` (the paper: 20480, 1.28 s)."""
    short: Literal["skip", "pad"] = "skip"
    """Leave out utterances that are shorter than a window, or pad them with zeros that no anchor and no negative
    uses."""
    cache_megabytes: NotNegativeInt = 1024
    """Keep up to this much decoded audio in memory, per worker (1 h at 16 kHz takes 220 MB)."""
    cache: str = ""
    """Folder for decoded audio as memory-mapped 16-bit samples, built at first use (115 MB an hour at 16 kHz). It helps
    with corpora larger than memory whose files are slow to decode. There is none by default."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """Number of processes that read audio; 0 reads in the training process."""
    on_bad_audio: Literal["error", "skip"] = "error"
    """What happens at a sound file that is missing, damaged, or not as the manifest says: stop, or take another
    utterance of the speaker in its place, up to 1 % of all files, which are named and counted."""


@dataclass(frozen=True)
class BatchConfig:
    """The composition of a batch."""

    kind: Literal["mixed", "by_speaker", "by_utterance"] = "mixed"
    """Fill batches with any windows, or with groups of windows of one speaker or one utterance."""
    num_windows: PositiveInt = 64
    """Windows in a batch (the paper: 8 GPUs × 8)."""
    windows_per_group: PositiveInt = 4
    """Windows of each speaker or utterance in a batch; ignored with kind = "mixed"."""
    accumulate: PositiveInt = 1
    """Batches that an update takes one after the other, in the memory of one: each has its own negatives, and their
    gradients are averaged. The paper's 8 GPUs × 8 windows are num_windows = 8 and accumulate = 8 on one device."""


@dataclass(frozen=True)
class EncoderConfig:
    """g_enc, the encoder."""

    channels: Width = 512
    """Width of each layer and of z, D_z (the paper: 512)."""
    strides: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (5, 4, 2, 2, 2)
    """Stride of each convolution; its kernel is twice as long (the paper: 5,4,2,2,2 and 10,8,4,4,4)."""
    norm: Literal["channel", "none", "batch"] = "channel"
    """Normalise each frame over its channels (CPC_audio), not at all, or over the batch (which leaks other windows into
    z and prints a warning)."""
    padding: Literal["none", "same", "cpc_audio"] = "none"
    """Zero padding: none; "same" gives S // hop frames, each centred in its hop; "cpc_audio" pads 3,2,1,1,1 as
    CPC_audio."""
    kind: Literal["conv", "logmel"] = "conv"
    """Strided convolutions on the waveform (the paper), or one linear layer on log-mel energies."""
    initial: Literal["he", "conv1d"] = "he"
    """Initial weights of the convolutions: He et al. 2015, or torch.nn.Conv1d's, which are 2.4 times smaller."""


@dataclass(frozen=True)
class AutoregressorConfig:
    """g_ar, the recurrent network."""

    kind: Literal["gru", "lstm"] = "gru"
    """The paper uses a GRU, CPC_audio an LSTM."""
    hidden: Width = 256
    """Number of units, D_c (the paper: 256)."""
    layers: Annotated[int, Field(gt=0, le=100)] = 1
    """Number of stacked layers (the paper: 1)."""
    directions: Literal["forward", "both"] = "forward"
    """Read forwards (the paper); or a second network reads backwards and predicts the past, c holds the units of both,
    and whole files are needed to compute it."""


@dataclass(frozen=True)
class NegativeSet:
    """One set of negatives: which latents they are, how many, and its weight in the loss."""

    scheme: RuleName = "rule"
    """One of the five named rules, or "rule": the one that `same` and `different` state."""
    same: tuple[str, ...] = ()
    """Columns in which a negative agrees with the anchor: speaker, utterance, or any column of the manifest."""
    different: tuple[str, ...] = ()
    """Columns in which a negative differs from the anchor."""
    number: Annotated[int, Field(ge=0, le=2**20)] = 0
    """Negatives drawn for each anchor and step, with replacement. 0 takes all."""
    weight: PositiveFloat = 1.0
    """Weight of the set's loss. The loss is the weighted mean over the sets."""
    steps: tuple[PositiveInt, ...] = ()
    """Steps at which the set is scored; empty: all. A step that no set scores is not predicted."""
    min_distance: NotNegativeInt = 0
    """Least distance in frames between a negative and the positive inside one utterance. Frames less than 3 apart share
    samples."""
    max_distance: NotNegativeInt = 0
    """Greatest such distance; 0 sets no limit."""


@dataclass(frozen=True)
class CriterionConfig:
    """InfoNCE."""

    num_steps: PositiveInt = 12
    """K, the number of steps predicted ahead; a step is one hop of g_enc, 10 ms (the paper: 12)."""
    tau: PositiveFloat | Literal["sqrt_dim"] = "sqrt_dim"
    """Divisor of the scores: z^T W_k c / tau. The paper uses 1, with which 256 channels never left log N in 300
    updates; sqrt(D_z) did before update 100."""
    scheme: Scheme | Literal["sets"] = "mixed_speaker"
    """Source of the negatives (the paper's Table 2): the whole batch, the same speaker, either of them without the
    current utterance, or the current sequence alone. "sets" takes the sets of `negatives`."""
    num_negatives: Annotated[int, Field(ge=0, le=2**20)] = 0
    """Negatives drawn for each anchor and step, with replacement. 0 takes all that the scheme admits, which is
    faster. Ignored with scheme = "sets"."""
    negatives: tuple[NegativeSet, ...] = ()
    """Sets of negatives, [[criterion.negatives]] in TOML: each has a loss of its own over the same predictions. Ignored
    unless scheme = "sets"."""
    step_weights: tuple[NotNegativeFloat, ...] = ()
    """Weight of each step's loss, K numbers; the loss is the weighted mean. Empty weighs all steps equally."""

    @property
    def sets(self) -> tuple[NegativeSet, ...]:
        """The sets of negatives of the run: one for a named scheme."""
        if self.scheme == "sets":
            return self.negatives
        return (NegativeSet(scheme=self.scheme, number=self.num_negatives),)

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that are predicted: those that a set of negatives scores."""
        every = range(1, self.num_steps + 1)
        return tuple(sorted({step for negatives in self.sets for step in negatives.steps or every}))


@dataclass(frozen=True)
class RegulariseConfig:
    """Regularisation in training; everything is off by default."""

    dropout_z: Share = 0.0
    """Probability that an element of z is dropped where z enters g_ar; the targets stay whole."""
    dropout_c: Share = 0.0
    """Probability that an element of c is dropped where c enters W_k."""
    left_or_right: NotNegativeFloat = 0.0
    """Weight of a loss that lets each latent resemble one of its two neighbours (Bhati et al. 2023)."""
    self_expression: NotNegativeFloat = 0.0
    """Weight of a loss that lets each latent resemble a mixture of similar latents of its window (the same)."""


@dataclass(frozen=True)
class LossConfig:
    """The objective: CPC, or one that it is compared with."""

    name: Literal["cpc", "supervised", "nt_xent", "clip", "moco", "sup_con"] = "cpc"
    """cpc predicts the next latents, as [criterion] says. supervised classifies each frame by a linear layer on c.
    nt_xent (SimCLR), clip (symmetric InfoNCE) and moco (a queue of keys) tell two windows of an utterance from others,
    by c averaged over each window. sup_con attracts windows of one class, or frames of one phone."""
    target: str = "speaker"
    """Target of supervised and sup_con: phone, or a column of the manifest."""
    labels: str = ""
    """Phone labels for the target phone: one line an utterance, one integer each 10 ms."""
    temperature: PositiveFloat = 0.1
    """Divisor of the cosines (SimCLR: 0.1; MoCo and CLIP: 0.07)."""
    queue_length: PositiveInt = 1024
    """Keys of earlier batches that serve moco as negatives (MoCo: 65536, from a million images)."""
    momentum: Share = 0.99
    """Momentum of moco's key network (MoCo: 0.999, over many more updates)."""


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser and its learning rate."""

    name: Literal["adam", "adamw", "muon"] = "adam"
    """The paper uses Adam. muon applies Muon to the matrices between hidden units and AdamW to the other weights."""
    lr: PositiveFloat = 2e-4
    """Learning rate after warm-up (the paper: 2e-4)."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay rates of Adam's moments (PyTorch's values)."""
    eps: NotNegativeFloat = 1e-8
    """Adam's epsilon (PyTorch's value)."""
    momentum: Share = 0.95
    """Momentum of Muon (its authors' value)."""
    weight_decay: NotNegativeFloat = 0.0
    """Weight decay of matrices; biases and gains have none."""
    warmup_updates: NotNegativeInt = 0
    """Updates over which the learning rate rises linearly from 0."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """Learning rate after warm-up: constant, or falling along half a cosine or a line that would reach 0 one update
    after the last."""
    clip_norm: NotNegativeFloat = 0.0
    """Largest norm of the whole gradient; 0 does not clip."""


@dataclass(frozen=True)
class TrainConfig:
    """The length of training and what is written when."""

    num_updates: PositiveInt = 300_000
    """Number of updates (the paper: about 300k)."""
    log_every: PositiveInt = 20
    """Updates between lines of metrics.jsonl."""
    validate_every: PositiveInt = 1000
    """Updates between passes over the dev split. best.safetensors holds the weights with the lowest dev loss."""
    validate_batches: PositiveInt = 50
    """Largest number of batches in a pass over the dev split."""
    checkpoint_every: PositiveInt = 1000
    """Updates between writes of last.pt."""
    keep_every: NotNegativeInt = 0
    """Updates between checkpoints of the weights that are kept as kept/UPDATE.safetensors; 0 keeps none."""
    on_not_finite: Literal["error", "skip"] = "error"
    """What happens at a gradient with NaN or infinity: stop and name the utterances, or leave the update out, up to 1 %
    of all."""


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of the past (Kharitonov et al. 2020, arXiv 2007.00991).

    z (the targets and the negatives) comes from the clean window, and c from an augmented copy. Everything is off by
    default. Dev windows are never augmented, and the same (seed, epoch, window) always gives the same copy.

    Where it is on, an update encodes the batch twice, clean and augmented, and reading a window of 1.28 s takes 5.5 ms
    longer with all four operations: 3.3 ms for pitch and below 1 ms for each of the others. `data.workers` moves that
    to other processes.
    """

    pitch: Probability = 0.0
    """Probability that a window's pitch is shifted. It also shifts the formants, and so removes some of what tells
    speakers apart."""
    pitch_cents: Annotated[tuple[Cent, Cent], _ASCENDING] = (-300.0, 300.0)
    """Lowest and highest shift, cents (that paper: -300 to 300)."""
    reverb: Probability = 0.0
    """Probability that a window is reverberated."""
    rt60_seconds: Annotated[tuple[ReverberationSeconds, ReverberationSeconds], _ASCENDING] = (0.1, 0.8)
    """Shortest and longest time in which the reverberation decays by 60 dB."""
    direct_to_reverberant_db: Annotated[tuple[Decibel, Decibel], _ASCENDING] = (0.0, 12.0)
    """Lowest and highest ratio of the direct sound's energy to the reverberation's, dB."""
    noise: Probability = 0.0
    """Probability that noise is added to a window."""
    snr_db: Annotated[tuple[Decibel, Decibel], _ASCENDING] = (5.0, 20.0)
    """Lowest and highest signal-to-noise ratio over the window, dB."""
    noise_slope_db: Annotated[tuple[Decibel, Decibel], _ASCENDING] = (-6.0, 0.0)
    """Steepest and flattest slope of the noise's power spectrum, dB an octave (white: 0, pink: -3, brown: -6)."""
    channel: Probability = 0.0
    """Probability that a window is filtered by a random microphone."""
    channel_db: Annotated[float, Field(ge=0, le=100)] = 6.0
    """Largest gain and attenuation of that filter at any frequency, dB."""

    @property
    def is_on(self) -> bool:
        """Whether any window is ever augmented."""
        return max(self.pitch, self.reverb, self.noise, self.channel) > 0


@dataclass(frozen=True)
class Config:
    """A training run."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of weights, windows, batches and negatives."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps; auto takes the first that is available of cuda, mps, cpu."""
    threads: Annotated[int, Field(gt=0, le=4096)] | Literal["auto"] = "auto"
    """Threads on a CPU. auto uses all cores, but no more than other processes leave. Another number changes results by
    rounding, so give one where they must repeat to the bit."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """bf16 runs the networks under autocast (scores stay float32); auto chooses it where the hardware multiplies
    bf16."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile of g_enc; auto uses it on CUDA for 2000 updates or more, where it pays back its warm-up."""
    recompute: NotNegativeInt = 0
    """Encode a batch in this many pieces and recompute each in the backward pass: less memory, up to a fifth slower
    (tests/bench/README.md). 0 keeps all activations."""
    audio: AudioConfig = field(default_factory=AudioConfig)
    data: DataConfig = field(default_factory=DataConfig)
    batches: BatchConfig = field(default_factory=BatchConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    autoregressor: AutoregressorConfig = field(default_factory=AutoregressorConfig)
    criterion: CriterionConfig = field(default_factory=CriterionConfig)
    regularise: RegulariseConfig = field(default_factory=RegulariseConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


PRESETS = Path(__file__).parent / "presets"


def read_config(path: str | Path) -> Config:
    """Read a TOML file, or a preset by its name ("small", "paper"). Keys that the file leaves out keep their defaults.

    Raises:
        ConfigError: missing file, not TOML, an unknown key, or a value of the wrong type or out of range.
    """
    path = Path(path)
    presets = sorted(p.stem for p in PRESETS.glob("*.toml"))
    if str(path) in presets:
        path = PRESETS / f"{path}.toml"
    missing = f"no such configuration; give a TOML file or a preset: {', '.join(presets)}"
    return config_from_dict(read_toml(path, missing=missing), where=str(path))


def read_toml(path: Path, *, missing: str) -> dict[str, Any]:
    """Read a TOML file as nested dictionaries.

    Raises:
        ConfigError: the file is missing, which the message says in the words of `missing`; or it is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: {missing}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not a configuration: its values are nested too deeply") from None


def config_from_dict(values: dict[str, Any], *, where: str) -> Config:
    """Build a checked Config from nested dictionaries; `where` names their source in errors."""
    config = parse_as(Config, values, where=where)
    refuse_conflicts(config, where=where)
    return config


def config_to_dict(config: Config) -> dict[str, Any]:
    """Nested dictionaries of plain values, from which `config_from_dict` builds the same Config."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def check_config(config: Config, *, where: str = "configuration") -> None:
    """Check a Config that was built in Python or by the command line.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    config_from_dict(config_to_dict(config), where=where)


def config_identity(config: Config) -> dict[str, Any]:
    """The settings that decide what is learned. Where the run takes place, and how its data are read, do not."""
    values = config_to_dict(config)
    del values["device"], values["threads"], values["compile"], values["recompute"], values["loss"]["labels"]
    for key in ("manifest", "workers", "cache", "cache_megabytes", "on_bad_audio"):
        del values["data"][key]
    if values["autoregressor"]["directions"] == "forward":
        del values["autoregressor"]["directions"]
    for key, before in (("kind", "conv"), ("initial", "he")):  # runs from before there was a choice have no such key
        if values["encoder"][key] == before:
            del values["encoder"][key]
    if not config.augment.is_on:  # nor have runs from before there was augmentation
        del values["augment"]
    if values["batches"]["accumulate"] == 1:  # nor do runs from before there was accumulation
        del values["batches"]["accumulate"]
    criterion = values["criterion"]
    if criterion["scheme"] != "sets":  # nor do runs from before there were several sets
        del criterion["negatives"]
    if not criterion["step_weights"]:
        del criterion["step_weights"]
    if values["train"]["on_not_finite"] == "error":
        del values["train"]["on_not_finite"]
    if config.regularise == RegulariseConfig():
        del values["regularise"]
    return values


def map_paths(config: Config, change: Callable[[str], str]) -> Config:
    """Change each path of a configuration: of the manifest, of the cache and of the labels."""
    manifest, cache, labels = map(change, (config.data.manifest, config.data.cache, config.loss.labels))
    data, loss = replace(config.data, manifest=manifest, cache=cache), replace(config.loss, labels=labels)
    return replace(config, data=data, loss=loss)


def with_absolute_paths(config: Config) -> Config:
    """Make the paths of a run independent of the working directory."""
    return map_paths(config, lambda path: os.path.abspath(path) if path else "")


def without_places(config: Config) -> Config:
    """Leave out where files lie, which does not change a run; their names stay."""
    return map_paths(config, lambda path: Path(path).name)


def config_digest(config: Config) -> str:
    """Name a run wherever its folder lies and however long it trains: 16 hexadecimal digits of its settings.

    Runs on other data with the same settings and seed have the same name.
    """
    identity = config_identity(config)
    del identity["train"]  # a run that is extended stays the same run
    text = json.dumps(identity, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def hop_seconds(config: Config) -> float:
    """Return the time from one frame of g_enc to the next, in seconds."""
    if config.encoder.kind == "logmel":
        return round(LOGMEL_HOP_SECONDS * config.audio.sample_rate) / config.audio.sample_rate
    return math.prod(config.encoder.strides) / config.audio.sample_rate


def write_config(config: Config, path: Path) -> None:
    """Write a Config as TOML, such that `read_config` gives the same Config."""
    write_bytes(path, config_text(config).encode())


def config_text(config: Config) -> str:
    """Format a Config as TOML, with every field."""
    values = config_to_dict(config)
    lines = [f"{key} = {_toml(value)}" for key, value in values.items() if not isinstance(value, dict)]
    for section, fields in values.items():
        if not isinstance(fields, dict):
            continue
        lists = {key: value for key, value in fields.items() if value and isinstance(value, list)}
        tables = {key: value for key, value in lists.items() if all(isinstance(row, dict) for row in value)}
        plain = {key: value for key, value in fields.items() if key not in tables}
        lines += ["", f"[{section}]", *(f"{key} = {_toml(value)}" for key, value in plain.items())]
        for name, rows in tables.items():
            for row in rows:
                lines += ["", f"[[{section}.{name}]]", *(f"{key} = {_toml(value)}" for key, value in row.items())]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    # JSON's strings, booleans, lists and finite numbers are TOML's as well.
    return json.dumps(value, ensure_ascii=False)


def parse_as(kind: type[T], values: dict[str, Any], *, where: str) -> T:
    """Turn plain values into the dataclass that describes them.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type or out of range; items of lists are counted from 1.
    """
    from pydantic import TypeAdapter, ValidationError

    refuse_unknown(values, kind, where)
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        parts = [str(part + 1 if isinstance(part, int) else part) for part in first["loc"]]
        key = ".".join(part for part in parts if not _ALTERNATIVE.fullmatch(part))
        expected = first["msg"].lower().replace("input should be", "expected")
        got = " ".join(repr(first["input"]).split())
        raise ConfigError(f"{where}: {key}: got {got}, {expected}") from None


def refuse_unknown(values: dict[str, Any], kind: Any, where: str, prefix: str = "") -> None:
    """Refuse keys that are no field of a dataclass or of its sections.

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


def refuse_conflicts(config: Config, *, where: str = "configuration") -> None:
    """Refuse values that are allowed by themselves but do not work together.

    Raises:
        ConfigError: naming the key, its value and the way out.
    """
    loss, batches = config.loss, config.batches
    if config.recompute and config.encoder.norm == "batch":
        raise ConfigError(
            f"{where}: recompute: got {config.recompute}, but encoder.norm = 'batch' needs the whole batch; pass 0"
        )
    if loss.name in ("supervised", "sup_con") and loss.target == "phone" and not loss.labels:
        raise ConfigError(f"{where}: loss.labels: got none, a phone target needs labels; pass --loss.labels FILE")
    in_group = batches.windows_per_group if batches.kind == "by_utterance" else 1
    if (loss.name == "nt_xent" and in_group < 2) or (loss.name in ("clip", "moco") and in_group != 2):
        raise ConfigError(
            f"{where}: loss.name: {loss.name} compares windows of one utterance; set batches.kind = "
            '"by_utterance" and batches.windows_per_group = 2'
        )
    if loss.name == "cpc":
        _refuse_negatives(config.criterion, batches, where)


def _refuse_negatives(criterion: CriterionConfig, batches: BatchConfig, where: str) -> None:
    """Refuse sets of negatives, or step weights, that cannot work.

    Raises:
        ConfigError: naming the key, its value and the way out.
    """
    if not criterion.sets:
        raise ConfigError(
            f'{where}: criterion.negatives: got none, scheme = "sets" needs one [[criterion.negatives]] or more'
        )
    weights = criterion.step_weights
    if weights and (len(weights) != criterion.num_steps or not any(weights)):
        raise ConfigError(
            f"{where}: criterion.step_weights: got {len(weights)} numbers with sum {sum(weights):g}, expected "
            f"num_steps = {criterion.num_steps} numbers that are not all 0"
        )
    for number, of in enumerate(criterion.sets, start=1):
        name = f"{where}: criterion.negatives: set {number}"
        if of.scheme != "rule" and (of.same or of.different):
            raise ConfigError(
                f'{name}: got scheme {of.scheme} beside same or different; pass scheme = "rule" for these'
            )
        weighted = [step for step in of.steps if not weights or (step <= len(weights) and weights[step - 1])]
        if of.steps and not weighted:
            raise ConfigError(f"{name}: steps: got {list(of.steps)}, whose criterion.step_weights are all 0")
        if len(set(of.steps)) < len(of.steps) or max(of.steps, default=0) > criterion.num_steps:
            raise ConfigError(
                f"{name}: steps: got {list(of.steps)}, expected different steps up to {criterion.num_steps}"
            )
        if of.max_distance and of.max_distance < max(1, of.min_distance):
            raise ConfigError(f"{name}: max_distance: got {of.max_distance}, expected at least {of.min_distance}, or 0")
        if of.min_distance and (of.different or of.scheme.endswith("_excl")):
            raise ConfigError(f"{name}: min_distance: got {of.min_distance}, but the set leaves out the own utterance")
        # In other batches most speakers have one utterance, and its anchors would silently get negatives of their own
        # sequence (same_speaker), or none (same_speaker_excl).
        alone = batches.kind != "by_speaker" or batches.windows_per_group < 2
        same_speaker = of.scheme in ("same_speaker", "same_speaker_excl") or "speaker" in of.same
        if same_speaker and alone:
            label = f"criterion.scheme: {of.scheme}" if of.scheme != "rule" else "criterion.negatives: same speaker"
            raise ConfigError(
                f"{where}: {label} needs several windows of each speaker in a batch; "
                'set batches.kind = "by_speaker" and batches.windows_per_group = 2 or more'
            )
