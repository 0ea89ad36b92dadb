"""`benchmarks/gpu_all.py` and its runner: nothing that one step does loses another's results."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import gpu_all
import gpu_package
import gpu_runner
from gpu_runner import Runner, Step

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"

#: Packages that the machine with the GPU does not have.
ABSENT = (
    "pyvips", "polygraphy", "tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "tensorrt_libs", "spectral", "h5py",
    "sklearn", "selenium", "mypy",
)  # fmt: skip
#: Before anything else is imported: these packages are not found, as if they were not installed.
SITECUSTOMIZE = f"""
import sys
class Without:
    def __init__(self, finder): self.finder = finder
    def __getattr__(self, name): return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in {ABSENT} else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def writes(value: str) -> str:
    """A program that writes its results."""
    return f"import sys, pathlib; pathlib.Path(sys.argv[1]).write_text('{value}')"


def step(name: str, code: str, limit: float = 60, **more: Any) -> Step:
    return Step(name, (sys.executable, "-c", code, "{json}"), limit, **more)


TABLE = '{"tables": [{"title": "t", "header": ["a", "b"], "rows": [["1 | 2", "3"]], "note": "a note"}]}'
HANGS = "import time; print('before', flush=True); " + writes('{"half": 1}') + "; time.sleep(600)"


def runner(folder: Path, budget: float = 100, **more: Any) -> Runner:
    return Runner(
        folder, budget, conditions={"never": lambda: "it is not here"}, environment=os.environ, cwd=folder, **more
    )


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())["steps"]
    return found


