# make help lists the targets. Two of them are all that a newcomer needs: make bench, make test.
SHELL := bash
.DEFAULT_GOAL := help

PYTHON ?= python3
TORCH ?= torch==2.13.0
CONSTRAINTS ?= constraints.txt
ENV ?= venv
BENCH ?=
PYTEST ?=
FUZZ ?=
GPU_CHECK ?=

ifeq ($(ENV),active)
PY := $(PYTHON)
STAMPS := build/active
else ifeq ($(ENV),venv)
PY := .venv/bin/python
STAMPS := .venv/stamps
else
$(error ENV=$(ENV) must be venv (a new .venv, the default) or active (the current interpreter and its torch))
endif

PIP := $(PY) -m pip --disable-pip-version-check
# pip would compile every module to bytecode; the first import does that for the few that are imported.
INSTALL := $(PIP) install --quiet --no-compile --constraint $(CONSTRAINTS)
# The targets that need the emulated kernels; where these were built once, they are kept up to date.
EMULATED := simt test fuzz sanitize traffic docs
ifneq ($(filter $(EMULATED),$(MAKECMDGOALS))$(wildcard pytorch_ext/libconvbound_simt.so),)
CONVBOUND_SIMT ?= 1
endif
export CONVBOUND_SIMT ?= 0
# What the build reads from the environment: a change of it builds anew.
OPTIONS := CONVBOUND_CUDA=$(CONVBOUND_CUDA) CONVBOUND_SIMT=$(CONVBOUND_SIMT) CONVBOUND_WERROR=$(CONVBOUND_WERROR) \
  CONVBOUND_CXX=$(CONVBOUND_CXX) CXX=$(CXX) CUDACXX=$(CUDACXX) CUDA_HOME=$(CUDA_HOME) \
  TORCH_CUDA_ARCH_LIST=$(TORCH_CUDA_ARCH_LIST)
SOURCES := $(STAMPS)/options setup.py pyproject.toml $(shell find csrc -type f -not -path '*/__pycache__/*')

.PHONY: help
help: ## list the targets
	@echo "make TARGET [VARIABLE=value]"
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 14
	@echo
	@echo "  ENV=active          use the current interpreter and its torch, download nothing (default: a .venv of its own)"
	@echo "  PYTHON=python3.12   the interpreter (default: python3)"
	@echo "  TORCH=torch==2.13.0 what pip installs as torch into .venv"
	@echo "  BENCH='--quick'     arguments for make bench;  PYTEST='-k nhwc' for make test;"
	@echo "                      FUZZ='--seconds 600 --backend simt' for make fuzz"
	@echo "                      GPU_CHECK='--steps checks' for make gpu-check"
	@echo "  MAX_JOBS=4          compiler processes (default: one per CPU)"
	@echo "  CONVBOUND_CUDA=1    build the CUDA kernels for a CPU torch too, or fail (default: auto, for a CUDA torch)"

.PHONY: bench
bench: setup ## set up, build, and time our kernels against PyTorch (2 minutes to set up, 3 to measure)
	$(PY) -m convbound.bench $(BENCH)

.PHONY: test
test: $(STAMPS)/tests ## set up, build, and run the tests (30 minutes on two slow cores)
	$(PY) -m pytest -n $$($(PYTHON) -c 'import os; print(os.cpu_count() or 1)') $(PYTEST)

.PHONY: fuzz
fuzz: $(STAMPS)/tests ## random convolutions through every function and kernel, for a minute; FUZZ='--help' tells more
	PYTHONPATH=tests $(PY) -m fuzz $(FUZZ)

.PHONY: sanitize
sanitize: $(STAMPS)/tests ## run the CUDA kernels, emulated, under AddressSanitizer, UBSan and ThreadSanitizer (15 minutes on two slow cores)
	$(PY) -m pytest -m sanitize tests/simt $(PYTEST)

# One command on a machine with a GPU: every kernel, streams, graphs, compute-sanitizer, the quick benchmark.
.PHONY: gpu-check
gpu-check: gpu-present ## on a GPU machine: check everything, time a little, write results/gpu-check.json (10 minutes)
	$(MAKE) $(STAMPS)/tests CONVBOUND_CUDA=1
	@[ "$(ENV)" = active ] || { wanted=$$(PYTHONPATH=tests $(PY) -m gpu_check.sanitizers); \
	  [ -z "$$wanted" ] || $(PIP) install --quiet "$$wanted" || true; }
	PYTHONPATH=tests $(PY) -m gpu_check $(GPU_CHECK)

