"""The operators of ONNX that are imported, by the kind of what they do.

The tables map an operator's name to a function of a `call.Call`. They hold for opsets 11 to 22: where versions differ,
the function looks at `Call.opset`, or takes an argument that moved from attribute to input from where it is.
"""

from ..call import Operator
from . import elementwise, filters, indexing, key_graphs, products, reductions, shapes

#: Standard operator -> implementation.
OPERATORS: dict[str, Operator] = {
    **elementwise.OPERATORS,
    **filters.OPERATORS,
    **indexing.OPERATORS,
    **products.OPERATORS,
    **reductions.OPERATORS,
    **shapes.OPERATORS,
}

#: Operator of the domain keygraph -> implementation.
KEYGRAPH_OPERATORS: dict[str, Operator] = key_graphs.OPERATORS
