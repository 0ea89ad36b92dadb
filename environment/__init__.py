"""What is installed on this machine and whether it works: the machine, packages, native libraries and GPUs.

Only the core has to be installed. Every other part is looked for, and its absence is a finding, not an error.
"""

from __future__ import annotations

from collections.abc import Iterator

from .architectures import examine_architectures
from .findings import BROKEN, MISSING, OK, Finding
from .gpus import examine_gpus
from .libraries import examine_libraries, examine_providers
from .machine import examine_machine
from .packages import EXTRAS, examine_packages

__all__ = ["BROKEN", "EXTRAS", "MISSING", "OK", "Finding", "examine"]


def examine() -> Iterator[Finding]:
    """Yield everything there is to say about this machine, one finding at a time; raises nothing."""
    yield from examine_machine()
    yield from examine_packages()
    yield from examine_architectures()
    yield from examine_libraries()
    yield from examine_providers()
    yield from examine_gpus()
