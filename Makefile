# Every target makes the virtual environment it needs; nothing has to be installed by hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
INPUTS := pyproject.toml setup.py constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-jax test-torch test-all test-parity test-beam lint format bench fidelity constraints clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

demo: $(VENV)/.demo  ## real images to a trained, evaluated, served model, under 10 minutes on two cores
	$(BIN)/python -m demo.digits

test: $(VENV)/.test  ## the test suite on TensorFlow
	$(BIN)/python -m pytest

test-jax: $(VENV)/.test  ## the backend-neutral tests on JAX
	KERAS_BACKEND=jax $(BIN)/python -m pytest

test-torch: $(VENV)/.parity  ## the backend-neutral tests on PyTorch
	KERAS_BACKEND=torch $(BIN)/python -m pytest

test-all: $(VENV)/.test  ## every registry name through every contract, and the slow tests
	$(BIN)/python -m pytest -m 'not parity and not beam'

test-parity: $(VENV)/.parity  ## beside code that others wrote (PyTorch, transformers, official models, ONNX)
	$(BIN)/python -m pytest -m parity

test-beam: .venv-beam/.done  ## the conversion as an Apache Beam pipeline, in an environment of its own
	.venv-beam/bin/python -m pytest -m beam tests/tfrecords_tools/test_beam.py

lint: $(VENV)/.test  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.test  ## ruff: mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.test  ## measured ratios, side by side
	$(BIN)/python -m benchmarks

fidelity: $(VENV)/.test  ## docs/fidelity.md: the papers' figures beside ours
	$(BIN)/python -m benchmarks.fidelity docs/fidelity.md

constraints: $(VENV)/.test  ## resolve constraints.txt again from pyproject.toml
	$(PIP) uv
	$(BIN)/uv pip compile --universal --python-version 3.11 $(foreach extra,dev jax official demo parity export tfds detection,--extra $(extra)) pyproject.toml -c constraints.in -o constraints.txt --no-annotate --no-header --quiet
	$(BIN)/uv pip compile --universal --python-version 3.11 --extra dev --extra beam pyproject.toml -o constraints-beam.txt --no-annotate --no-header --quiet

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .venv-beam .pytest_cache .ruff_cache build *.egg-info

# Stamps: an environment is installed again only when what describes it has changed.
$(BIN)/python:
	@echo "Making the virtual environment $(VENV) ..."
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 14); sys.exit(None if ok else "tfvt needs Python 3.11 to 3.13, this is " + sys.version.split()[0] + ": call make PYTHON=python3.12 (or another) ...")'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.demo: $(INPUTS) | $(BIN)/python
	@echo "Installing tfvt with what the demo needs into $(VENV) (TensorFlow is large: a few minutes) ..."
	@$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/.test: $(INPUTS) | $(BIN)/python
	@echo "Installing tfvt with what the tests need into $(VENV) (TensorFlow, JAX, official models: some minutes) ..."
	@$(PIP) -e '.[dev,jax,official]'
	@touch $@

$(VENV)/.parity: $(VENV)/.test
	@echo "Installing PyTorch, transformers and ONNX into $(VENV) ..."
	@# Not the whole extra: timm needs torchvision, which has no build that loads beside a CPU build of PyTorch.
	@$(PIP) torch transformers onnx onnxruntime tf2onnx
	@touch $@

# Apache Beam and the other extras cannot share an environment: it needs protobuf 6.
.venv-beam/.done: pyproject.toml setup.py constraints-beam.txt | $(BIN)/python
	@echo "Installing tfvt with Apache Beam into .venv-beam ..."
	@$(BIN)/python -m venv .venv-beam
	@.venv-beam/bin/python -m pip install --disable-pip-version-check -c constraints-beam.txt -e '.[dev,beam]'
	@touch $@
