"""Export of any module that maps an image batch to an image batch, whose architecture keygraph does not know.

What the registry knows of an architecture is found out here by running the module.

=============  =========================================================================================================
`trial`        Running the module once: what may go wrong, in words.
`interface`    Channels, scale, and whether the images of a batch are independent.
`sizes`        The sizes that the module takes.
`statistics`   Whether a pixel's result depends on the whole image.
`state`        What a module keeps between calls, which must not get into a program.
`model`        The network with its interface and program: what `exporter.export` takes.
`guards`       What a traced program takes for granted about its sizes.
`source`       A network that a function of a Python file builds.
`top_k`        Comparing and forcing the selections of top-k operators, for verification.
`module`       `export_module`.
=============  =========================================================================================================
"""
