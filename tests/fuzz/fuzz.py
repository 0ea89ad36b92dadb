"""Fuzz one target with Atheris: ``python tests/fuzz/fuzz.py TARGET CORPUS [libFuzzer's options]``; see README.md."""

from __future__ import annotations

import logging
import sys
import warnings

import atheris
import torch  # noqa: F401 - large, and not to be instrumented

# Only modules that are imported inside, also later, get their coverage traced.
with atheris.instrument_imports(include=["keygraph", "targets", "scipy.io", "numpy.lib.format", "json"]):
    import targets


def main() -> None:
    """Run libFuzzer on the target that the command line names."""
    if len(sys.argv) < 2 or sys.argv[1] not in targets.TARGETS:
        raise SystemExit(f"usage: fuzz.py TARGET [CORPUS] [OPTIONS]; the targets are {', '.join(targets.TARGETS)}")
    warnings.simplefilter("ignore")
    logging.disable()
    target = targets.TARGETS[sys.argv[1]]

    def one_input(data: bytes) -> None:
        targets.run(target, data)

    options = ["-timeout=30", "-rss_limit_mb=4096", "-max_len=65536"]
    atheris.Setup([sys.argv[0], *options, *sys.argv[2:]], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
