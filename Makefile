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
# What the build reads from the environment: a change of it builds anew.
OPTIONS := CONVBOUND_CUDA=$(CONVBOUND_CUDA) CONVBOUND_SIMT=$(CONVBOUND_SIMT) CONVBOUND_CXX=$(CONVBOUND_CXX) CXX=$(CXX) \
  CUDACXX=$(CUDACXX) CUDA_HOME=$(CUDA_HOME) TORCH_CUDA_ARCH_LIST=$(TORCH_CUDA_ARCH_LIST)
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
bench: setup ## set up, build, and time our kernels against torch (3 minutes)
	$(PY) -m convbound.bench $(BENCH)

.PHONY: test
test: setup ## set up, build, and run the tests (10 minutes)
	$(PY) -m pytest -n $$($(PYTHON) -c 'import os; print(os.cpu_count() or 1)') $(PYTEST)

.PHONY: fuzz
fuzz: setup ## random convolutions through every function and kernel, for a minute; FUZZ='--help' tells more
	PYTHONPATH=tests $(PY) -m fuzz $(FUZZ)

.PHONY: sanitize
sanitize: setup ## run the CUDA kernels, emulated, under AddressSanitizer, UBSan and ThreadSanitizer (4 minutes)
	$(PY) -m pytest -m sanitize tests/simt $(PYTEST)

# One command on a machine with a GPU: every kernel, streams, graphs, compute-sanitizer, the quick benchmark.
.PHONY: gpu-check
gpu-check: gpu-present ## on a GPU machine: check everything, time a little, write results/gpu-check.json (10 minutes)
	$(MAKE) setup CONVBOUND_CUDA=1
	@[ "$(ENV)" = active ] || { wanted=$$(PYTHONPATH=tests $(PY) -m gpu_check.sanitizers); \
	  [ -z "$$wanted" ] || $(PIP) install --quiet "$$wanted" || true; }
	PYTHONPATH=tests $(PY) -m gpu_check $(GPU_CHECK)

.PHONY: gpu-present
gpu-present:
	@[ -e /dev/nvidiactl ] || [ -e /dev/dxg ] \
	  || { echo "gpu-check needs an NVIDIA GPU, and there is none here (no /dev/nvidiactl, no /dev/dxg)"; exit 1; }

.PHONY: setup
setup: $(STAMPS)/built ## make the environment and build the package in it

# Depthwise beyond the six models: large and oblong filters, dilation, multiplier, small and large batches.
MORE_DEPTHWISE := mb2g64ic64ih56oc64kh31ph15 mb8g96ic96ih28oc96kh13ph6 mb8g96ic96ih56oc96kh9ph4 \
  mb8g144ic144ih56oc144kh3ph2dh2 mb8g144ic144ih56oc144kh3ph4dh4 mb8g96ic96ih56oc192kh3ph1 \
  mb4g1024ic1024iw2048oc1024kw4pw3 mb8g256ic256iw1024oc256kw3pw1 mb8g96ic96ih56oc96kh1kw7ph0pw3 \
  mb8g96ic96ih56oc96kh7kw1ph3pw0 mb1g32ic32ih112oc32kh3ph1 mb1g144ic144ih56oc144kh3ph1 mb1g96ic96ih112oc96kh3sh2ph1 \
  mb1g240ic240ih28oc240kh5ph2 mb1g384ic384ih14oc384kh7ph3 mb1g960ic960ih7oc960kh3ph1 mb8g144ic144ih56oc144kh3sh3ph1 \
  mb32g144ic144ih56oc144kh3ph1 mb8g64ic64ih112oc64kh8sh4ph2 mb8g96ic96ih56oc96kh4sh4 mb1g256ic256ih28oc256kh5sh4ph2 \
  mb8g256ic256ih28oc256kh7sh4ph3 mb8g64ic64ih56oc64kh8sh8
# RepLKNet-31B, DeepLab's rates, MixNet, MobileNetV3.
MORE_MODELS := mb1g128ic128ih56oc128kh31ph15 mb1g512ic512ih14oc512kh27ph13 mb8g1024ic1024ih7oc1024kh13ph6 \
  mb1g256ic256ih33oc256kh3ph6dh6 mb8g256ic256ih33oc256kh3ph12dh12 mb1g320ic320ih65oc320kh3ph36dh36 \
  mb8g576ic576ih33oc576kh3ph2dh2 mb8g960ic960ih33oc960kh3ph4dh4 mb8g48ic48ih56oc48kh7sh2ph3 mb8g144ic144ih14oc144kh9sh2ph4 \
  mb8g72ic72ih56oc72kh5sh2ph2 mb8g64ic64ih112oc64kh3sh2ph1 mb8g200ic200ih14oc200kh3ph1 mb1g672ic672ih14oc672kh5sh2ph2
