"""One engine to be made, as it is handed from the process that was called to the one that builds."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..manifest import Profile
from ..runtime.device.cuda_driver import Gpu
from .backend import Software
from .cache_key import ingredients
from .model import Model
from .options import Options


@dataclass(frozen=True)
class Job:
    """An engine to be made.

    Attributes
    ----------
    model, engine
        The file to build from, and the one to write.
    target, software, options
        What for, with what, and how.
    plugin, timing_cache
        Files, or None.
    gpu
        This machine's, or None.
    words
        The options as they were given, by the command line's names, for the command that builds this again.
    force, preflight
        Build even if it is there already; ask first whether there is room.
    """

    model: Path
    engine: Path
    target: str
    software: Software
    options: Options
    plugin: Path | None = None
    timing_cache: Path | None = None
    gpu: Gpu | None = None
    words: dict[str, Any] = field(default_factory=dict)
    force: bool = False
    preflight: bool = True

    @property
    def device(self) -> str:
        """The GPU that this engine is tuned on; empty for TensorRT-RTX, which tunes where an engine runs."""
        return self.gpu.name if self.gpu and self.software.backend == "tensorrt" else ""

    def ingredients(self, model: Model) -> dict[str, str]:
        """What the cache's key is made of."""
        return ingredients(model, self.options, self.software, self.target, self.device, self.plugin)

    def to_json(self) -> str:
        """Serialize in one line."""
        return json.dumps(dataclasses.asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Read back what `to_json` wrote."""
        values = json.loads(text)
        options = values["options"]
        profiles = (Profile(**{k: tuple(v) for k, v in profile.items()}) for profile in options["profiles"])
        gpu = values["gpu"]
        return cls(
            **{
                **values,
                "model": Path(values["model"]),
                "engine": Path(values["engine"]),
                "plugin": values["plugin"] and Path(values["plugin"]),
                "timing_cache": values["timing_cache"] and Path(values["timing_cache"]),
                "software": Software(**values["software"]),
                "options": Options(
                    **{**options, "profiles": tuple(profiles), "k": options["k"] and tuple(options["k"])}
                ),
                "gpu": gpu and Gpu(**{**gpu, "capability": tuple(gpu["capability"])}),
            }
        )
