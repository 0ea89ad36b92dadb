"""Command-line flags that add keygraph's runners to ``polygraphy run``.

Polygraphy finds `argument_groups` by the entry point ``polygraphy.run.plugins`` of the installed package.
"""

from __future__ import annotations

import argparse
from typing import Any

from polygraphy.logger import G_LOGGER
from polygraphy.tools.args import ModelArgs
from polygraphy.tools.args import util as args_util
from polygraphy.tools.args.base import BaseRunnerArgs
from polygraphy.tools.script import Script, make_invocable

_PACKAGE = "keygraph.parity.polygraphy"


class KeygraphOnnxrtArgs(BaseRunnerArgs):
    """keygraph ONNX-Runtime Inference: running exported files in ONNX Runtime with keygraph's operator library.

    Depends on:

        - ModelArgs
    """

    def get_name_opt_impl(self) -> tuple[str, str]:
        """Return the runner's description and its flag."""
        return "ONNX-Runtime with keygraph's operators", "keygraph-onnxrt"

    def add_parser_args_impl(self) -> None:
        """Add the flags of this group."""
        self.group.add_argument(
            "--keygraph-library",
            help="Operator library; the installed one by default",
            default=None,
        )
        self.group.add_argument(
            "--keygraph-device",
            help="Device of --keygraph-onnxrt and --keygraph-torch: cpu (the default), cuda or cuda:1",
            default=None,
        )

    def parse_impl(self, args: argparse.Namespace) -> None:
        """Read the values of the flags."""
        self.library = args_util.get(args, "keygraph_library")
        self.device = args_util.get(args, "keygraph_device")

    def add_to_script_impl(self, script: Script) -> None:
        """Add the runner to the script."""
        script.add_import(imports=["OnnxrtRunner"], frm="polygraphy.backend.onnxrt")
        script.add_import(imports=["SessionFromExported"], frm=f"{_PACKAGE}.onnx_runtime")
        path = self.arg_groups[ModelArgs].path
        session = make_invocable("SessionFromExported", path, library=self.library, device=self.device)
        loader = script.add_loader(session, "open_with_keygraph")
        script.add_runner(make_invocable("OnnxrtRunner", loader, name="keygraph-onnxrt"))


class KeygraphTorchArgs(BaseRunnerArgs):
    """keygraph PyTorch Inference: running checkpoints in PyTorch.

    Depends on:

        - KeygraphOnnxrtArgs
    """

    def get_name_opt_impl(self) -> tuple[str, str]:
        """Return the runner's description and its flag."""
        return "PyTorch, from a checkpoint", "keygraph-torch"

    def add_parser_args_impl(self) -> None:
        """Add the flags of this group."""
        self.group.add_argument("--checkpoint", help="Checkpoint for --keygraph-torch", default=None)
        self.group.add_argument(
            "--torch-precision",
            help="Precision of --keygraph-torch: fp32 (the default), fp16 or bf16",
            choices=["fp32", "fp16", "bf16"],
            default=None,
        )

    def parse_impl(self, args: argparse.Namespace) -> None:
        """Read the values of the flags."""
        self.checkpoint = args_util.get(args, "checkpoint")
        self.precision = args_util.get(args, "torch_precision")

    def add_to_script_impl(self, script: Script) -> None:
        """Add the runner to the script."""
        if self.checkpoint is None:
            G_LOGGER.critical("--keygraph-torch needs a checkpoint; give it with --checkpoint")
        script.add_import(imports=["ModelFromCheckpoint", "TorchRunner"], frm=f"{_PACKAGE}.pytorch")
        loader = script.add_loader(make_invocable("ModelFromCheckpoint", self.checkpoint), "load_checkpoint")
        device = self.arg_groups[KeygraphOnnxrtArgs].device
        script.add_runner(
            make_invocable("TorchRunner", loader, precision=self.precision, device=device, name="keygraph-torch")
        )


def argument_groups() -> list[Any]:
    """Return the groups of flags for ``polygraphy run``."""
    return [KeygraphOnnxrtArgs(), KeygraphTorchArgs()]
