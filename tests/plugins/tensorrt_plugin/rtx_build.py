"""Parse a model with TensorRT-RTX and build an engine for another GPU; in a process of its own, where it may die.

    rtx_build.py MODEL [PLUGIN_LIBRARY]

Prints one JSON object: `layers`, [type, name] each; `engine`, how many bytes, or null; `carried`, how often it holds a
plugin's serialized fields; `log`, [severity, line] each.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import tensorrt_rtx_bindings as trt


class Log(trt.ILogger):  # type: ignore[misc]
    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.lines: list[tuple[str, str]] = []

    def log(self, severity: Any, message: str) -> None:
        self.lines.append((severity.name, message))


def main(model: str, library: str | None = None) -> None:
    log = Log()
    builder = trt.Builder(log)
    registry = builder.get_plugin_registry()
    if library and registry.load_library(library) is None:
        raise SystemExit(f"{library} does not load: {log.lines}")
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse_from_file(model)
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    result: dict[str, Any] = {
        "layers": [(layer.type.name, layer.name) for layer in layers],
        "engine": None,
        "carried": 0,
    }
    if parsed:
        config = builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM89, 0)
        profile = builder.create_optimization_profile()
        for i in range(network.num_inputs):
            tensor = network.get_input(i)
            if tensor.name == "k":
                # The functions' TopK needs k on the host, a plugin takes it from the device.
                if tensor.is_shape_tensor:
                    profile.set_shape_input("k", [8], [16], [64])
                else:
                    profile.set_shape("k", [1], [1], [1])
            else:
                ranges = ([fill if size < 0 else size for size in tensor.shape] for fill in (8, 16, 32))
                profile.set_shape(tensor.name, *ranges)
        config.add_optimization_profile(profile)
        engine = builder.build_serialized_network(network, config)
        if engine is not None:
            result |= {"engine": engine.nbytes, "carried": bytes(engine).count(b"keygraph_format")}
    print(json.dumps(result | {"log": log.lines}))


if __name__ == "__main__":
    main(*sys.argv[1:])