# WaveNet, a TCN, Mamba, Conformer, QuartzNet; X3D, ir-CSN, MedNeXt.
MORE_DIMENSIONS := mb1g64ic64iw8000oc64kw2pw1ew0 mb1g64ic64iw8000oc64kw2pw32ew0dw32 mb1g64ic64iw8000oc64kw2pw512ew0dw512 \
  mb8g256ic256iw2000oc256kw3pw4dw4 mb1g1536ic1536iw512oc1536kw4pw3ew0 mb1g5120ic5120iw512oc5120kw4pw3ew0 \
  mb1g512ic512iw400oc512kw31pw15 mb1g256ic256iw1000oc256kw33pw16 mb1g512ic512iw1000oc512kw87pw43 \
  mb1g54ic54id16ih56oc54kd3pd1 mb1g108ic108id16ih28oc108kd3pd1 mb1g216ic216id16ih14oc216kd3pd1 \
  mb8g432ic432id16ih7oc432kd3pd1 mb1g54ic54id16ih56oc54kd3sd1sh2pd1 mb8g24ic24id16ih56oc24kd5kh1pd2ph0 \
  mb1g64ic64id8ih56oc64kd3pd1 mb1g128ic128id8ih28oc128kd3pd1 mb8g256ic256id4ih14oc256kd3pd1 \
  mb8g512ic512id2ih7oc512kd3pd1 mb1g256ic256id4ih28oc256kd3sd2pd1 mb1g64ic64id16oc64kd7pd3
# Depthwise decoders of GANs and U-Nets, upsampling in an FCN.
DECODERS := mb8g512ic512ih8oc512kh4sh2ph1 mb8g256ic256ih16oc256kh4sh2ph1 mb8g128ic128ih32oc128kh4sh2ph1 \
  mb8g64ic64ih64oc64kh4sh2ph1 mb8g256ic256ih28oc256kh2sh2 mb1g64ic64ih112oc64kh2sh2 mb8g128ic128ih56oc128kh3sh2ph1 \
  mb8g64ic64ih112oc64kh5sh2ph2 mb1g21ic21ih256oc21kh16sh8ph4 mb8g21ic21ih256oc21kh16sh8ph4 mb1g21ic21ih512oc21kh32sh16ph8
# A sample of all that, in 16 bits.
HALVES := mb8g144ic144ih56oc144kh3ph1 mb8g144ic144ih56oc144kh3sh2ph1 mb8g576ic576ih14oc576kh3ph1 mb8g576ic576ih14oc576kh3sh2ph1 \
  mb8g240ic240ih28oc240kh3sh2ph1 mb8g72ic72ih56oc72kh5sh2ph2 mb8g672ic672ih14oc672kh5ph2 mb8g672ic672ih14oc672kh5sh2ph2 \
  mb8g96ic96ih56oc96kh7ph3 mb8g384ic384ih14oc384kh7ph3 mb1g1536ic1536iw512oc1536kw4pw3ew0 \
  mb1g64ic64iw8000oc64kw2pw32ew0dw32 mb1g256ic256iw1000oc256kw33pw16 mb1g64ic64id8ih56oc64kd3pd1 mb8g512ic512id2ih7oc512kd3pd1 \
  mb1g144ic144ih56oc144kh3ph1 mb1g576ic576ih14oc576kh3ph1 mb1g240ic240ih28oc240kh5ph2 mb1g384ic384ih14oc384kh7ph3 \
  mb1g64ic64ih112oc64kh3sh2ph1 mb1g256ic256ih33oc256kh3ph6dh6
# bf16 alone, where few kinds of layers are ours with AVX-512.
MORE_BF16 := mb1g96ic96ih112oc96kh3sh2ph1 mb8g64ic64ih112oc64kh3sh2ph1 mb1g672ic672ih14oc672kh5sh2ph2 \
  mb8g144ic144ih14oc144kh9sh2ph4 mb8g48ic48ih56oc48kh7sh2ph3 mb1g5120ic5120iw512oc5120kw4pw3ew0 \
  mb8g256ic256iw2000oc256kw3pw4dw4 mb1g512ic512iw400oc512kw31pw15 mb1g128ic128id8ih28oc128kd3pd1 \
  mb1g54ic54id16ih56oc54kd3pd1
AVX2 := CONVBOUND_CPU_ISA=avx2 ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2
PERF = $(PY) -m convbound.bench --out results/$(1) --problem $(2) --time

