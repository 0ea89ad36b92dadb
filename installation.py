"""How keygraph was installed in this environment, and shell lines that install more of it in the same way.

Messages that name a missing package print these lines, so they must work where they are read: ``keygraph[cpu]`` can be
resolved only where keygraph came from a package index.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

_NAME = "keygraph"

#: Entry point group by which an installed package brings a described architecture.
ARCHITECTURES_GROUP = "keygraph.architectures"

_EXTRA = re.compile(r"""\s*(?:\band\s+)?extra\s*==\s*['"]([\w.-]+)['"]\s*(?:and\s+)?""")
_SOURCE = "<the source of keygraph>"
_OURS = re.compile(rf"{_NAME}\[([\w.,-]+)\]")


@dataclass(frozen=True)
class Requirement:
    """One package that keygraph or one of its extras needs.

    Attributes
    ----------
    name
        On the package index.
    minimum
        Oldest version; empty for any.
    extra
        The extra that needs it; empty for keygraph itself.
    text
        What an installer takes: ``"triton>=3.6; sys_platform == 'linux'"``.
    """

    name: str
    minimum: str
    extra: str
    text: str


def architecture_entry_points() -> list[metadata.EntryPoint]:
    """Return what installed packages declare in the group `ARCHITECTURES_GROUP`, without importing anything.

    They are in the order of their names. A package that several folders of `sys.path` hold counts once, as the one
    that is imported.
    """
    found: dict[tuple[str, str], metadata.EntryPoint] = {}
    for entry in metadata.entry_points(group=ARCHITECTURES_GROUP):
        if entry.dist is not None:
            found.setdefault((entry.name, entry.dist.name), entry)
    return [found[key] for key in sorted(found)]


def requirements(distribution: metadata.Distribution) -> list[Requirement]:
    """Return everything that a distribution of keygraph and its extras require, other extras of its own included."""
    return [_parsed(line) for line in distribution.requires or ()]


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
    found = distribution()
    if found is None:
        return f"pip install {_quoted(_folder(), extra)}"
    # Another package of ONNX Runtime serves as well, and would be damaged by a second one.
    other = [name for name in providers("onnxruntime") if name != "onnxruntime"] if extra != "gpu" else []
    if _origin(found) is None and not other:
        return f"{_installer(found)} {_quoted(_NAME, extra)}"
    required = [one.text for one in _expanded(requirements(found), extra) if not (other and one.name == "onnxruntime")]
    return package_line(*dict.fromkeys(required))


def package_line(*required: str) -> str:
    """Return the line that installs packages: ``pip install 'onnx>=1.19'``."""
    return f"{_installer(distribution())} {' '.join(map(shlex.quote, required))}"


def uninstall_line(*packages: str) -> str:
    """Return the command that removes packages, in the way in which keygraph was installed."""
    uninstaller = "uv pip uninstall" if _installer(distribution()).startswith("uv") else "pip uninstall -y"
    return f"{uninstaller} {' '.join(map(shlex.quote, packages))}"


def gpu_runtime_line() -> str:
    """Return the line that replaces the installed package of ONNX Runtime by the one for NVIDIA GPUs."""
    return f"{uninstall_line(*(providers('onnxruntime') or ['onnxruntime']))} && {install_line('gpu')}"


@functools.cache
def providers(module: str) -> list[str]:
    """Return the installed packages that provide a module: several of ONNX Runtime's overwrite each other's files."""
    return sorted(set(metadata.packages_distributions().get(module, ())))


def onnx_runtime_remedy() -> str:
    """Return what to do where ONNX Runtime cannot be imported. A second package of it would not repair the first."""
    installed = providers("onnxruntime")
    if not installed:
        return f"install it with: {install_line('cpu')}"
    return f"{' and '.join(installed)} is installed; repair it with: {package_line('--force-reinstall', *installed)}"


def onnx_runtime_upgrade_line() -> str:
    """Return the line that installs a newer ONNX Runtime, of the package that is installed."""
    return package_line("--upgrade", *(providers("onnxruntime") or ["onnxruntime"]))


