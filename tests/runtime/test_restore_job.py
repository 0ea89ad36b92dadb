"""Jobs: everything is checked, and a header read once, before any work."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import pytest
from keygraph.cli import main
from keygraph.errors import InputError
from keygraph.runtime.io import images
from keygraph.runtime.io.images import Picture
from keygraph.runtime.io.input_files import InputFile, InputHeader
from keygraph.runtime.preprocess.request import Request
from keygraph.runtime.restore_files import restore_file
from keygraph.runtime.restore_job import RestoreJob
from keygraph.runtime.restore_options import RestoreKeywords, RestoreOptions
from keygraph.runtime.restore_plan import plan_jobs

ModelFile = Callable[..., Path]

ROOT = Path(keygraph.__file__).resolve().parent


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    images.write(tmp_path / "a.png", Picture(np.random.default_rng(0).integers(0, 255, (60, 50, 3), np.uint8)))
    return tmp_path / "a.png"


def test_options_are_declared_once() -> None:
    """The keywords that type checkers see are the fields, but for `k`, which may be given by position."""
    fields = {name: kind for name, kind in RestoreOptions.__annotations__.items() if name != "k"}
    assert RestoreKeywords.__annotations__.keys() == fields.keys()
    assert [hint.__forward_arg__ for hint in RestoreKeywords.__annotations__.values()] == list(fields.values())


def test_a_keyword_that_is_no_option_is_an_error(make_model: ModelFile) -> None:
    restorer = keygraph.load(make_model("identity"))
    with pytest.raises(TypeError, match="tiles"):
        restorer(np.zeros((8, 8, 3), np.uint8), tiles=8)  # type: ignore[call-arg]


def test_a_job_says_what_is_written(make_model: ModelFile, picture: Path, tmp_path: Path) -> None:
    restorer = keygraph.load(make_model("nearest", scale=2))
    (job,) = plan_jobs(restorer, [InputFile(picture)], {}, tmp_path / "out.npy", RestoreOptions(tile=32)).jobs
    assert (job.image.size, job.size, job.as_cube) == ((60, 50, 3), (120, 100, 3), True)
    (job,) = plan_jobs(restorer, [InputFile(picture)], {}, tmp_path / "new", RestoreOptions()).jobs
    assert job.target == tmp_path / "new" / "a.png"
    assert not job.as_cube
    assert (tmp_path / "new").is_dir()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 12}, "use 8 or 16"),
        ({"tile": 32, "overlap": 24}, "at most 16"),
        ({"batch": 0}, "batch is 0"),
        ({"k": 3}, "takes no k"),
        ({"global_statistics": "exact"}, "takes no statistics over the whole image"),
    ],
)
def test_options_are_checked_before_an_image_is_decoded(
    make_model: ModelFile, picture: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    """The image is cut off: an error of the option shows that nobody decoded it."""
    picture.write_bytes(picture.read_bytes()[:1000])
    restorer = keygraph.load(make_model("identity"))
    with pytest.raises(InputError, match="is damaged, cut off"):
        restore_file(restorer, picture, tmp_path / "b.png")
    with pytest.raises(InputError, match=message):
        plan_jobs(restorer, [InputFile(picture)], {}, tmp_path / "new", RestoreOptions(**options))
    assert not (tmp_path / "new").exists()


def modules_passed(arguments: list[str], image: Path) -> list[str]:
    """Run a command, and return the modules between its start and end whose functions were given the image.

    As a path, header, job, picture, request or array of its size. A module counts again when the image comes back.
    """

    def carries(value: Any) -> bool:
        if isinstance(value, str | Path):
            return str(value) == str(image)
        if isinstance(value, list | tuple):
            return any(carries(one) for one in value[:9])
        if isinstance(value, np.ndarray):
            return value.size >= 60 * 50
        return isinstance(value, InputFile | InputHeader | RestoreJob | Picture | Request)

    passed: list[str] = []
    begun: set[Any] = set()

    def follow(frame: Any, event: str, _argument: object) -> None:
        code = frame.f_code
        file = Path(code.co_filename)
        if event != "call" or ROOT not in file.parents or code.co_name.startswith(("<", "__")):
            return
        given = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        names = {name for name in given if carries(frame.f_locals.get(name))}
        module = file.relative_to(ROOT).as_posix()
        # Left out: properties, generators that go on, and the parsing of the command line.
        accessor = (
            code.co_name in ("size", "height", "width", "has_alpha", "files", "targets", "memory_bytes")
            or frame in begun
        )
        begun.add(frame)
        within = module.startswith(
            ("cli/restore", "cli/inputs", "runtime/io/", "runtime/preprocess/", "runtime/tiling/", "runtime/restore")
        )
        if names and within and not accessor and passed[-1:] != [module]:
            passed.append(module)

    before = sys.getprofile()
    sys.setprofile(follow)
    try:
        assert main(arguments) == 0
    finally:
        sys.setprofile(before)
    return passed


def test_an_image_is_opened_twice_and_passes_few_modules(
    make_model: ModelFile, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keygraph.runtime.io.images import reading

    opened: list[Path] = []
    original = reading.open_file

    def count(path: Path, page: int = 1) -> Any:
        opened.append(path)
        return original(path, page)

    monkeypatch.setattr(reading, "open_file", count)
    arguments = ["restore", str(picture), "-o", str(tmp_path / "b.png"), "--model", str(make_model("identity"))]
    passed = modules_passed([*arguments, "--quiet"], picture)
    assert len(opened) == 2  # For its header, and for its pixels.
    assert passed[0] == "cli/restore.py"
    assert "runtime/tiling/run.py" in passed
    # Decoding, computing and encoding may be in different threads, and so pass the two modules that join them again.
    assert len(passed) <= 26, "\n".join(passed)