# Few channels per group: ResNeXt-50 32x4d, RegNet, ShuffleNet, 1-D (MelGAN's discriminator, a TCN), GANs' decoders, 3-D.
GROUPED := g32ic128ih56oc128kh3ph1 g32ic256ih56oc256kh3sh2ph1 g32ic256ih28oc256kh3ph1 g32ic512ih28oc512kh3sh2ph1 \
  g32ic512ih14oc512kh3ph1 g32ic1024ih14oc1024kh3sh2ph1 g32ic1024ih7oc1024kh3ph1 g2ic32ih112oc32kh3sh2ph1 \
  g13ic104ih28oc104kh3ph1 g26ic208ih14oc208kh3ph1 g55ic440ih14oc440kh3sh2ph1 g5ic120ih56oc120kh3sh2ph1 \
  g7ic168ih28oc168kh3ph1 g17ic408ih14oc408kh3ph1 g25ic400ih7oc400kh3ph1 g3ic60ih28oc240kh1 g8ic96ih28oc384kh1 \
  g8ic192ih14oc768kh1 g4ic16iw8192oc64kw41sw4pw20 g16ic64iw2048oc256kw41sw4pw20 g32ic256iw1024oc256kw3pw1 \
  g32ic256iw1024oc256kw3pw8ew0dw4 g8ic128iw2000oc128kw5pw2 g16ic64ih56oc64kh4sh2ph1 g16ic128ih56oc128kh4sh2ph1 \
  g8ic128ih28oc128kh4sh2ph1 g8ic256ih28oc256kh4sh2ph1 g16ic64id8ih28oc64kd3kh3pd1ph1 \
  g16ic128id8ih14oc128kd3kh3pd1ph1
MORE_GROUPED := $(GROUPED:%=mb8%) $(GROUPED:%=mb1%)
HALF_GROUPED := mb8g32ic128ih56oc128kh3ph1 mb8g26ic208ih14oc208kh3ph1 mb1g32ic256iw1024oc256kw3pw1 mb8g32ic512ih14oc512kh3ph1 \
  mb8g17ic408ih14oc408kh3ph1 mb1g32ic1024ih14oc1024kh3sh2ph1 mb1g32ic256ih56oc256kh3sh2ph1 mb1g16ic64ih56oc64kh4sh2ph1 \
  mb1g16ic64id8ih28oc64kd3kh3pd1ph1 mb1g58ic116ih28oc116kh3ph1 mb8g3ic60ih28oc240kh1

.PHONY: perf
perf: setup ## repeat the committed measurements (25 minutes): bench/results, tables of README and docs/cpu.md, docs/roofline.png
	mkdir -p bench/results
	$(PY) -m convbound.bench --out results/cpu
	$(call PERF,cpu_depthwise,$(MORE_DEPTHWISE) $(MORE_MODELS)) 170
	$(AVX2) $(call PERF,cpu_depthwise_avx2,$(MORE_DEPTHWISE)) 120
	$(call PERF,cpu_dimensions,$(MORE_DIMENSIONS)) 110
	$(call PERF,cpu_decoders,$(DECODERS)) 60 --transposed
	$(call PERF,cpu_bf16,$(HALVES) $(MORE_BF16)) 90 --dtype bf16
	$(AVX2) $(call PERF,cpu_bf16_avx2,$(HALVES) $(MORE_BF16)) 90 --dtype bf16
	$(call PERF,cpu_fp16,$(HALVES) $(HALF_GROUPED)) 90 --dtype fp16
	$(AVX2) $(call PERF,cpu_fp16_avx2,$(HALVES) $(HALF_GROUPED)) 90 --dtype fp16
	$(call PERF,cpu_grouped,$(MORE_GROUPED)) 120
	$(AVX2) $(call PERF,cpu_grouped_avx2,$(MORE_GROUPED)) 120
	for run in cpu cpu_depthwise cpu_depthwise_avx2 cpu_dimensions cpu_decoders cpu_bf16 cpu_bf16_avx2 cpu_fp16 cpu_fp16_avx2 \
	  cpu_grouped cpu_grouped_avx2; do \
	  cp results/$$run/result.json bench/results/$$run.json || exit 1; done
	$(PY) -m convbound.bench report bench/results/cpu.json --readme README.md
	$(PY) -m convbound.bench means docs/cpu.md bench/results/cpu*.json
	$(PY) -m convbound.bench train --document docs/cpu.md

