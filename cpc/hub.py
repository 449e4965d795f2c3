"""A trained model as a folder that is complete in itself, and its way to and from the Hugging Face hub.

The folder holds model.safetensors, which `cpc.load` reads as well; config.json, the same configuration to look at; and
README.md, the model card. huggingface_hub is optional: without it, models load, and the methods of the hub say what to
install.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cpc.config import Config, config_text, config_to_dict, without_places
from cpc.data import read_audio, read_manifest
from cpc.devices import resolve_device
from cpc.files import write_json
from cpc.model import CPC as Network
from cpc.report import results_table
from cpc.runs import CheckpointError, Which, locate_checkpoint, read_model, save_weights

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
_TAGS = ["audio", "contrastive-predictive-coding", "representation-learning"]


class HubError(ValueError):
    """A model that cannot be saved for the hub, or read from it."""


try:
    from huggingface_hub import ModelCard, ModelCardData, ModelHubMixin, hf_hub_download
except ImportError:

    def _refuse(*_: Any, **__: Any) -> Any:
        raise HubError("models for the hub need huggingface_hub: pip install 'cpc-audio[hub]'")

    class ModelHubMixin:  # type: ignore[no-redef]
        """Stands in for the mixin."""

        save_pretrained = push_to_hub = _refuse
        from_pretrained = classmethod(_refuse)


class CPC(Network, ModelHubMixin):
    """A trained model with what it was trained on, as `cpc.load` returns it.

    `save_pretrained(folder)`, `CPC.from_pretrained(folder_or_repo)` and `push_to_hub(repo)` are those of
    huggingface_hub's mixin. `model_card_kwargs={"license": "cc-by-4.0"}` adds entries to the header of the card.

    Attributes:
        config: the configuration of the run.
        checkpoint: the file that the weights came from.
        update: number of updates that they were trained for.
        data: {"data": digest of the utterances that they learned from}, where the checkpoint knows it.
    """

    config: Config | None = None
    checkpoint: Path | None = None
    update: int = 0
    data: Mapping[str, str] = MappingProxyType({})

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *, device: str = "cpu", **options: Any) -> CPC:
        """Load a model from a folder that `save_pretrained` wrote, or from a repository of the hub.

        Args:
            pretrained_model_name_or_path: the folder, or "owner/name".
            device: as for `cpc.load`.
            options: those of huggingface_hub's mixin: revision, token, cache_dir, local_files_only, force_download.

        Raises:
            HubError: there is neither such a folder nor such a repository, it holds no weights, or huggingface_hub is
                not installed.
            CheckpointError: the weights are damaged.
        """
        source = str(pretrained_model_name_or_path)
        try:
            model: CPC = super().from_pretrained(source, device=device, **options)
        except (OSError, ValueError) as error:
            if isinstance(error, HubError | CheckpointError) or Path(source).is_dir():
                raise
            reason = str(error).strip().partition("\n")[0]
            raise HubError(f"{source}: no such folder, and not loaded from the hub: {reason}") from None
        return model

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the weights and the configuration.

        Raises:
            HubError: no run is known from which this model came.
        """
        config = self._published()
        save_weights(save_directory / WEIGHTS_FILE, config, self, update=self.update, **self.data)
        write_json(save_directory / CONFIG_FILE, config_to_dict(config))

    @classmethod
    def _from_pretrained(cls, *, model_id: str, device: str = "cpu", **download: Any) -> CPC:
        """Load a model from a folder, or from a repository of the hub."""
        path = Path(model_id) / WEIGHTS_FILE
        if not Path(model_id).is_dir():
            path = Path(hf_hub_download(repo_id=model_id, filename=WEIGHTS_FILE, **download))
        if not path.is_file():
            raise HubError(
                f"{model_id}: holds no {WEIGHTS_FILE}, which save_pretrained writes; cpc.load reads run folders"
            )
        return load(path, device=device)

    def generate_model_card(self, **entries: Any) -> ModelCard:
        """Fill the model card from the run; the licence is left to whoever publishes the model.

        Args:
            entries: further entries of the card's header.
        """
        header = ModelCardData(**{"library_name": "cpc-audio", "tags": list(_TAGS)} | entries)
        return ModelCard(f"---\n{header.to_yaml()}\n---\n\n{self._card()}")

    def _published(self) -> Config:
        """The configuration, without the folders of this machine."""
        if self.config is None:
            raise HubError(
                "this model came from no run, so its configuration is unknown; take one that cpc.load returned"
            )
        return without_places(self.config)

    def _card(self) -> str:
        """Write the text of the card."""
        config, geometry = self._published(), self.g_enc.geometry
        hop = 1000 * geometry.hop_samples / self.sample_rate
        first = 1000 * geometry.first_centre_samples / self.sample_rate
        both = config.autoregressor.directions == "both"
        seen = "of the whole utterance" if both else "of the past alone"
        return "\n\n".join(
            [
                "# Contrastive predictive coding on audio",
                f"{self._training()} It turns sound at {self.sample_rate} Hz "
                f"into a frame every {hop:g} ms, the first one centred at {first:g} ms: a latent z of "
                f"{self.g_enc.channels} dimensions and a context c of {self.g_ar.hidden_dim}, a summary {seen}.",
                "## How to load it",
                "    pip install 'cpc-audio[hub]'",
                "```python\nimport cpc\n\nmodel = cpc.CPC.from_pretrained(FOLDER_OR_REPO)\n"
                'z, c = model("speech.wav")  # (T, D_z), (T, D_c)\n```',
                "## Corpus",
                self._corpus(),
                "## Results",
                self._results(),
                "## Configuration",
                f"```toml\n{config_text(config)}```",
                "## Licence",
                "None is stated here. Whoever publishes these weights adds `license` to the header, as far as the "
                "corpus allows.",
            ]
        )

    def _training(self) -> str:
        """Say how the network was trained."""
        assert self.config is not None
        how = "without labels by contrastive predictive coding (van den Oord et al. 2018, arXiv 1807.03748)"
        if self.config.loss.name != "cpc":
            how = f"with the objective `{self.config.loss.name}`, which contrastive predictive coding is compared with,"
        where = (
            f"with cpc-audio, for {self.update} updates" if self.update else "elsewhere, and imported into cpc-audio"
        )
        return f"A network that was trained {how} {where}."

    def _corpus(self) -> str:
        """Count what the model was trained on, where the manifest is still there."""
        assert self.config is not None
        path = Path(self.config.data.manifest)
        if not path.is_file():
            return f"`{path.name or 'unknown'}`, which was not there when this card was written."
        table = read_manifest(path)
        splits = ", ".join(f"{name} {count}" for name, count in table.splits.items())
        hours, num_speakers = table.seconds.sum() / 3600, len(set(table.speakers))
        return (
            f"`{path.resolve().parent.name}/{path.name}`: {len(table)} utterances of {num_speakers} speakers, "
            f"{hours:.2f} hours" + (f" ({splits})." if splits else ".")
        )

    def _results(self) -> str:
        """Format what probes have measured, from the run folder."""
        from cpc.report import Expected, Results

        nothing = "No probe has been run."
        if self.checkpoint is None:
            return nothing
        folder, probes = self.checkpoint.parent, self.checkpoint.parent / "probes"
        if (folder / "results.json").is_file():
            return results_table(json.loads((folder / "results.json").read_text(encoding="utf-8")))
        if not (folder / "config.toml").is_file():
            return nothing
        tables = Results.read(probes).of(Expected.of(folder, None), probes)[0].tables()
        return "\n\n".join(table.markdown() for table in tables) or nothing


def load(run: str | Path, which: Which = "best", device: str = "cpu") -> CPC:
    """Load a trained model that reads sound files and can be saved for the hub; `cpc.load` describes it."""
    path = locate_checkpoint(run, which)
    model, config, content = read_model(path, str(resolve_device(device)), CPC)
    assert isinstance(model, CPC)
    model.config, model.checkpoint, model.update = config, path, content.get("update", 0)
    model.data = {"data": content["data"]} if "data" in content else {}
    model.read = partial(read_audio, sample_rate=model.sample_rate, resample=True)
    return model
