"""A PyTorch module that runs the nodes of an ONNX file.

Sizes stay Python integers (symbolic ones when `torch.export` traces), so that a file with dynamic sizes gives a program
with dynamic sizes. The libraries that convert ONNX to PyTorch compute them as tensors, and a trace of those is fixed to
one size.

===============  =======================================================================================================
`network`        The module: it runs the nodes in order, each in the scope of the module that it came from.
`call`           What an operator's implementation gets: inputs, attributes, opset.
`numbers`        Operators on sizes and other small constants.
`operators`      The operators on tensors, a module for each kind.
===============  =======================================================================================================
"""
