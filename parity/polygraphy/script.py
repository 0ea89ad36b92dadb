"""A Python script that makes a comparison with Polygraphy's Comparator, for ``keygraph compare --emit-polygraphy``."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from ...errors import InputError
from ...files import atomic_path, check_place
from ...manifest import Manifest
from ...runtime.session import resolve_k
from ..verdict import tolerance
from .artifacts import kind_of, manifest_of

_SCRIPT = Template('''\
#!/usr/bin/env python3
"""Compares $candidates with $reference through Polygraphy's Comparator.

Written by: $command

Run it as it is: exit code 0 says that they agree, 3 that they do not. It also holds what Polygraphy's own tools ask
scripts for:

    polygraphy run FILE.onnx RUNNERS... --data-loader-script $script --compare-func-script $script
"""

import sys
from pathlib import Path

from keygraph.parity.polygraphy import $imports
$more_imports
HERE = Path(__file__).resolve().parent
CANDIDATES = [$candidate_paths]
REFERENCE = $reference_path

# What they are compared on: none for a generated picture; files, or {"image": file, "mask": file}.
IMAGES = [$images]
$k_constant
# The least PSNR in dB between two restored images, with the manifest's value range as the peak.
PSNR = $psnr
VALUE_RANGE = $value_range


def load_data():
    """Feeds: one for each piece of an image, normalised as the runtime does it."""
    return FeedDictsFromImages([*CANDIDATES, REFERENCE], IMAGES$k_argument)


$compare_outputs


def main():
    runners = [
$runners
    ]
    # Each candidate with the reference, which is the last.
    comparisons = [(index, len(CANDIDATES)) for index in range(len(CANDIDATES))]
    results = Comparator.run(runners, data_loader=load_data(), streaming=True)
    good = bool(Comparator.compare_accuracy(results, comparisons=comparisons, compare_func=compare_outputs))
$same_graphs    return 0 if good else 3


if __name__ == "__main__":
    sys.exit(main())
''')

_SAME_GRAPHS = '''\
    # Once more, with each candidate's neighbours forced on the reference: what is left is arithmetic.
    for candidate in CANDIDATES:
        recording = RecordingRunner(candidate, name=f"{candidate.name}, told")
        forced = ForcedRunner(REFERENCE, recording, name=f"{REFERENCE.name}, forced")
        results = Comparator.run([recording, forced], data_loader=load_data(), streaming=True)
        rules = [ImageCompareFunc(VALUE_RANGE, psnr=PSNR), KeyGraphCompareFunc(K, similarity=SIMILARITY)]
        good &= bool(Comparator.compare_accuracy(results, compare_func=rules))
'''

_WITHOUT_GRAPHS = '''\
compare_outputs = ImageCompareFunc(VALUE_RANGE, psnr=PSNR)'''

_WITH_GRAPHS = '''\
# As they run: correct programs choose other neighbours where similarities nearly tie, so that the PSNR is shown, and
# judged below, where the neighbours are the same. Every value must be finite.
compare_outputs = ImageCompareFunc(VALUE_RANGE)'''
