"""Options that several commands have: declared once, and validated."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import pytest
import typer
from keygraph.cli import _FORMS, COMMANDS, arguments
from keygraph.cli.arguments import parse_pixels
from keygraph.errors import InputError

#: (command, option) that means something else there than in the other commands.
OWN = {
    ("bench operators", "--device"),
    ("bench operators", "--k"),
    ("bench", "--batch"),
    ("batch", "--threads"),
    ("bench", "--tile"),
    ("build", "--batch"),
    ("build", "--k"),
    ("build", "--tile"),
    ("compare", "--k"),
    ("compare", "--quiet"),
    ("compare", "--tile"),
    ("export", "--input"),
    ("export", "--json"),
    ("export", "--k"),
    ("serve", "--scratch"),
    ("serving-repository", "--batch"),
    ("serving-repository", "--device"),
    ("serving-repository", "--k"),
}


def name_of(option: Any) -> str:
    """Its last name, empty where Typer takes the parameter's. In an annotation the first one stands as the default."""
    names = [name for name in (option.default, *option.param_decls) if isinstance(name, str)]
    return names[-1] if names else ""


def options() -> dict[tuple[str, str], Any]:
    """(command, option) -> the declaration."""
    places = {name: (module, function) for name, (module, function, _) in COMMANDS.items()}
    places |= {f"{name} {word}": (module, function) for name, (word, module, function) in _FORMS.items()}
    found = {}
    for command, (module, function) in places.items():
        called = getattr(import_module(f"keygraph.cli.{module}"), function)
        for parameter in inspect.signature(called, eval_str=True).parameters.values():
            for declared in getattr(parameter.annotation, "__metadata__", ()):
                if isinstance(declared, typer.models.OptionInfo):
                    found[command, name_of(declared) or f"--{parameter.name.replace('_', '-')}"] = declared
    return found


def test_what_several_commands_have_is_declared_once() -> None:
    shared = [value for value in vars(arguments).values() if hasattr(value, "__metadata__")]
    declared = {id(one.__metadata__[0]): one.__metadata__[0] for one in shared}
    names = {name_of(option) for option in declared.values()}
    found = options()
    assert ("restore", "--tile") in found
    assert ("bench", "--threads") in found
    own = {place for place, option in found.items() if place[1] in names and id(option) not in declared}
    assert own == OWN


def test_every_option_has_a_help_text() -> None:
    assert [place for place, option in options().items() if not option.help] == []


@pytest.mark.parametrize(("text", "value"), [("64", 64), ("auto", "auto"), ("none", "none")])
def test_pixels_or_a_word(text: str, value: int | str) -> None:
    assert parse_pixels(text, "--tile", "none", "auto") == value


@pytest.mark.parametrize("text", ["", "big", "1.5", "64x64"])
def test_other_pixels_are_an_error(text: str) -> None:
    with pytest.raises(InputError, match=f"--overlap is '{text}'; give pixels, or auto"):
        parse_pixels(text, "--overlap", "auto")
