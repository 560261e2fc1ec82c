"""The settings of a finished run, as its models are used with them on this machine."""

from __future__ import annotations

from pathlib import Path

from fedpurel_app.config import RunConfig, stored_config
from fedpurel_app.core.errors import ConfigError
from fedpurel_app.core.files import names_weights
from fedpurel_app.reporting.run_folder import RunFolder


def run_settings(folder: RunFolder, pretrained: Path | None) -> RunConfig:
    """Read a run's settings, with what another machine than the run's needs.

    Parameters
    ----------
    folder : RunFolder
    pretrained : Path, optional
        The backbone's weights on this machine, where they are not at the run's own path.

    Raises
    ------
    ConfigError
        When the weights are in neither place.
    StateError
        When the settings cannot be read.
    """
    # Where the run's GPU is not, a CPU will do.
    settings = {**folder.read_json("config.json")["config"], "device": "auto"}
    if settings["dataset"] == "sites":
        settings["dataset-path"] = ""  # the server's own, if any; the names of the classes are in the settings
    if pretrained is not None:
        if not (pretrained.is_file() and names_weights(pretrained.name)):
            raise ConfigError(f"--pretrained {pretrained}: no such file of weights (.safetensors, .pt, .pth or .bin).")
        settings["pretrained"] = str(pretrained)
    config = stored_config(settings)
    if config.dataset != "features" and names_weights(config.pretrained) and not Path(config.pretrained).is_file():
        raise ConfigError(
            f"the run's backbone comes from {config.pretrained}, which is not here: name your copy, --pretrained FILE."
        )
    return config
