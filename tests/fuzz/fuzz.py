"""Fuzz one target with Atheris: ``python tests/fuzz/fuzz.py TARGET CORPUS [libFuzzer's options]``; see README.md."""

from __future__ import annotations

import logging
import random
import sys
import warnings

import atheris
import mutators
import torch  # noqa: F401 - large, and not to be instrumented

# Only modules of these packages that are imported inside, also later, get their coverage traced.
with atheris.instrument_imports(include=["keygraph", "targets", "scipy"]):
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

    def mutated(data: bytes, limit: int, seed: int) -> bytes:
        rng = random.Random(seed)
        return mutators.MUTATORS[sys.argv[1]](data, rng, atheris.Mutate, limit)[:limit]

    own = {"custom_mutator": mutated} if sys.argv[1] in mutators.MUTATORS else {}
    options = ["-timeout=30", "-rss_limit_mb=4096", "-max_len=65536", "-keep_seed=1", "-len_control=0"]
    atheris.Setup([sys.argv[0], *options, *sys.argv[2:]], one_input, **own)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
