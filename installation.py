"""How keygraph was installed in this environment, and shell lines that install more of it in the same way.

Messages that name a missing package print these lines, so they must work where they are read: ``keygraph[cpu]`` can be
resolved only where keygraph came from a package index.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

_NAME = "keygraph"

#: Replaces ONNX Runtime's package for CPUs by the one for GPUs; both provide the module `onnxruntime`.
USE_GPU_RUNTIME = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'keygraph[gpu]'"

_EXTRA = re.compile(r"""\s*(?:\band\s+)?extra\s*==\s*['"]([\w.-]+)['"]\s*(?:and\s+)?""")
_OURS = re.compile(rf"{_NAME}\[([\w.,-]+)\]")


def install_line(extra: str = "") -> str:
    """Return the line that installs what an extra of keygraph needs.

    Parameters
    ----------
    extra
        One of ``[project.optional-dependencies]``: ``"cpu"``; empty for what keygraph itself needs.

    Returns
    -------
    ``pip install 'keygraph[cpu]'`` where keygraph came from an index. Where it came from a file or a folder, the
    requirements themselves: they need neither that file nor a new build. Where it is not installed but imported from a
    folder of that name, the line that installs this folder.
    """
    distribution = _distribution()
    if distribution is None:
        return f"pip install {_quoted(_folder(), extra)}"
    if _origin(distribution) is None:
        return f"{_installer(distribution)} {_quoted(_NAME, extra)}"
    required = dict.fromkeys(_requirements(distribution, extra))
    return f"{_installer(distribution)} {' '.join(shlex.quote(requirement) for requirement in required)}"


def reinstall_line(*settings: str, build_requirements: tuple[str, ...] = ()) -> str:
    """Return the line that installs keygraph itself again, from where it came.

    Parameters
    ----------
    settings
        CMake settings, ``"TENSORRT_ROOT=/opt/tensorrt"``: these build the native libraries anew, so the source is taken
        where an index also has wheels.
    build_requirements
        Packages that the build looks for in this environment, such as ``"triton"``; also an own build.
    """
    distribution = _distribution()
    installer = "pip install" if distribution is None else _installer(distribution)
    origin, editable = (_folder(), False) if distribution is None else (_origin(distribution) or (_NAME, False))
    if (settings or build_requirements) and origin.endswith(".whl"):
        origin = "<the source of keygraph>"
    options = ["--force-reinstall", "--no-deps"]
    if build_requirements:
        options.append("--no-build-isolation")
    if (settings or build_requirements) and origin == _NAME:
        options.append(f"--no-binary {_NAME}")
    if editable:
        options.append("-e")
    place = origin if origin.startswith("<") else shlex.quote(origin)
    line = f"{installer} {' '.join(options)} {place}"
    line += "".join(f" -C cmake.define.{setting}" for setting in settings)
    if build_requirements:
        line = f"{installer} {' '.join(build_requirements)} scikit-build-core ninja && {line}"
    return line


def _distribution() -> metadata.Distribution | None:
    try:
        return metadata.distribution(_NAME)
    except metadata.PackageNotFoundError:
        return None


def _folder() -> str:
    return str(Path(__file__).parent)


def _installer(distribution: metadata.Distribution) -> str:
    """Return the command of whoever installed it: environments made by uv have no pip."""
    return "uv pip install" if (distribution.read_text("INSTALLER") or "").strip() == "uv" else "pip install"


def _origin(distribution: metadata.Distribution) -> tuple[str, bool] | None:
    """Return the file or folder that keygraph was installed from and whether it is editable; None for an index.

    The file ``direct_url.json`` is specified in PEP 610.
    """
    try:
        found = json.loads(distribution.read_text("direct_url.json") or "null")
        if found is None:
            return None
        url = urlsplit(found["url"])
        place = url2pathname(url.path) if url.scheme == "file" else found["url"]
        return place, bool(found.get("dir_info", {}).get("editable"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _requirements(distribution: metadata.Distribution, extra: str) -> Iterator[str]:
    """Yield an extra's requirements, those of the extras that it names itself among them."""
    for line in distribution.requires or ():
        requirement, _, marker = line.partition(";")
        condition = _EXTRA.search(marker)
        if (condition[1] if condition else "") != extra:
            continue
        ours = _OURS.match(requirement.strip())
        if ours:
            for other in ours[1].split(","):
                yield from _requirements(distribution, other)
        else:
            rest = _EXTRA.sub("", marker).strip()
            yield f"{requirement.strip()}; {rest}" if rest else requirement.strip()


def _quoted(place: str, extra: str) -> str:
    return shlex.quote(f"{place}[{extra}]") if extra else shlex.quote(place)
