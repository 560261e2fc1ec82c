"""Everything that settings determine, in three parts. Used by both apps."""

from __future__ import annotations

from pathlib import Path

from fedpurel_app.config import RunConfig
from fedpurel_app.data.sources.source import Source
from fedpurel_app.federation import Federation
from fedpurel_app.images import Images
from fedpurel_app.model_kit import ModelKit


class Experiment:
    """The data, the models, and the one as the other takes it.

    Parameters
    ----------
    config : RunConfig
    cache : Path
        Folder of the feature cache.
    own : bool
        ``dataset-path`` is a site's own data, and not a data set that is dealt out.
    source : Source, optional
        Takes the place of the data set that the settings name, as where only its classes are at hand.
    together : bool
        See :class:`~fedpurel_app.images.Images`.
    site : str
        Whose data these are, where they are a site's own.

    Notes
    -----
    All of it is a function of the settings: any process that makes it from the same settings gets the same data, the
    same sites and the same initial parameters. Nothing private is held here.
    """

    def __init__(
        self,
        config: RunConfig,
        cache: Path,
        own: bool = False,
        source: Source | None = None,
        together: bool = True,
        site: str = "",
    ) -> None:
        self.config = config
        self.federation = Federation(config, own, source, site)
        self.kit = ModelKit(config, self.federation, cache)
        self.images = Images(self.federation, self.kit, cache, together)
