"""Fuzz one target with Atheris: ``python run_atheris.py TARGET CORPUS [OPTIONS]``; see README.md."""

from __future__ import annotations

import importlib
import logging
import random
import sys
import tempfile
import warnings
from pathlib import Path

import atheris  # type: ignore[import-not-found, unused-ignore] # not in the extra dev
import torch  # noqa: F401 - large, and not to be instrumented

#: Target -> the modules whose coverage guides the fuzzer, with all that they import from the same packages.
INSTRUMENTED = {
    "checkpoint": ["keygraph.models.checkpoint_file", "keygraph.models.unwrap"],
    "manifest": ["keygraph.manifest"],
    "sidecar": ["keygraph.runtime.backends.engine_metadata"],
    "envi": ["keygraph.runtime.io.cubes"],
    "mat": ["keygraph.runtime.io.cubes", "scipy.io.matlab"],
}


def use_source_loader(folder: Path) -> None:
    """Let Python's own loader import keygraph: Atheris cannot trace what an editable install's finder imports."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in type(finder).__module__]
    (folder / "keygraph").symlink_to(Path(__file__).parents[2])
    sys.path.insert(0, str(folder))


def main() -> None:
    """Run libFuzzer on the target that the command line names."""
    if len(sys.argv) < 2 or sys.argv[1] not in INSTRUMENTED:
        raise SystemExit(f"usage: run_atheris.py TARGET [CORPUS] [OPTIONS]; the targets are {', '.join(INSTRUMENTED)}")
    name = sys.argv[1]
    folder = tempfile.TemporaryDirectory()
    use_source_loader(Path(folder.name))
    with atheris.instrument_imports(include=["keygraph", "scipy"]):
        for module in INSTRUMENTED[name]:
            importlib.import_module(module)
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from fuzz import mutators, targets

    warnings.simplefilter("ignore")
    logging.disable()

    def one_input(data: bytes) -> None:
        targets.run(targets.TARGETS[name], data)

    def mutated(data: bytes, limit: int, seed: int) -> bytes:
        return mutators.MUTATORS[name](data, random.Random(seed), atheris.Mutate, limit)[:limit]

    own = {"custom_mutator": mutated} if name in mutators.MUTATORS else {}
    options = ["-timeout=30", "-rss_limit_mb=4096", "-max_len=65536", "-keep_seed=1", "-len_control=0"]
    atheris.Setup([sys.argv[0], *options, *sys.argv[2:]], one_input, **own)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
