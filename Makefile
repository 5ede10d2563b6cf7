# `make` lists what can be made. Everything runs in .venv, which `make env` sets up once.

PYTHON ?= python3
VENV   ?= .venv
RUN     = PATH="$(abspath $(VENV))/bin:$$PATH" PYTHONPATH="$(CURDIR)" $(VENV)/bin/python

# The torch that everything is tested with. Of its builds pip takes the one for CPU, whose version
# (+cpu) counts as newer: a tenth of the download.
TORCH       = torch==2.13.0
TORCH_INDEX = https://download.pytorch.org/whl/cpu
PACKAGES    = numpy setuptools wheel ninja pybind11 pytest pytest-benchmark captum==0.9.0 \
              scikit-learn shap==0.51.0 transformers matplotlib tqdm ruff mypy clang-format hypothesis \
              torch-abi-audit fastapi uvicorn prometheus-client
# Sentences that people have rated, for the demo; only the package's source has them.
TEXTS       = $(VENV)/vaderSentiment-3.3.2.tar.gz

# One architecture compiles quickly; wheels get setup.py's list.
export TORCH_CUDA_ARCH_LIST ?= 9.0

CXX_SOURCES = $(shell find csrc tests/native -name '*.h' -o -name '*.cpp' -o -name '*.cu')

.PHONY: help env build test demo bench accuracy lint cuda-symbols gpu-check clean

help:
	@echo "make demo          train three models, explain them, draw pictures, print timings"
	@echo "make test          all tests, with the native library and without"
	@echo "make bench         all benchmarks, and the README's table from them"
	@echo "make accuracy      errors of Shapley values per evaluation, beside shap's and Captum's"
	@echo "make lint          formatting, lint, types, compiler warnings as errors"
	@echo "make build         compile fastxai/_C.so in place (incremental)"
	@echo "make env           set up $(VENV)"
	@echo "make cuda-symbols  check that the CUDA kernels are in the library"
	@echo "make gpu-check     on a machine with a GPU and its own torch: build, tests, benchmarks"
	@echo "make clean         remove what was built"

env: $(VENV)/.ready

$(VENV)/.ready:
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install $(TORCH) --extra-index-url $(TORCH_INDEX) --retries 1
	$(VENV)/bin/pip install $(TORCH) $(PACKAGES)
	touch $@

build: env
	$(RUN) setup.py build_ext --inplace

test: build
	$(RUN) -m pytest -m "not cuda"
	FASTXAI_NATIVE=0 $(RUN) -m pytest -m "not cuda and not slow" --ignore=tests/native

demo: build $(TEXTS)
	$(RUN) examples/demo.py
	$(RUN) examples/text.py --data $(TEXTS)

$(TEXTS): | env
	$(VENV)/bin/pip download --no-deps --no-build-isolation --no-binary :all: -d $(VENV) \
	  vaderSentiment==3.3.2

bench: build
	mkdir -p build
	$(RUN) -m pytest benchmarks/bench_*.py --benchmark-json=build/benchmarks.json
	$(RUN) benchmarks/compare.py build/benchmarks.json

accuracy: build
	$(RUN) benchmarks/bench_accuracy.py
	$(RUN) benchmarks/bench_lime_accuracy.py

lint: env
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy fastxai
	$(VENV)/bin/clang-format --dry-run -Werror $(CXX_SOURCES)
	FASTXAI_WERROR=1 FASTXAI_NATIVE=1 $(RUN) setup.py build_ext --build-temp build/lint --build-lib build/lint

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