def test_no_step_ends_another(tmp_path: Path) -> None:
    steps = [
        step("first", "print('hello'); " + writes(TABLE)),
        step("fails", "raise SystemExit(3)"),
        step("hangs", HANGS, limit=2),
        step("dies", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"),
        Step("is not there", ("/no/such/program",), 5),
        step("cannot", "", needs=("never",)),
        step("too long", "", limit=1000),
        step("last", writes('{"x": 2}')),
    ]
    assert not runner(tmp_path).run(steps)
    found = results(tmp_path)
    assert {name: one["status"] for name, one in found.items()} == {
        "first": "passed",
        "fails": "failed",
        "hangs": "timed out",
        "dies": "killed",
        "is not there": "failed",
        "cannot": "not possible",
        "too long": "left out",
        "last": "passed",
    }
    assert found["dies"]["reason"] == "SIGSEGV"
    assert found["cannot"]["reason"] == "it is not here"
    # What a step had measured when its time was over.
    assert found["hangs"]["result"] == {"half": 1}
    assert found["last"]["result"] == {"x": 2}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.md", "log.txt", "results.json"]
    log = (tmp_path / "log.txt").read_text()
    assert "hello" in log
    assert "before" in log
    page = (tmp_path / "gpu.md").read_text()
    assert "| hangs | timed out: not done after 2 s | 2 |" in page
    assert "## first: t\n\n| a | b |\n| --- | --- |\n| 1 \\| 2 | 3 |\n\na note\n" in page


def test_what_did_not_run_is_no_failure(tmp_path: Path) -> None:
    assert runner(tmp_path).run([step("fine", ""), step("cannot", "", needs=("never",)), step("later", "", limit=1e6)])


def test_the_whole_group_of_a_step_ends(tmp_path: Path) -> None:
    """A step's own processes too, which hold the GPU; also when it ignores SIGTERM."""
    child = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    child += f"open(r'{tmp_path}/child', 'w').write(str(os.getpid())); time.sleep(600)"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(600)"
    assert not runner(tmp_path).run([step("parent", code, limit=3)])
    assert not alive(int((tmp_path / "child").read_text()))


def test_earlier_records_stay(tmp_path: Path) -> None:
    before = {"old": {"status": "passed", "seconds": 1.0}}
    assert runner(tmp_path, previous=before).run([step("new", "")])
    assert {name: one["status"] for name, one in results(tmp_path).items()} == {"old": "passed", "new": "passed"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_runner_that_is_killed_leaves_what_was_done(number: signal.Signals, tmp_path: Path) -> None:
    planted = f"""
import os, sys
from pathlib import Path
sys.path.insert(0, {str(BENCHMARKS)!r})
import gpu_runner
from gpu_runner import Runner, Step
gpu_runner._PAUSE = 0.1
hangs = "import os, time; " + {writes('{"half": 1}')!r}
hangs += "; open('pid', 'w').write(str(os.getpid())); time.sleep(600)"
steps = [Step("done", (sys.executable, "-c", {writes('{"x": 1}')!r}, "{{json}}"), 60),
         Step("hangs", (sys.executable, "-c", hangs, "{{json}}"), 600), Step("never", (sys.executable, "-c", ""), 60)]
Runner(Path("out"), 1000, conditions={{}}, environment=os.environ, cwd=Path.cwd()).run(steps)
"""
    process = subprocess.Popen([sys.executable, "-c", planted], cwd=tmp_path, stdout=subprocess.DEVNULL)
    pid = tmp_path / "pid"
    while not (pid.is_file() and pid.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    page = tmp_path / "out" / "results.json"
    while "half" not in page.read_text():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    process.wait()
    found = results(tmp_path / "out")
    assert found["done"]["status"] == "passed"
    assert found["done"]["result"] == {"x": 1}
    assert found["hangs"]["status"] == "running"
    assert found["hangs"]["result"] == {"half": 1}
    assert "never" not in found
    assert "done" in (tmp_path / "out" / "gpu.md").read_text()
    assert not alive(int(pid.read_text()))


def alive(pid: int) -> bool:
    """Whether a process runs on, with a moment to end."""
    for _ in range(100):
        state = Path(f"/proc/{pid}/stat")
        try:
            if state.read_text().rpartition(")")[2].split()[0] == "Z":
                return False
        except OSError:
            return False
        time.sleep(0.05)
    return True


def test_long_output_is_shortened() -> None:
    text = gpu_runner._shortened(b"a" * 20_000 + b"b" * 1_000_000 + b"c" * 180_000)
    assert text.startswith("a" * 20_000 + "\n... 1000000 bytes left out ...\n")
    assert text.endswith("\n" + "c" * 180_000)


def test_a_package_of_other_sources_is_known(tmp_path: Path) -> None:
    package = tmp_path / "keygraph"
    for name in ("errors.py", "bench/roofline.py"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, package / name)
    lib = package / "plugins" / "lib"
    lib.mkdir(parents=True)
    (lib / "libkeygraph_cuda.so").write_bytes(b"")
    assert gpu_package.differing(tmp_path) == []
    (package / "bench" / "roofline.py").write_text("changed")
    (package / "gone.py").write_text("")
    assert gpu_package.differing(tmp_path) == ["bench/roofline.py", "gone.py"]


def test_the_tests_plugin_writes_what_passed_and_failed(tmp_path: Path) -> None:
    (tmp_path / "test_planted.py").write_text(
        "import pytest\n"
        "def test_passes(): pass\n"
        "def test_fails(): assert 1 == 2, 'so it is'\n"
        "def test_skips(): pytest.skip('no reason')\n"
        "def test_passes_too(): pass\n"
    )
    (tmp_path / "test_broken.py").write_text("import not_there\n")
    path = tmp_path / "results.json"
    words = ["-q", "-p", "gpu_pytest", "--gpu-json", str(path), "--continue-on-collection-errors", str(tmp_path)]
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "-p", "no:cacheprovider", *words]
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS)}
    subprocess.run(command, env=environment, capture_output=True, check=False)
    found = json.loads(path.read_text())
    assert (found["passed"], found["failed"], found["skipped"]) == (2, 2, 1)
    assert found["why skipped"] == {"no reason": 1}
    assert [name.rpartition("/")[2] for name in found["failures"]] == [
        "test_broken.py (collect)",
        "test_planted.py::test_fails (call)",
    ]


#: Its kernel reads where it must not: from then on CUDA's every call fails in that process.
LOSES_THE_GPU = """
import pytest, torch
def lost(): raise RuntimeError("CUDA error: an illegal memory access was encountered")
def test_loses_the_gpu():
    torch.cuda.is_initialized, torch.cuda.synchronize = (lambda: True), lost
    lost()
@pytest.mark.parametrize("number", range(3))
def test_needs_the_gpu(number): torch.cuda.is_initialized() and torch.cuda.synchronize()
"""


@pytest.mark.slow
def test_a_worker_that_lost_the_gpu_gets_a_successor(tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    (tmp_path / "test_planted.py").write_text(LOSES_THE_GPU)
    path = tmp_path / "results.json"
    words = ["-q", "-n", "1", "-p", "gpu_pytest", "--gpu-json", str(path), str(tmp_path)]
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "-p", "no:cacheprovider", *words]
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = json.loads(path.read_text())
    assert found["passed"] == 3, done.stdout
    assert [name.partition("::")[2].split()[0] for name in found["failures"]] == ["test_loses_the_gpu"] * 2
    assert "illegal memory access" in next(iter(found["failures"].values()))


