"""Make the optimizer of `torch.onnx.export` take time in proportion to the number of nodes, not to its square."""

from __future__ import annotations

import contextlib
import unittest.mock
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quick_matching() -> Iterator[None]:
    """Try patterns that end in several nodes only at nodes of the first one's type, inside the ``with`` block.

    For each node of a graph, onnxscript's matcher lists all the others before it looks at the node's type. What it
    finds is the same, but in a network of 160 attentions its one such pattern took minutes.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, AttributeError):  # Another version of onnxscript may not have it.
            from onnxscript.rewriter._basics import MatchResult
            from onnxscript.rewriter._matcher import SimplePatternMatcher

            match = _at_its_type(SimplePatternMatcher.match, MatchResult)
            stack.enter_context(unittest.mock.patch.object(SimplePatternMatcher, "match", match))
        yield


def _at_its_type(match: Callable[..., Any], result: Callable[[], Any]) -> Callable[..., Any]:
    """Return a matcher's method `match` that fails at once where the first of several last nodes has another type."""

    def matched(matcher: Any, model: Any, graph: Any, node: Any, **options: Any) -> Any:
        pattern = matcher.pattern
        if not pattern.has_single_output_node and not pattern.output_nodes[0].op.matches(node.op_type):
            return result().fail("The node has another type.")
        return match(matcher, model, graph, node, **options)

    return matched
