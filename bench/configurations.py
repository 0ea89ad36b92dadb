"""The configurations in which one network can run on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import load
from ..errors import InputError
from ..files import CHECKPOINT_SUFFIXES, ENGINE_SUFFIX
from ..runtime.backends.base import Session
from ..runtime.device.spec import Device, device_for


@dataclass(frozen=True)
class RunConfiguration:
    """One way to run a network: a file and how it is loaded. It can be pickled, for a process of its own.

    Attributes
    ----------
    name
        Its title in tables.
    model
        An exported file, an engine, or a checkpoint.
    device, provider, library, threads
        As `load` takes them.
    compiled
        For checkpoints: run through ``torch.compile``.
    """

    name: str
    model: str
    device: str | None = None
    provider: str | None = None
    library: str | None = "auto"
    threads: int | None = None
    compiled: bool = False

    def open(self) -> Session:
        """Load the model; raises as `load` does."""
        session = load(
            self.model,
            device=self.device,
            provider=self.provider,
            library=self.library,
            threads=self.threads,
            notice=_silent,
        ).session
        if not self.compiled:
            return session
        from ..runtime.backends.pytorch import TorchSession

        assert isinstance(session, TorchSession)
        return session.compiled()

    def gpu(self) -> Device | None:
        """Return the GPU that it runs on, or None for the CPU."""
        device = device_for(self.device, self.model, self.provider)
        return device if device.kind == "cuda" else None


def run_configurations(
    models: Sequence[str],
    against: str | None,
    device: str | None,
    provider: str | None = None,
    threads: int | None = None,
) -> list[RunConfiguration]:
    """Return the configurations to run these files in, PyTorch's first.

    An ONNX file runs with keygraph's operators and with its own functions, the checkpoint `against` with and without
    ``torch.compile``.

    Parameters
    ----------
    models
        Exported files, engines or checkpoints.
    against
        A checkpoint of the same network, or None.
    device, provider, threads
        As `load` takes them. An engine runs on a GPU even if the device is ``"cpu"``.

    Raises
    ------
    InputError
        A file's name does not end as a model's, or the provider is ``"auto"``.
    """
    if provider == "auto":
        raise InputError("the provider auto is for keygraph restore; bench measures one: give cpu, cuda or openvino")
    found = []
    if against is not None:
        found += [
            RunConfiguration("PyTorch", against, device, threads=threads),
            RunConfiguration("torch.compile", against, device, threads=threads, compiled=True),
        ]
    for model in models:
        path = Path(model)
        several = f" {path.name}" if len(models) > 1 else ""
        if path.suffix.lower() == ".onnx":
            title = "OpenVINO" if provider == "openvino" else f"ONNX Runtime {provider or ''}".strip()
            found += [
                RunConfiguration(f"{title}, our operators{several}", model, device, provider, "auto", threads),
                RunConfiguration(f"{title}, functions{several}", model, device, provider, None, threads),
            ]
        elif path.suffix.lower() == ENGINE_SUFFIX:
            found.append(RunConfiguration(f"engine{several}", model, None if device == "cpu" else device))
        elif path.suffix.lower() in CHECKPOINT_SUFFIXES:
            found.append(RunConfiguration(f"PyTorch {path.name}", model, device, threads=threads))
        else:
            suffixes = ", ".join((".onnx", ENGINE_SUFFIX, *CHECKPOINT_SUFFIXES))
            raise InputError(f"{model!r} cannot be measured; give files that end with {suffixes}, or operators")
    return found


def _silent(message: str) -> None:
    """Ignore a notice."""
