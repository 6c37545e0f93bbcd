# Every target makes the virtual environment it needs; nothing has to be installed by hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest $(TESTS)
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
# uv installs in seconds and builds source packages apart from what the environment already holds.
UV := $(BIN)/uv pip install --python $(BIN)/python --compile-bytecode -c constraints.txt
INPUTS := pyproject.toml setup.py constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-jax test-torch test-all test-parity lint format bench fidelity constraints clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22
	@echo "  make test TESTS=tests/layers: these tests alone, with any of the test targets"

demo: $(VENV)/.demo  ## real images to a trained, evaluated, served model, under 10 minutes on two cores
	$(BIN)/python -m demo.digits

test: $(VENV)/.test  ## the test suite on TensorFlow
	$(PYTEST)

test-jax: $(VENV)/.test  ## the backend-neutral tests on JAX
	KERAS_BACKEND=jax $(PYTEST)

test-torch: $(VENV)/.torch  ## the backend-neutral tests on PyTorch
	KERAS_BACKEND=torch $(PYTEST)

test-all: $(VENV)/.test  ## every registry name through every contract, and the slow tests
	$(PYTEST) -m 'not parity'

test-parity: $(VENV)/.parity  ## beside code that others wrote: official models, TFDS, PyTorch, Apache Beam, ONNX
	$(PYTEST) -m parity

lint: $(VENV)/.test  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.test  ## ruff: mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.parity  ## measured ratios, side by side
	$(BIN)/python -m benchmarks

fidelity: $(VENV)/.test  ## docs/fidelity.md: the papers' figures beside ours
	$(BIN)/python -m benchmarks.fidelity docs/fidelity.md

constraints: $(BIN)/uv  ## resolve constraints.txt again from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-annotate --no-header pyproject.toml -o constraints.txt

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache build *.egg-info

# Stamps: an environment is installed again only when what describes it has changed.
$(BIN)/python:
	@echo "Making the virtual environment $(VENV) ..."
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 14); sys.exit(None if ok else "tfvt needs Python 3.11 to 3.13, this is " + sys.version.split()[0] + ": call make PYTHON=python3.12 (or another) ...")'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(BIN)/uv: constraints.txt | $(BIN)/python
	@$(PIP) --quiet uv
	@touch $@

$(VENV)/.demo: $(INPUTS) | $(BIN)/uv
	@echo "Installing tfvt with what the demo needs into $(VENV) (TensorFlow is large) ..."
	@$(UV) -e '.[demo]'
	@touch $@

$(VENV)/.test: $(INPUTS) | $(BIN)/uv
	@echo "Installing tfvt with what the tests need into $(VENV) (TensorFlow and JAX are large) ..."
	@$(UV) -e '.[dev,jax]'
	@touch $@

# By pip, whose configuration may name a build of PyTorch for this machine's processor; uv does not read that.
$(VENV)/.torch: $(VENV)/.test
	@echo "Installing PyTorch into $(VENV) ..."
	@$(PIP) torch
	@touch $@

$(VENV)/.parity: $(VENV)/.torch
	@echo "Installing official models, TFDS, Apache Beam, transformers and ONNX into $(VENV) ..."
	@$(UV) -e '.[parity,official,tfds,beam,export,detection]'
	@touch $@
