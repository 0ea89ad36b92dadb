"""Which globals a pickle may name, and which it may call. Nothing is called in either case; see `machine`.

The rule, by name:

- The standard library: what describes data (`_DATA`) may be named and called, harmless functions (`_FUNCTIONS`) may be
  named, and everything else is refused. So ``pathlib.PosixPath`` is a record and ``os.system`` ends the reading.
- Other packages: everything may be named. A class may be called, which gives a record; a function may not, because a
  pickle of plain objects has no reason to. Classes are told by their names (PEP 8: CapWords). Functions that packages
  use to rebuild their own objects, such as ``pandas._libs.internals._unpickle_block``, count as constructors.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from .values import Global, Stub

# Standard library: module -> names that describe data. "*" stands for every name of the module without a dot.
_DATA: dict[str, str] = {
    "argparse": "Namespace",
    "array": "array _array_reconstructor",
    "builtins": (
        "Ellipsis NotImplemented bool bytearray bytes complex dict float frozenset int list object range set slice str "
        "tuple"
    ),
    "collections": "ChainMap Counter OrderedDict UserDict UserList UserString defaultdict deque",
    "contextlib": "nullcontext",
    "copyreg": "_reconstructor __newobj__ __newobj_ex__",
    "dataclasses": "*",
    "datetime": "date datetime time timedelta timezone tzinfo",
    "decimal": "*",
    "enum": "*",
    "_codecs": "encode",
    "fractions": "Fraction",
    "_functools": "partial",
    "functools": "partial",
    "inspect": "Parameter Signature _ParameterKind _empty",
    "_io": "BytesIO StringIO",
    "io": "BytesIO StringIO",
    "ipaddress": "*",
    "logging": "Logger PlaceHolder RootLogger getLogger",
    "pathlib": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "pathlib._local": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "random": "Random",
    "re": "_compile RegexFlag",
    "string": "Template",
    "time": "struct_time",
    "types": "GenericAlias MappingProxyType NoneType SimpleNamespace UnionType",
    "typing": "*",
    "uuid": "UUID SafeUUID",
    "zoneinfo": "ZoneInfo ZoneInfo._unpickle",
}

# Standard library: modules whose functions may be named, as in a partial, but not called.
_FUNCTIONS = {"math", "cmath", "operator", "_operator", "statistics", "random", "logging"}

# Standard library: functions whose call may stand for what it would give, in the forms of `_harmless`.
_SPELLINGS = {
    "builtins.getattr",
    "builtins.type",
    "operator.getitem",
    "_operator.getitem",
    "functools.reduce",
    "_functools.reduce",
}

# Functions of other packages that rebuild an object of theirs.
_CONSTRUCTOR = re.compile(r"_+(pyx_unpickle|unpickle|(m[ar])?reconstruct|rebuild|new|make)(_\w*)?|_+\w+_ctor")


def may_name(name: Global) -> bool:
    """Tell whether a pickle may name a global."""
    if not _standard(name.module) or _describes_data(name) or str(name) in _SPELLINGS:
        return True
    return name.module in _FUNCTIONS and "." not in name.name


def may_call(name: Global, arguments: tuple[Any, ...]) -> bool:
    """Tell whether a pickle may have a record of what a global gives for some arguments."""
    if _standard(name.module):
        return _describes_data(name) or _harmless(str(name), arguments)
    last = name.name.rpartition(".")[2]
    return last.lstrip("_")[:1].isupper() or _CONSTRUCTOR.fullmatch(last) is not None


def _describes_data(name: Global) -> bool:
    if name.module == "builtins" and re.fullmatch(
        r"([A-Z]\w*)?(Error|Exception|Warning|Iteration|Interrupt|Exit|Group)", name.name
    ):
        return True
    names = _DATA.get(name.module, "").split()
    return name.name in names or (names == ["*"] and "." not in name.name)


def _harmless(name: str, arguments: tuple[Any, ...]) -> bool:
    """Tell whether a call is how pickle writes a member of an enum, a bound method, ``int | None`` or the like."""
    match name, arguments:
        case "builtins.getattr", (Global() | Stub(), str(member)):
            return not member.startswith("__")
        case "builtins.type", (_,):
            return True
        case "operator.getitem" | "_operator.getitem", (Global(module="typing" | "types" | "builtins") | Stub(), _):
            return True
        case "functools.reduce" | "_functools.reduce", (
            Global(module="operator" | "_operator", name="or_"),
            tuple() | list(),
        ):
            return True
    return False


def _standard(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names