#: gpu_variants.py, in which the first variant of the attention takes the GPU along.
LOSES_IT_AT_A_VARIANT = """
import sys
import gpu_variants
prepare = gpu_variants.just_in_time
def planted(case, variant, given):
    if case.op == "KeyGraphAttention" and variant == case.fitting(gpu_variants.torch.device("cuda"))[0]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    return prepare(case, variant, given)
gpu_variants.HOSTS["just in time"], gpu_variants.is_lost = planted, lambda: True
sys.argv[0] = gpu_variants.__file__  # The one that goes on is the script itself, without what is planted here.
sys.exit(gpu_variants.main())
"""


@pytest.mark.slow
def test_another_process_goes_on_where_a_variant_loses_the_gpu(tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    environment = {"PYTHONPATH": str(BENCHMARKS), "KEYGRAPH_PRETEND_GPU": "1", "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LOSES_IT_AT_A_VARIANT, "--tiny", "--rounds", "1", "--json", str(path)],
        env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    found = json.loads(path.read_text())
    assert len(found["errors"]) == 1
    assert "illegal memory access" in found["errors"][0]
    (lost,) = found["lost"]
    assert len(found["cases"]) == 5
    assert found["cases"][0]["failures"] == {lost[1]: "the GPU is lost"}
    assert len(found["cases"][1]["milliseconds"]["just in time"]) > 3
    assert found["launches"]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a machine that has neither these packages nor a registry."""
    folder = tmp_path_factory.mktemp("absent")
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    registry = {"PIP_NO_INDEX": "1", "PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_CONFIG_FILE": os.devnull}
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    return {**os.environ, **registry, **proxies, "PYTHONPATH": str(folder), "OUT": str(folder / "out")}


def dry_run(machine: dict[str, str], *words: str) -> dict[str, Any]:
    """Every step's record; fails with the log unless all passed."""
    command = [sys.executable, str(BENCHMARKS / "gpu_all.py"), "--dry-run", *words]
    done = subprocess.run(command, env=machine, capture_output=True, text=True, check=False)
    out = Path(machine["OUT"])
    assert done.returncode == 0, done.stdout + done.stderr + (out / "log.txt").read_text()
    assert len(list(out.iterdir())) <= 8
    found = results(out)
    for name, one in found.items():
        allowed = {"passed"} | ({"not possible"} if name == "tests, TensorRT plugin" else set())
        assert one["status"] in allowed, (name, one)
    return found


def test_what_is_absent_is_absent(machine: dict[str, str]) -> None:
    code = "import pyvips"
    done = subprocess.run([sys.executable, "-c", code], env=machine, capture_output=True, text=True, check=False)
    assert "No module named 'pyvips'" in done.stderr


@pytest.mark.slow
def test_every_step_goes_as_far_as_it_can_without_a_gpu(machine: dict[str, str]) -> None:
    found = dry_run(machine)
    for name, what in (("variants", "launches"), ("operators", "cases"), ("network", "ways"), ("compile", "done")):
        assert found[name]["result"][what], name
    assert found["ceilings"]["result"]["ceilings"]["gigabytes"] > 0
    assert "roofline (measured)" in (Path(machine["OUT"]) / "gpu.md").read_text()
    assert found["tests, PyTorch"]["result"]["skipped"] > 100
    assert 10 <= found["memcheck"]["result"]["skipped"] <= 22
    assert "left out" not in {one["status"] for one in found.values()}


@pytest.mark.slow
def test_the_rest_does_what_was_left_out(machine: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    earlier = {"smoke": {"status": "passed", "seconds": 1.0}, "memcheck": {"status": "left out"}}
    (out / "results.json").write_text(json.dumps({"steps": earlier}))
    found = dry_run(machine | {"OUT": str(out)}, "--rest")
    assert found["smoke"] == earlier["smoke"]
    assert found["memcheck"]["status"] == "passed"
    assert "operators" not in found
    for name in ("profile", "racecheck", "channel attention", "tests, alternatives", "operators, float32"):
        assert found[name]["status"] == "passed"


def test_without_a_gpu_it_says_so() -> None:
    if gpu_all.gpu() is None:
        pytest.skip("there is one: it would measure")
    command = [sys.executable, str(BENCHMARKS / "gpu_all.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no GPU to run on")
