"""The names of `keygraph.parity`: all can be imported, old ones still work, and none costs anything before its use."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import keygraph.parity
import pytest
from keygraph.parity import Comparison, FirstDivergence, PrecisionSearch


@pytest.mark.parametrize("name", keygraph.parity.__all__)
def test_every_name_can_be_imported(name: str) -> None:
    assert getattr(keygraph.parity, name).__name__ == name


@pytest.mark.parametrize(("old", "new"), [("Mending", PrecisionSearch), ("Origin", FirstDivergence)])
def test_deprecated_names(old: str, new: type) -> None:
    with pytest.warns(DeprecationWarning, match=f"parity.{old} is now keygraph.parity.{new.__name__}"):
        assert getattr(keygraph.parity, old) is new


def test_the_deprecated_attribute() -> None:
    found = FirstDivergence("block", "a", "the difference starts in a")
    values: dict[str, object] = {field.name: None for field in dataclasses.fields(Comparison)}
    comparison = Comparison(**values | {"first_divergence": found})  # type: ignore[arg-type]
    with pytest.warns(DeprecationWarning, match="use first_divergence"):
        assert comparison.origin is found


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = keygraph.parity.nothing


def test_importing_the_package_imports_nothing_large() -> None:
    program = (
        "import sys, keygraph.parity; "
        "print(*{'torch', 'numpy', 'skimage', 'scipy', 'onnx', 'onnxruntime'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_comparing_imports_scikit_image_only_when_it_measures() -> None:
    program = "import sys, keygraph.parity.comparison, keygraph.parity.polygraphy; print('skimage' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
