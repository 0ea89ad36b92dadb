"""Checkpoint -> portable ONNX: tracing, operators as functions, precision, verification.

A checkpoint passes the modules in this order; `exporter` calls them.

==============================================  ======================================================================
`plan`                                          Check the options, enter them into the manifest.
`trace`, `schemas`                              PyTorch module -> ONNX graph.
`canonicalize`, `attention_forms`, `channels`,  One form of the graph and of its attentions, laid out for the engines.
`heads`, `weights`
`mixed_precision`, `precision`,                 fp16 and bf16: which nodes stay in FP32, the conversion, the ranges.
`fp32_patterns`, `activation_ranges`
`precision_search`                              Which nodes must stay in FP32 to reach a PSNR.
`onnx_file`, `functions`                        The file: graph, operators as functions, manifest.
`verify`                                        Comparison with PyTorch.
`calibrate`, `calibration_data`                 Measuring tiles; the images for all measurements.
`custom`                                        A module of unknown architecture, which is examined instead of read.
==============================================  ======================================================================
"""

from .custom.module import export_module
from .exporter import export

__all__ = ["export", "export_module"]