def upgrade_line() -> str:
    """Return the line that installs a newer keygraph, from where this one came."""
    found = distribution()
    origin, editable = (_folder(), True) if found is None else (_origin(found) or (_NAME, False))
    if origin == _NAME:
        return f"{_installer(found)} --upgrade {_NAME}"
    if origin.endswith(".whl"):
        return f"{_installer(found)} <a newer wheel of {_NAME}>"
    if not Path(origin).is_dir():
        return f"{_installer(found)} --force-reinstall --no-deps {_unpinned(origin)}"
    update = f"git -C {shlex.quote(origin)} pull"
    return update if editable else f"{update} && {reinstall_line()}"


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
    found = distribution()
    installer = _installer(found)
    origin, editable = (_folder(), False) if found is None else (_origin(found) or (_NAME, False))
    if (settings or build_requirements) and origin.endswith(".whl"):
        origin = _SOURCE
    elif os.path.isabs(origin) and not os.path.exists(origin):  # Installed in a container, and deleted since.
        origin = f"<{os.path.basename(origin)}>" if origin.endswith(".whl") else _SOURCE
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


def distribution() -> metadata.Distribution | None:
    """Return the installed keygraph; None where it is only imported from a folder."""
    try:
        return metadata.distribution(_NAME)
    except metadata.PackageNotFoundError:
        return None


def shadowing() -> str:
    """Return a sentence where a folder hides the installed keygraph from this process; empty where none does.

    A clone of the repository is a package: one named ``keygraph`` beside a script, or in the current folder, comes
    before the installed package on the path.
    """
    found = distribution()
    imported = Path(__file__).resolve().parent
    if found is None:
        return ""
    origin = _origin(found)
    installed = Path(origin[0]) if origin and origin[1] else Path(str(found.locate_file(_NAME)))
    if installed.resolve() == imported or not installed.is_dir():
        return ""
    return (
        f"the folder {imported} is imported in place of the keygraph that is installed in {installed}; "
        "rename that folder, or start Python elsewhere"
    )


def _folder() -> str:
    return str(Path(__file__).parent)


def _installer(found: metadata.Distribution | None) -> str:
    """Return the command of whoever installed it: environments made by uv have no pip."""
    installer = (found.read_text("INSTALLER") or "").strip() if found is not None else ""
    return "uv pip install" if installer == "uv" else "pip install"


def _origin(found: metadata.Distribution) -> tuple[str, bool] | None:
    """Return the file or folder that keygraph was installed from and whether it is editable; None for an index.

    The file ``direct_url.json`` is specified in PEP 610.
    """
    try:
        record = json.loads(found.read_text("direct_url.json") or "null")
        if record is None:
            return None
        if "vcs_info" in record:
            vcs = record["vcs_info"]
            return f"{vcs['vcs']}+{record['url']}@{vcs['commit_id']}", False
        url = urlsplit(record["url"])
        place = url2pathname(url.path) if url.scheme == "file" else record["url"]
        return place, bool(record.get("dir_info", {}).get("editable"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _unpinned(origin: str) -> str:
    """Return a place in version control without the commit."""
    return shlex.quote(origin.rpartition("@")[0] if "+" in origin else origin)


def _parsed(line: str) -> Requirement:
    """Read one line of the metadata: ``triton>=3.6; sys_platform == "linux" and extra == "triton"``."""
    requirement, _, marker = (part.strip() for part in line.partition(";"))
    condition = _EXTRA.search(marker)
    rest = _EXTRA.sub("", marker).strip()
    name = re.match(r"[\w.-]+", requirement)
    minimum = re.search(r">=\s*([\d.]+)", requirement)
    return Requirement(
        name=name[0] if name else "",
        minimum=minimum[1] if minimum else "",
        extra=condition[1] if condition else "",
        text=f"{requirement}; {rest}" if rest else requirement,
    )


def _expanded(required: list[Requirement], extra: str) -> Iterator[Requirement]:
    """Yield what an extra requires, with the extras of keygraph that it names replaced by what they require."""
    for one in required:
        if one.extra != extra:
            continue
        ours = _OURS.match(one.text)
        if ours:
            for other in ours[1].split(","):
                yield from _expanded(required, other)
        else:
            yield one


def _quoted(place: str, extra: str) -> str:
    return shlex.quote(f"{place}[{extra}]") if extra else shlex.quote(place)
