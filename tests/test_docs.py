"""Documents: links, anchors, commands, files, length of lines, and the example in CONTRIBUTING.

`make docs` builds the site and checks the links a second time; this takes seconds and needs none of its packages.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from keygraph.cli import main
from keygraph.models import load_checkpoint, registry

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
        ROOT / "plugins" / "tensorrt" / "README.md",
        *(ROOT / "docs").rglob("*.md"),
    ]
)
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

LINE_LENGTH = 120

#: Command -> name of the same in `keygraph`.
ALIASES = {"export-model": "export"}


def without_code(text: str) -> str:
    """Return a page without fenced and indented code."""
    text = re.sub(r"^( *)```.*?^\1```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(?<=\n\n)(?: {4,}\S.*\n|\n)+", "\n", text)


@functools.cache
def anchors(page: Path) -> frozenset[str]:
    """Return the anchors of a page's headings, as MkDocs and forges make them."""
    headings = re.findall(r"^#+ (.+)$", without_code(page.read_text(encoding="utf-8")), flags=re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower() for heading in headings)
    return frozenset(re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip()) for heading in plain)


def broken_links(page: Path, text: str) -> list[str]:
    """Return the links of a page that lead to no file, or to no heading of it."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(text)):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("link", "good"),
    [
        ("docs/README.md", True),
        ("docs/README.md#tutorials", True),
        ("#develop", True),
        ("docs/absent.md", False),
        ("docs/README.md#absent", False),
    ],
)
def test_a_broken_link_is_found(link: str, good: bool) -> None:
    page = ROOT / "README.md"
    assert broken_links(page, f"See [there]({link}).") == ([] if good else [link])


@every_page
def test_lines_are_short(page: Path) -> None:
    """Tables and web addresses cannot be wrapped."""
    lines = page.read_text(encoding="utf-8").splitlines()
    long = [line for line in lines if len(line) > LINE_LENGTH and not line.startswith("|") and "https://" not in line]
    assert long == []


class Use(NamedTuple):
    """A command line in a document."""

    page: str
    words: tuple[str, ...]


def commands(page: Path) -> Iterator[Use]:
    """Yield the commands of ours that a page shows: lines of code, and code within a sentence or a table."""
    text = re.sub(r" \\\n +", " ", page.read_text(encoding="utf-8"))
    shown = re.findall(r"^ {4,}(?:\$ )?((?:keygraph|export-model) \S.*)$", text, flags=re.MULTILINE)
    shown += re.findall(r"`((?:keygraph|export-model) [^`\n]+)`", text)
    for line in shown:
        line = re.sub(r"\s+#.*$", "", line).replace("...", "")
        yield Use(str(page.relative_to(ROOT)), tuple(shlex.split(line)))


COMMANDS = sorted({use for page in PAGES for use in commands(page)})


@functools.cache
def help_of(*command: str) -> str:
    """Return the help of `keygraph COMMAND...`, wide enough for every option to be in one piece."""
    shown = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(shown):
        patch.setenv("COLUMNS", "200")
        assert main([*command, "--help"]) == 0
    return shown.getvalue()


@functools.cache
def known_commands() -> frozenset[str]:
    return frozenset(re.findall(r"^\W+([a-z-]+) {2,}[A-Z]", help_of().partition("Commands")[2], flags=re.MULTILINE))


@functools.cache
def known_options(*command: str) -> frozenset[str]:
    """Return the options of `keygraph COMMAND...`, and those that may stand anywhere."""
    return frozenset(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", help_of(*command) + help_of()))


def unknown_words(words: tuple[str, ...]) -> list[str]:
    """Return the command, or those of its options, that do not exist."""
    program, *rest = words
    command = ALIASES.get(program) or rest.pop(0)
    options = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
    if command.startswith("-"):
        return sorted({command, *options} - known_options())
    if command not in known_commands():
        return [command]
    form = (command, "operators") if command == "bench" and "operators" in rest else (command,)
    return sorted(options - known_options(*form))


@pytest.mark.parametrize("use", COMMANDS, ids=lambda use: f"{use.page}: {' '.join(use.words)[:60]}")
def test_commands_exist(use: Use) -> None:
    assert unknown_words(use.words) == []


def test_commands_are_found() -> None:
    assert {use.words[1] for use in COMMANDS if use.words[0] == "keygraph"} >= known_commands()
    assert "restore" in known_commands()
    assert unknown_words(("keygraph", "restoer", "photo.png")) == ["restoer"]
    assert unknown_words(("keygraph", "restore", "photo.png", "-o", "out.png", "--modle", "kgt.onnx")) == ["--modle"]


#: Folders and root modules whose files documents name.
_NAMED = r"(?:bench|benchmarks|cli|docs|engines|examples|export|instrumentation|models|parity|plugins|runtime|tests)"


@every_page
def test_files_exist(page: Path) -> None:
    """Files of the repository that a page names in code font. CHANGELOG names former ones."""
    if page.name == "CHANGELOG.md":
        pytest.skip("names former files too")
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(rf"`({_NAMED}/[\w./-]+\.(?:py|c|cpp|h|hpp|inl|md|ckpt|jpg|txt))`", text))
    named |= set(re.findall(rf"\bpython3? ({_NAMED}/[\w./-]+\.py)", text))
    examples = {"models/toy.py"}
    assert sorted(name for name in named - examples if not (ROOT / name).exists()) == []


def test_code_names_documents_that_exist() -> None:
    """Comments, docstrings and messages that point to a document."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    broken = []
    for name in listed.stdout.splitlines():
        if not name.endswith((".py", ".cpp", ".h", ".hpp", ".inl", ".toml", "Makefile", "CMakeLists.txt")):
            continue
        if name == "tests/test_docs.py" or not (ROOT / name).exists():
            continue
        documents = re.findall(r"\bdocs/[\w/-]+\.md\b", (ROOT / name).read_text(encoding="utf-8"))
        broken += [f"{name}: {document}" for document in documents if not (ROOT / document).exists()]
    assert broken == []


def test_the_architecture_of_contributing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example adds an architecture in under 40 lines: it loads strictly, infers its width, and exports."""
    from keygraph.export import export

    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = re.search(r'```python\n    """models/toy\.py.*?```', text, flags=re.DOTALL)
    assert found is not None
    lines = [line.removeprefix("    ") for line in found[0].splitlines()[1:-1]]
    assert len(lines) < 40
    module_file = tmp_path / "toy.py"
    module_file.write_text("\n".join(lines))
    spec = importlib.util.spec_from_file_location("keygraph.models.toy", module_file)
    assert spec is not None
    assert spec.loader is not None
    toy = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "keygraph.models.toy", toy)
    spec.loader.exec_module(toy)
    monkeypatch.setattr(registry, "ARCHITECTURES", (*registry.ARCHITECTURES, toy.ARCHITECTURE))

    torch.manual_seed(0)
    torch.save(toy.Toy(toy.ToyConfig(channels=5)).state_dict(), tmp_path / "toy.pth")
    loaded = load_checkpoint(tmp_path / "toy.pth")
    assert (loaded.architecture.name, loaded.config) == ("toy", toy.ToyConfig(channels=5))
    manifest = export(loaded, tmp_path / "toy.onnx")
    assert manifest.architecture == "toy"
    assert manifest.verification is not None
