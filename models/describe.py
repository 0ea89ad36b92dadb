"""What a checkpoint is: architecture, configuration, parameters, and what it costs to compute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..manifest_summary import Description, summarize_model
from .checkpoint import LoadedModel, load_checkpoint
from .macs import count_macs, count_parameters


def describe_checkpoint(path: Path) -> Description:
    """Describe a PyTorch checkpoint; raises `InputError` as `load_checkpoint` does."""
    loaded = load_checkpoint(path)
    manifest = loaded.manifest()
    return {
        "kind": "checkpoint",
        "file": str(path),
        "bytes": path.stat().st_size,
        **summarize_model(manifest),
        "configuration": manifest.configuration,
        "tensors": len(loaded.module.state_dict()),
        **_complexity(loaded),
        "read": list(loaded.notes),
        "weights": manifest.weights_sha256,
    }


def _complexity(loaded: LoadedModel) -> Description:
    """Return parameters and multiply-accumulates: counted, saved against plain channel attention, and published."""
    architecture, config = loaded.architecture, loaded.config
    multiple = architecture.interface(config).size_multiple
    side = -(-256 // multiple) * multiple
    parameters, macs = count_parameters(architecture, config), count_macs(architecture, config, side, side)
    description: Description = {
        "parameters": parameters,
        f"multiply-accumulates at {side} x {side}": {
            "without attention products": _giga(macs.layers),
            "with": _giga(macs.total),
            **({"with layer norms as well": _giga(macs.total + macs.norms)} if macs.norms else {}),
        },
    }
    if getattr(config, "attention", "csa") != "csa":
        csa = replace(config, attention="csa", reduction=())
        csa_macs = count_macs(architecture, csa, side, side)
        description["saved against csa"] = {
            "parameters": count_parameters(architecture, csa) - parameters,
            "without attention products": _giga(csa_macs.layers - macs.layers),
            "with": _giga(csa_macs.total - macs.total),
        }
    stated = architecture.published_for(config)
    if stated:
        description["published"] = [f"{entry.words} ({entry.source})" for entry in stated]
    return description


def _giga(macs: int) -> str:
    """Return decimal giga-multiply-accumulates."""
    return f"{macs / 1e9:.3f} G"
