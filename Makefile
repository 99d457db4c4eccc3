# Two commands do everything: `make study` (the lung-disease study) and `make test` (tests, lint, types, doctests, docs).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: study test pytest test-cuda fuzz bench bench-cuda lint types docs format clean

# torch and torchvision first and by plain name: pip then takes the build that the machine offers.
# pip compiles modules on one core, compileall on all. A few files of the packages are no valid Python, which pip ignores, too.
$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile torch torchvision
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[dev]'
	$(BIN)/python -W ignore -m compileall -qq -j 0 $(VENV)/lib || true
	touch $@

study: $(VENV)/.installed
	$(BIN)/python examples/lung_disease/study.py

# Types and docs each keep one core busy. The tests start when one of them has ended, and keep all cores busy.
test: $(VENV)/.installed
	$(MAKE) --no-print-directory -j 2 lint types docs pytest

pytest: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist loadgroup --cov --cov-report=term-missing:skip-covered

# The tests that need a GPU. It installs nothing, as `bench-cuda`. The versions there are those of the machine, and may warn.
test-cuda:
	PYTHONPATH=src PYTEST_ADDOPTS="-W default" $(PYTHON) -m pytest -q -n 4 -m cuda tests/contracts/test_on_cuda.py tests/model/test_packing.py

# 10,000 damaged pictures, DICOM files and tables, and 5,000 model folders; `make test` reads a fiftieth of them.
fuzz: $(VENV)/.installed
	MMFUSION_FUZZ=10000 $(BIN)/python -m pytest -q tests/fuzz

# glibc told to keep freed buffers: by itself it gives large ones back to the kernel, which hands them out anew page by page.
bench: $(VENV)/.installed
	MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=4000000000 $(BIN)/python -m benchmarks --output runs/bench.json

# One command for a machine with a GPU. No case starts after 7 minutes. It installs nothing: PYTHON must have torch, transformers, timm,
# einops, torchmetrics, jaxtyping, typer and rich. `make bench-cuda DEVICE=cpu BACKBONES=tiny BATCH=4` tries it without a GPU.
DEVICE ?= cuda
BACKBONES ?= base
BATCH ?= 256
OUTPUT ?= runs/bench-$(DEVICE)-$(BACKBONES).json
bench-cuda:
	PYTHONPATH=src $(PYTHON) -m benchmarks --device $(DEVICE) --dtype bfloat16 --backbones $(BACKBONES) --batch-size $(BATCH) \
	  --case peers --case compiled --case latency --case gaps --case parts --case "training step" \
	  --case "text tower" --case "fused forward" --minutes 7 --keep-going --output $(OUTPUT)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.installed
	$(BIN)/mypy

docs: $(VENV)/.installed
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) docs/_build docs/api .mypy_cache .pytest_cache .ruff_cache .hypothesis