.PHONY: gpu-present
gpu-present:
	@[ -e /dev/nvidiactl ] || [ -e /dev/dxg ] \
	  || { echo "gpu-check needs an NVIDIA GPU, and there is none here (no /dev/nvidiactl, no /dev/dxg)"; exit 1; }

.PHONY: setup
setup: $(STAMPS)/built ## make the environment and build the package in it

.PHONY: simt
simt: setup ## setup, with the emulated CUDA kernels: for backend simt, for traces, and for the tests

AVX2 := CONVBOUND_CPU_ISA=avx2 ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2
PERF = $(PY) -m convbound.bench --out results/$(1) --suite $(2) --time

.PHONY: perf
perf: $(STAMPS)/tests ## repeat the committed measurements (30 minutes): bench/results, README, docs/experiments, docs/tables/cpu.md, docs/cpu.md
	mkdir -p bench/results
	$(PY) -m convbound.bench --out results/cpu
	$(call PERF,cpu_depthwise,depthwise_shapes depthwise_models) 170
	$(AVX2) $(call PERF,cpu_depthwise_avx2,depthwise_shapes) 120
	$(call PERF,cpu_dimensions,dimensions) 110
	$(call PERF,cpu_decoders,decoders) 60
	$(call PERF,cpu_bf16,halves halves_bf16) 90 --dtype bf16
	$(AVX2) $(call PERF,cpu_bf16_avx2,halves halves_bf16) 90 --dtype bf16
	$(call PERF,cpu_fp16,halves halves_grouped) 90 --dtype fp16
	$(AVX2) $(call PERF,cpu_fp16_avx2,halves halves_grouped) 90 --dtype fp16
	$(call PERF,cpu_grouped,grouped) 120
	$(AVX2) $(call PERF,cpu_grouped_avx2,grouped) 120
	$(AVX2) $(call PERF,cpu_grouped_few_avx2,grouped_few) 90
	for run in cpu cpu_depthwise cpu_depthwise_avx2 cpu_dimensions cpu_decoders cpu_bf16 cpu_bf16_avx2 cpu_fp16 cpu_fp16_avx2 \
	  cpu_grouped cpu_grouped_avx2 cpu_grouped_few_avx2; do \
	  cp results/$$run/result.json bench/results/$$run.json || exit 1; done
	$(PY) -m convbound.bench report bench/results/cpu.json --readme README.md
	$(PY) -m convbound.bench means docs/tables/cpu.md bench/results/cpu*.json
	$(PY) -m convbound.bench experiment --all --out results/experiments
	cp results/experiments/experiments.json bench/results/experiments.json
	$(PY) -m convbound.bench experiment --from bench/results/experiments.json --docs docs
	$(PY) -m convbound.bench train --document docs/cpu.md

TRACE = $(PY) -m convbound.bench --trace --dtype fp16 --out results/traffic/$(1) --document

.PHONY: traffic
traffic: setup ## repeat the traces of the CUDA kernels: the tables of docs/traffic.md, docs/depthwise.md and docs/tables
	$(call TRACE,step0) 'docs/traffic.md#step0' --kernel naive \
	  --problem mb2g144ic144ih56oc144kh3ph1 mb2g96ic96ih56oc96kh7ph3
	$(call TRACE,coalesced) 'docs/depthwise.md#coalesced' --pass fprop --layout NHWC \
	  --kernel depthwise_fprop_nhwc_general --suite traced_steps
	$(call TRACE,window) 'docs/depthwise.md#window' --pass fprop --layout NCHW \
	  --kernel depthwise_fprop_nchw_tiled --suite traced_steps
	$(call TRACE,planes) 'docs/depthwise.md#planes' --pass fprop --layout NCHW \
	  --kernel depthwise_fprop_nchw_bands --suite traced_steps
	$(call TRACE,toeplitz) 'docs/depthwise.md#toeplitz' --pass fprop --layout NCHW \
	  --kernel depthwise_fprop_nchw_toeplitz --problem mb32g128ic128ih56oc128kh31ph15
	$(call TRACE,layers) 'docs/tables/depthwise.md#layers' --suite traced

.PHONY: docs
docs: setup ## draw the pictures of docs/ and write its table of layers and kernels
	$(PY) docs/figures.py
	$(PY) docs/xrays.py
	$(PY) docs/kernel_table.py

