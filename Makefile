# `make demo` and `make test` do all the set-up they need: a virtual environment, pinned packages, the native build.
# Needs Python 3.10 or newer, a C++17 compiler, and CMake 3.20 or newer (taken from PyPI where it is missing).

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
NATIVE := $(shell find plugins -name '*.cpp' -o -name '*.h' -o -name '*.inl')

.PHONY: demo test check sanitize tensorrt benchmark clean

demo: .venv/.ready
	$(BIN)/python examples/demo.py -o demo-output

test: check
	$(BIN)/python -m pytest

check: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The native operators under AddressSanitizer and UndefinedBehaviorSanitizer, through their C interface.
sanitize: .venv/.ready
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B build/sanitize -G Ninja -DKEYGRAPH_SANITIZE=ON
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/sanitize --target keygraph_cpu
	LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	KEYGRAPH_LIBRARY_DIR=build/sanitize $(BIN)/python -m pytest -q tests/plugins/test_operator_conformance.py \
	tests/plugins/test_operator_fuzz.py tests/plugins/test_operator_errors.py -k "not functions and not torch and not nnx"

# The TensorRT plugin and its tests; TENSORRT_ROOT is an SDK, or a folder whose include/ holds its headers.
tensorrt: .venv/.ready
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B build/tensorrt -G Ninja -DTENSORRT_ROOT="$(TENSORRT_ROOT)" \
	-DPython_EXECUTABLE="$(CURDIR)/$(BIN)/python"
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/tensorrt \
	--target keygraph_trt keygraph_trt_harness keygraph_trt_host
	KEYGRAPH_LIBRARY_DIR=build/tensorrt $(BIN)/python -m pytest -q tests/plugins/tensorrt

benchmark: .venv/.ready
	$(BIN)/python benchmarks/operators.py
	$(BIN)/python benchmarks/model.py

clean:
	rm -rf .venv build demo-output

# Everything, with the native libraries; again only when what goes into them has changed.
.venv/.ready: constraints.txt pyproject.toml CMakeLists.txt $(NATIVE)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.x")'
	$(PYTHON) -m venv .venv
	# pyvips comes as source and brings its own build environment, which --no-build-isolation below would deny it.
	$(PIP) install -c constraints.txt scikit-build-core ninja pyvips
	command -v cmake >/dev/null || $(PIP) install cmake
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) install -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $@
