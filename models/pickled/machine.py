"""An interpreter of pickles that builds data and nothing else.

`pickletools.genops` of the standard library decodes the opcodes and their arguments; here is what each does to the
stack. A global is a name (`Global`), a call is one of `rebuild` and `arrays` or gives a record (`Stub`), the state of a
record is kept beside it, and no class, function or module that the file names is ever touched.
"""

from __future__ import annotations

import pickletools
import warnings
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from typing import IO, Any, cast

import torch

from . import arrays, policy
from .rebuild import Calls, StorageType, check_key, constant
from .values import DamagedPickleError, Global, Log, RefusedPickleError, Stub

#: No line of a pickle in text is longer; a damaged file would otherwise be read to its end as one line.
_LONGEST_LINE = 1 << 28

#: What a malformed argument raises in the decoder or in a call.
_FAULTS = (ArithmeticError, AttributeError, IndexError, KeyError, MemoryError, RuntimeError, TypeError, ValueError)

_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip

_MARK = object()


class _Source:
    """Bytes as the file that `pickletools` wants, with lines of bounded length."""

    def __init__(self, data: memoryview, position: int) -> None:
        self._data, self._position = data, position

    def read(self, count: int) -> bytes:
        part = bytes(self._data[self._position : self._position + count])
        self._position += len(part)
        return part

    def readline(self) -> bytes:
        length = 1 << 10
        while True:
            part, newline, _ = bytes(self._data[self._position : self._position + length]).partition(b"\n")
            if newline or length > min(len(self._data) - self._position, _LONGEST_LINE):
                self._position += len(part) + len(newline)
                return part + newline
            length *= 4

    def tell(self) -> int:
        return self._position


def interpret(
    data: memoryview,
    position: int = 0,
    *,
    log: Log,
    persistent: Callable[[Any], Any] | None = None,
    nested: Callable[[bytes], Any] | None = None,
) -> tuple[Any, int]:
    """Read one pickle.

    Parameters
    ----------
    data
        Bytes that hold it.
    position
        Where it begins.
    log
        Gets the classes of all records.
    persistent
        Gives the object of a persistent id; without it there may be none.
    nested
        See `rebuild.Calls`.

    Returns
    -------
    value, end
        What the pickle holds, and where the next byte is.

    Raises
    ------
    RefusedPickleError
        It does more than build data.
    DamagedPickleError
        It is no pickle or is cut off.
    """
    source = _Source(data, position)
    machine = _Machine(log, persistent, Calls(4 * (len(data) - position), log, nested).known)
    try:
        with warnings.catch_warnings():
            # Of strange escapes in text, and of PyTorch about rare kinds of tensors.
            warnings.simplefilter("ignore")
            for opcode, argument, _ in pickletools.genops(cast(IO[bytes], source)):
                if opcode.name == "STOP":
                    return machine.pop(), source.tell()
                machine.run(opcode.name, argument)
    except _FAULTS as error:
        reason = str(error) or type(error).__name__
        raise DamagedPickleError(f"invalid pickle near byte {source.tell():,}: {reason}") from error
    raise DamagedPickleError("the pickle has no end")


class _Machine:
    """Stack and memo of one pickle, and the effect of each opcode on them."""

    def __init__(self, log: Log, persistent: Callable[[Any], Any] | None, known: dict[str, Callable[..., Any]]) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.log, self.persistent = log, persistent
        self.known = {**known, **arrays.CALLS}

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise DamagedPickleError("a mark where a value should be")
        return value

    def top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise DamagedPickleError("a value is missing")
        return self.stack[-1]

    def since_mark(self) -> list[Any]:
        values: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def run(self, name: str, argument: Any) -> None:
        """Apply one opcode."""
        push = self.stack.append
        match name:
            case _ if name in _LITERALS:
                push(argument)
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self.memo[argument] = self.top()
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.top()
            case "BINGET" | "LONG_BINGET" | "GET":
                push(self.memo[argument])
            case "MARK":
                push(_MARK)
            case "NONE":
                push(None)
            case "NEWTRUE" | "NEWFALSE":
                push(name == "NEWTRUE")
            case "STRING" | "BINSTRING" | "SHORT_BINSTRING":
                push(_python2_text(argument))
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_SET":
                push({"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}[name]())
            case "TUPLE":
                push(tuple(self.since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(tuple([self.pop() for _ in range(int(name[-1]))][::-1]))
            case "LIST":
                push(self.since_mark())
            case "DICT":
                values = self.since_mark()
                push({})
                self._update(values)
            case "FROZENSET":
                push(frozenset(map(check_key, self.since_mark())))
            case "APPEND":
                value = self.pop()
                self._extend([value])
            case "APPENDS" | "ADDITEMS":
                values = self.since_mark()
                self._extend(values)
            case "SETITEM":
                value, key = self.pop(), self.pop()
                self._update([key, value])
            case "SETITEMS":
                values = self.since_mark()
                self._update(values)
            case "GLOBAL":
                push(_name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                member, module = self.pop(), self.pop()
                push(_name(module, member))
            case "REDUCE":
                arguments, function = self.pop(), self.pop()
                push(self._call(name, function, arguments))
            case "NEWOBJ":
                arguments, function = self.pop(), self.pop()
                push(self._make(name, function, arguments))
            case "NEWOBJ_EX":
                _, arguments, function = self.pop(), self.pop(), self.pop()
                push(self._make(name, function, arguments))
            case "OBJ":
                function, *values = self.since_mark()
                push(self._call(name, function, tuple(values)))
            case "INST":
                values = self.since_mark()
                push(self._call(name, _name(*argument.split(" ", 1)), tuple(values)))
            case "BUILD":
                state = self.pop()
                self._build(state)
            case "BINPERSID" | "PERSID":
                push(self._persistent(name, self.pop() if name == "BINPERSID" else argument))
            case "POP":
                self.stack.pop()
            case "POP_MARK":
                self.since_mark()
            case "DUP":
                push(self.top())
            case "PROTO" | "FRAME":
                pass
            case _:
                raise RefusedPickleError(f"{name} takes objects from outside of the file")

    def _extend(self, values: list[Any]) -> None:
        target = self.top()
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, set):
            target.update(map(check_key, values))
        elif isinstance(target, Stub):
            target.elements.extend(values)
        else:
            raise RefusedPickleError(f"APPENDS to {_described(target)}")

    def _update(self, values: list[Any]) -> None:
        target = self.top()
        entries = target.items if isinstance(target, Stub) else target
        if not isinstance(entries, dict):
            raise RefusedPickleError(f"SETITEMS of {_described(target)}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            entries[check_key(key)] = value

    def _call(self, opcode: str, function: Any, arguments: Any) -> Any:
        if isinstance(function, Stub) and function.name == "zoneinfo.ZoneInfo._unpickle":
            # What protocols 2 and 3 write as an attribute of the class.
            function = Global("zoneinfo", "ZoneInfo._unpickle")
        if not isinstance(function, Global):
            raise RefusedPickleError(f"{opcode} of {_described(function)}")
        if not isinstance(arguments, tuple):
            raise DamagedPickleError(f"{function} with arguments that are no tuple")
        if function.module == "copyreg" and isinstance(arguments[0], Global):
            # What protocols 0 and 1 call for objects of ordinary classes.
            return self._make(opcode, arguments[0], arguments[1:])
        call = self.known.get(str(function))
        if call is not None:
            return call(*arguments)
        if not policy.may_call(function, arguments):
            raise RefusedPickleError(f"{opcode} of {function}")
        if str(function) == "builtins.getattr":
            owner, member = arguments
            return self._record(f"{owner.name if isinstance(owner, Stub) else owner}.{member}", ())
        return self._record(str(function), arguments)

    def _make(self, opcode: str, cls: Any, arguments: Any) -> Any:
        """Make a record of an object, as ``cls.__new__(cls, *arguments)`` would make the object."""
        if not isinstance(cls, Global):
            raise RefusedPickleError(f"{opcode} of {_described(cls)}")
        call = self.known.get(str(cls))
        if call is not None:
            return call(*arguments)
        return self._record(str(cls), arguments)

    def _record(self, name: str, arguments: tuple[Any, ...]) -> Stub:
        self.log.classes[name] += 1
        return Stub(name, arguments)

    def _build(self, state: Any) -> None:
        target = self.top()
        if isinstance(target, Stub):
            target.build(state)
        elif not isinstance(target, (dict, set, tuple, bytearray, torch.Tensor)):
            # A dictionary's attributes, such as `_metadata` of a state dict, and a tensor's are not needed.
            raise RefusedPickleError(f"BUILD of {_described(target)}")

    def _persistent(self, opcode: str, identifier: Any) -> Any:
        if self.persistent is None:
            raise RefusedPickleError(f"{opcode} asks for an object from outside of the file")
        return self.persistent(identifier)


def _name(module: Any, name: Any) -> Any:
    """Return a `Global`, or the value that a name has in files of PyTorch."""
    if not isinstance(module, str) or not isinstance(name, str):
        raise RefusedPickleError("STACK_GLOBAL of a computed name")
    # Python 2's names, which pickle writes up to protocol 2.
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    value = constant(module, name)
    if value is not None:
        return value
    found = Global(module, name)
    if not policy.may_name(found):
        raise RefusedPickleError(f"GLOBAL {found}")
    return found


def _described(value: Any) -> str:
    if isinstance(value, (Global, Stub)):
        return str(value) if isinstance(value, Global) else f"an object of {value.name}"
    return "a storage type" if isinstance(value, StorageType) else f"a {type(value).__name__}"


def _python2_text(text: str) -> str:
    """Return text that Python 2 wrote as bytes; `pickletools` decodes it as Latin-1."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text