.PHONY: lint
lint: $(STAMPS)/dev ## ruff (format and lint) and clang-format, changing nothing
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	git ls-files '*.h' '*.cpp' '*.cu' '*.inc' | xargs $(dir $(PY))clang-format --dry-run --Werror

.PHONY: format
format: $(STAMPS)/dev ## format Python and C++ in place
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	git ls-files '*.h' '*.cpp' '*.cu' '*.inc' | xargs $(dir $(PY))clang-format -i

# mypy does not follow the finder of an editable install, so it gets the package as a tree of links.
.PHONY: typecheck
typecheck: $(STAMPS)/dev ## mypy, strict, over the package
	rm -rf typecheck && mkdir -p typecheck/convbound
	ln -s $(CURDIR)/pytorch_ext/* typecheck/convbound/
	ln -s $(CURDIR)/bench $(CURDIR)/kernels typecheck/convbound/
	MYPYPATH=typecheck $(PY) -m mypy -p convbound

.PHONY: dist
dist: $(STAMPS)/dev ## build sdist and wheel and check what is in them
	$(PY) -m pytest -m packaging tests/test_packaging.py

.PHONY: clean
clean: ## remove .venv, build products and results of runs (not the committed ones)
	rm -rf .venv build dist results typecheck *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f pytorch_ext/*.so pytorch_ext/build_info.json

.PHONY: prerequisites
prerequisites:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
	  || { echo "convbound needs Python 3.10 or newer as '$(PYTHON)'; name another with PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_paths()["include"] + "/Python.h"))' \
	  || { echo "convbound needs the headers of $(PYTHON) to build (Debian: apt-get install python3-dev)"; exit 1; }
	@v=$$($${CONVBOUND_CXX:-$${CXX:-g++}} -dumpfullversion 2>/dev/null) && [ "$${v%%.*}" -ge 11 ] \
	  || { echo "convbound needs g++ 11 or newer, found '$${v:-none}'; CONVBOUND_CXX names another compiler"; exit 1; }

.PHONY: always
$(STAMPS)/options: always
	@mkdir -p $(@D) && { echo '$(OPTIONS)' | cmp -s - $@ || echo '$(OPTIONS)' > $@; }

ifeq ($(ENV),venv)
unexport PYTHONDONTWRITEBYTECODE  # see INSTALL

$(STAMPS)/environment: pyproject.toml $(CONSTRAINTS) | prerequisites
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  || { echo "convbound needs $(PYTHON)'s venv module (Debian: apt-get install python3-venv)"; exit 1; }
	[ -x $(PY) ] || $(PYTHON) -m venv .venv
	$(INSTALL) "$(TORCH)" "setuptools>=77" ninja "pybind11>=3.0" numpy
	@mkdir -p $(@D) && touch $@

# A CUDA build of torch brings no nvcc; pip has one.
$(STAMPS)/built: $(STAMPS)/environment $(SOURCES)
	@nvcc=$$($(PY) csrc/build_tools.py) && { [ -z "$$nvcc" ] || $(PIP) install --quiet "$$nvcc"; }
	$(INSTALL) --no-build-isolation --editable ".[bench]"
	@mkdir -p $(@D) && touch $@
	@$(PY) -m convbound

# The packages of an extra of pyproject.toml.
EXTRA = $$($(PY) -c 'import importlib.metadata as m; print(*(r.split(";")[0] for r in m.requires("convbound") if r.endswith("$(1)\"")))')

$(STAMPS)/tests: $(STAMPS)/environment | $(STAMPS)/built
	$(INSTALL) $(call EXTRA,test)
	@touch $@

$(STAMPS)/dev: $(STAMPS)/tests
	$(INSTALL) $(call EXTRA,dev)
	@touch $@
else
$(STAMPS)/built: $(SOURCES) | prerequisites
	@for module in torch setuptools ninja pybind11; do $(PY) -c "import $$module" 2>/dev/null \
	  || { echo "ENV=active downloads nothing, but $(PY) has no $$module"; exit 1; }; done
	$(PIP) install --quiet --no-index --no-deps --no-build-isolation --editable .
	@mkdir -p $(@D) && touch $@
	@$(PY) -m convbound

$(STAMPS)/tests $(STAMPS)/dev: | $(STAMPS)/built
	@$(PY) -c "import pytest, xdist" || { echo "ENV=active downloads nothing, but $(PY) lacks pytest or pytest-xdist"; exit 1; }
	@touch $@
endif
