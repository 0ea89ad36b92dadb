"""The request to build one engine, sent as JSON from the calling process to the worker process."""

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
    """A request to build one engine.

    Attributes
    ----------
    model, engine
        The ONNX file to read, and the engine file to write.
    target
        Name of the target, for instance ``"sm_89"``.
    software
        The backend and its version.
    options
        The user's options.
    plugin, timing_cache
        Files, or None.
    gpu
        This machine's GPU, or None.
    words
        The options that were given on the command line, by name, for the command that builds the engine again.
    force
        Build even if the engine exists and is up to date.
    preflight
        Check memory and disk space first.
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
        """Name of the GPU that the engine is tuned on; empty for TensorRT-RTX, which tunes on the GPU that runs it."""
        return self.gpu.name if self.gpu and self.software.backend == "tensorrt" else ""

    def ingredients(self, model: Model) -> dict[str, str]:
        """Return the ingredients of the cache key."""
        return ingredients(model, self.options, self.software, self.target, self.device, self.plugin)

    def to_json(self) -> str:
        """Serialize to one line of JSON."""
        return json.dumps(dataclasses.asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Deserialize what `to_json` returned."""
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
