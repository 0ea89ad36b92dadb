"""The precision search: the fewest blocks in FP32 with which a half-precision network reaches a target PSNR.

==============  ====================================================================================================
`bisection`     The algorithm: a minimal set of blocks, given a test of a set.
`measurement`   The test: the PSNR of a mixed-precision variant of a traced network against FP32.
`search`        Both together: what ``keygraph export --precision auto`` runs.
`checkpoint`    The same for a checkpoint and given inputs: traces the network first.
`comparison`    The same for the failed candidates of a comparison: what ``keygraph compare --bisect`` runs.
==============  ====================================================================================================

The result of a search are FP32 patterns (`export.fp32_patterns`), as ``keygraph export --keep-fp32`` takes them.
"""
