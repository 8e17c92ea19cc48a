# The first of these that runs and is Python 3.11 to 3.13 makes the virtual environment.
PYTHONS ?= python3.13 python3.12 python3.11 python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

CXX_FILES := $(shell find csrc -name '*.h' -o -name '*.cpp')
# The installation points at this folder, so only these, and new Python files, need it done again.
BUILT_FROM := CMakeLists.txt pyproject.toml constraints.txt $(CXX_FILES) \
	$(shell find bertft -type d -not -name __pycache__)

.PHONY: demo test real check bench format wheel wheel-test sanitize sanitize-asan sanitize-tsan \
	aarch64 kernels gpu clean

demo: $(VENV)/.installed
	$(BIN)/bertft demo

test: $(VENV)/.dev-installed
	$(BIN)/python -m pytest

real: $(VENV)/.dev-installed
	$(BIN)/python -m pytest -m "real or real_long"

# Some fifteen minutes on two quiet cores. BENCHMARKS names files or tests to run instead of all.
BENCHMARKS ?= benchmarks
bench: $(VENV)/.dev-installed
	@mkdir -p build
	$(BIN)/python -m pytest $(BENCHMARKS) --benchmark-only --benchmark-json=build/benchmarks.json \
	  --benchmark-disable-gc --benchmark-columns=median,iqr,rounds
	$(BIN)/python benchmarks/table.py build/benchmarks.json

check: $(VENV)/.dev-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict bertft
	$(BIN)/mypy --config-file= --check-untyped-defs --ignore-missing-imports \
	  --follow-imports=silent --disable-error-code=var-annotated \
	  --disable-error-code=assignment benchmarks  # that their calls are those of the package
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)
	$(BIN)/python -m pytest --quiet tests/test_codebase.py

format: $(VENV)/.dev-installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(CXX_FILES)

wheel: $(VENV)/.venv
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

# The wheel by itself, where neither torch nor anything else of ours is installed.
wheel-test: wheel
	rm -rf build/wheel && mkdir -p build && $(BIN)/python -m venv build/wheel
	build/wheel/bin/python -m pip install --quiet -c constraints.txt numpy hypothesis pytest
	build/wheel/bin/python -m pip install --quiet --no-deps dist/*.whl
	cd build && wheel/bin/pytest --import-mode=importlib ../tests/test_native.py

# The compiled core with its own checks, built beside the package: -S leaves out the hook by which
# the installation in place would come first, and pytest must not take the first look at a fault.
# CPython leaks by design, one test wants an allocation to fail and one forks, and the stack that
# detects use after return does not align vectors of 64 bytes. The threads of torch and of NumPy's
# products are not compiled to be watched, so there is one. KERNEL_TESTS names some instead of all.
KERNEL_TESTS ?= $(addprefix tests/test_,native.py ops.py probe_ops.py span_ops.py hidden_ops.py edge_ops.py structure_ops.py)
sanitize: sanitize-asan sanitize-tsan

sanitize-asan: SANITIZE := address,undefined
sanitize-tsan: SANITIZE := thread
sanitize-asan sanitize-tsan: sanitize-%: $(VENV)/.dev-installed
	rm -rf build/$@
	$(PIP) --no-deps --target build/$@ -C build-dir=build/$@/cmake \
	  -C cmake.build-type=RelWithDebInfo -C cmake.define.BERTFT_SANITIZE=$(SANITIZE) .
	site=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	PYTHONPATH=build/$@:.:$$site PYTHONMALLOC=malloc OMP_NUM_THREADS=1 \
	ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0:allocator_may_return_null=1 \
	TSAN_OPTIONS=halt_on_error=1:die_after_fork=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
	LD_PRELOAD="$$(g++ -print-file-name=lib$*.so) $$(g++ -print-file-name=libstdc++.so)" \
	$(BIN)/python -SP -m pytest --import-mode=importlib --capture=sys -p no:faulthandler \
	  $(KERNEL_TESTS)

# Every build of the Triton kernels, compiled ahead of time: what they take, without a GPU.
kernels: $(VENV)/.dev-installed
	$(BIN)/python -m tests.kernels --all

# On a machine with a GPU and no network: its own python3 with PyTorch and Triton, tests of the
# kernels and then their table. Warnings of versions that we do not know are no failures here.
gpu:
	@python3 -c 'import sys, torch; torch.cuda.is_available() or sys.exit( \
	  f"[make gpu] python3 must have a GPU, got none in its PyTorch {torch.__version__}; " \
	  "run where torch.cuda.is_available().")'
	rm -rf build/gpu && mkdir -p build
	python3 -m pip install --quiet --no-build-isolation --no-deps --no-index --target build/gpu .
	BERTFT_REQUIRE_CUDA=1 PYTHONPATH=build/gpu:. python3 -P -m pytest --import-mode=importlib \
	  -W default -p no:cacheprovider tests/test_triton.py $(wildcard tests/test_triton_[!b]*.py)
	PYTHONPATH=build/gpu:. python3 -P benchmarks/spectra_of_device.py
	PYTHONPATH=build/gpu:. python3 -P benchmarks/gpu.py

aarch64: $(VENV)/.dev-installed
	.ci/aarch64 $(BIN)/python

$(VENV)/.venv:
	@for python in $(PYTHONS); do \
	  if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	      2>/dev/null; then \
	    echo "using $$($$python --version)" && $$python -m venv $(VENV) && touch $@ && exit 0; \
	  fi; \
	done; \
	echo "bertft needs Python 3.11 to 3.13; none of these is one: $(PYTHONS)." \
	  "Install one, or name it: make PYTHONS=/path/to/python3" >&2; exit 1

$(VENV)/.installed: $(VENV)/.venv $(BUILT_FROM)
	$(PIP) -e .
	@touch $@

$(VENV)/.dev-installed: $(VENV)/.venv $(BUILT_FROM)
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist
