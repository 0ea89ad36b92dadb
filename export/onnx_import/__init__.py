"""Import of an ONNX file that somebody else made, as a PyTorch module: what `export.custom` examines and exports.

===============  =======================================================================================================
`file`           Reading and checking the file.
`network`        The module, which runs the nodes (`models.onnx_graph`).
`original`       The file in ONNX Runtime, which the import and the result are verified against.
`load`           From a file to a `CustomModel`.
===============  =======================================================================================================
"""