# Depthwise layers of MobileNetV2, EfficientNet-B0, ConvNeXt-T and RepLKNet-31B, DeepLab's rates, a causal sequence.
TRACED := mb32g32ic32ih112oc32kh3ph1 mb32g96ic96ih112oc96kh3sh2ph1 mb32g144ic144ih56oc144kh3ph1 \
  mb32g192ic192ih28oc192kh3ph1 mb32g576ic576ih14oc576kh3ph1 mb32g576ic576ih14oc576kh3sh2ph1 mb32g960ic960ih7oc960kh3ph1 \
  mb32g144ic144ih56oc144kh5sh2ph2 mb32g240ic240ih28oc240kh5ph2 mb32g672ic672ih14oc672kh5ph2 mb32g1152ic1152ih7oc1152kh5ph2 \
  mb32g96ic96ih56oc96kh7ph3 mb32g192ic192ih28oc192kh7ph3 mb32g384ic384ih14oc384kh7ph3 mb32g768ic768ih7oc768kh7ph3 \
  mb32g128ic128ih56oc128kh31ph15 mb32g256ic256ih28oc256kh29ph14 mb32g512ic512ih14oc512kh27ph13 mb32g1024ic1024ih7oc1024kh13ph6 \
  mb32g256ic256ih33oc256kh3ph6dh6 mb32g256ic256ih33oc256kh3ph12dh12 mb32g256ic256ih33oc256kh3ph18dh18 \
  mb32g256ic256ih33oc256kh3ph36dh36 mb32g1024ic1024iw2048oc1024kw4pw3ew0
TRACED_STEPS := mb32g144ic144ih56oc144kh3ph1 mb32g96ic96ih56oc96kh7ph3
TRACE = $(PY) -m convbound.bench --trace --dtype fp16 --out results/traffic/$(1) --table

.PHONY: traffic
traffic: setup ## repeat the traces of the CUDA kernels: the tables of docs/traffic.md and docs/depthwise.md
	$(call TRACE,step0) 'docs/traffic.md#step0' --kernel naive \
	  --problem mb2g144ic144ih56oc144kh3ph1 mb2g96ic96ih56oc96kh7ph3
	$(call TRACE,coalesced) 'docs/depthwise.md#coalesced' --pass fprop --layout NHWC \
	  --kernel depthwise_fprop_nhwc_general --problem $(TRACED_STEPS)
	$(call TRACE,window) 'docs/depthwise.md#window' --pass fprop --layout NCHW \
	  --kernel depthwise_fprop_nchw_tiled --problem $(TRACED_STEPS)
	$(call TRACE,planes) 'docs/depthwise.md#planes' --pass fprop --layout NCHW \
	  --kernel depthwise_fprop_nchw_bands --problem $(TRACED_STEPS)
	$(call TRACE,toeplitz) 'docs/depthwise.md#toeplitz' --pass fprop --layout NCHW \
	  --kernel depthwise_fprop_nchw_toeplitz --problem mb32g128ic128ih56oc128kh31ph15
	$(call TRACE,layers) 'docs/depthwise.md#layers' --problem $(TRACED)

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
$(STAMPS)/environment: pyproject.toml $(CONSTRAINTS) | prerequisites
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  || { echo "convbound needs $(PYTHON)'s venv module (Debian: apt-get install python3-venv)"; exit 1; }
	[ -x $(PY) ] || $(PYTHON) -m venv .venv
	$(PIP) install --quiet --constraint $(CONSTRAINTS) "$(TORCH)" "setuptools>=77" ninja "pybind11>=3.0"
	@mkdir -p $(@D) && touch $@

# A CUDA build of torch brings no nvcc; pip has one.
$(STAMPS)/built: $(STAMPS)/environment $(SOURCES)
	@nvcc=$$($(PY) csrc/build_tools.py) && { [ -z "$$nvcc" ] || $(PIP) install --quiet "$$nvcc"; }
	$(PIP) install --quiet --constraint $(CONSTRAINTS) --no-build-isolation --editable ".[bench,test]"
	@mkdir -p $(@D) && touch $@
	@$(PY) -m convbound

$(STAMPS)/dev: $(STAMPS)/built
	$(PIP) install --quiet --constraint $(CONSTRAINTS) $$($(PY) -c 'import tomllib as t; print(*t.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["dev"])')
	@touch $@
else
$(STAMPS)/built: $(SOURCES) | prerequisites
	@for module in torch setuptools ninja pybind11 pytest; do $(PY) -c "import $$module" 2>/dev/null \
	  || { echo "ENV=active downloads nothing, but $(PY) has no $$module"; exit 1; }; done
	$(PIP) install --quiet --no-index --no-deps --no-build-isolation --editable .
	@mkdir -p $(@D) && touch $@
	@$(PY) -m convbound

$(STAMPS)/dev: $(STAMPS)/built
	@touch $@
endif
