# Every target makes the virtual environment that it needs. You install nothing by hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests run in that many processes, of at most 3 GB each; 0: in one.
PROCESSES ?= 2
PYTEST := $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile $(TESTS)
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
# uv installs in seconds. It builds source packages in isolation from what the environment already holds.
UV := $(BIN)/uv pip install --python $(BIN)/python --compile-bytecode -c constraints.txt
INPUTS := pyproject.toml setup.py constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo demo-segmentation demo-detection demo-detection-masks test test-jax test-torch test-all test-distributed test-parity lint format bench bench-compare models fidelity docs constraints clean

help:  ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 26
	@echo "  make test TESTS=tests/layers: run only these tests; this works with every test target"

demo: $(VENV)/.demo  ## go from real images to a trained, evaluated, served model, in under 10 minutes on two cores
	$(BIN)/python -m demo.digits

demo-segmentation: $(VENV)/.demo  ## train an FPN and a VT-FPN on images with masks, and draw what they answer
	$(BIN)/python -m demo.segmentation

demo-detection: $(VENV)/.test  ## train a RetinaNet with ACmix on images with boxes, and draw what it finds
	$(BIN)/python -m demo.detection

demo-detection-masks: $(VENV)/.test  ## the same with a Mask R-CNN, which also finds masks
	$(BIN)/python -m demo.detection masks

test: $(VENV)/.test  ## run the test suite on TensorFlow
ifdef TESTS
	$(PYTEST)
else  # two halves: TensorFlow keeps some megabytes of every program that it compiles
	$(PYTEST) --ignore=tests/trainers; first=$$?; $(PYTEST) tests/trainers && exit $$first
endif

test-jax: $(VENV)/.test  ## run the backend-neutral tests on JAX
	KERAS_BACKEND=jax $(PYTEST)

test-torch: $(VENV)/.torch  ## run the backend-neutral tests on PyTorch
	KERAS_BACKEND=torch $(PYTEST)

test-all: $(VENV)/.export  ## also run the slow tests and every registry name through every contract
	$(PYTEST) -m 'not parity and not distributed'

test-distributed: $(VENV)/.test  ## train with several devices, processes and engines, and kill some of them
	$(PYTEST) -n 0 -m distributed

test-parity: $(VENV)/.parity  ## test against code that others wrote: official models, TFDS, PyTorch, Apache Beam, ONNX
	$(PYTEST) -m parity

lint: $(VENV)/.test  ## check rules and format with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.test  ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.parity  ## measure ratios, print them side by side, and write them to results/bench.csv
	$(BIN)/python -m benchmarks results/bench.csv

bench-compare: $(VENV)/.test  ## print what differs beyond noise between two such files: OLD=a.csv NEW=b.csv
	$(BIN)/python -m benchmarks.compare $(OLD) $(NEW)

# Shapes alone suffice for counting, and JAX finds them fastest. Speeds are measured on TensorFlow.
models: $(VENV)/.test  ## write docs/models.md and results/models.csv; SPEED=--speed measures speeds as well
	KERAS_BACKEND=$(if $(SPEED),tensorflow,jax) $(BIN)/python -m benchmarks.models docs/models.md results/models.csv $(SPEED)

fidelity: $(VENV)/.test  ## write docs/fidelity.md: the papers' figures next to ours
	$(BIN)/python -m benchmarks.fidelity docs/fidelity.md

docs: $(VENV)/.docs  ## make the documentation site build/docs; a warning or a dead link is an error
	$(BIN)/python -m sphinx -q -W --keep-going -E -b html -d build/doctrees docs build/docs
	$(BIN)/python docs/links.py build/docs

constraints: $(BIN)/uv  ## resolve constraints.txt again from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-annotate --no-header pyproject.toml -o constraints.txt

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache build *.egg-info

# Stamps: make installs an environment again only when the files that describe it have changed.
$(BIN)/python:
	@echo "Making the virtual environment $(VENV) ..."
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 14); sys.exit(None if ok else "tfvt needs Python 3.11 to 3.13, and this is " + sys.version.split()[0] + ": call make PYTHON=python3.12 (or another) ...")'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(BIN)/uv: constraints.txt | $(BIN)/python
	@$(PIP) --quiet uv
	@touch $@

$(VENV)/.demo: $(INPUTS) | $(BIN)/uv
	@echo "Installing tfvt with what the demo needs into $(VENV) (TensorFlow is large) ..."
	@$(UV) -e '.[demo]'
	@touch $@

$(VENV)/.docs: $(INPUTS) | $(BIN)/uv
	@echo "Installing tfvt with what its documentation needs into $(VENV) (TensorFlow is large) ..."
	@$(UV) -e '.[docs]'
	@touch $@

$(VENV)/.test: $(INPUTS) | $(BIN)/uv
	@echo "Installing tfvt with what the tests need into $(VENV) (TensorFlow and JAX are large) ..."
	@$(UV) -e '.[dev,jax,detection]'
	@touch $@

$(VENV)/.export: $(VENV)/.test
	@echo "Installing the runtimes that tfvt exports to into $(VENV) ..."
	@$(UV) -e '.[export]'
	@touch $@

# This uses pip: its configuration may name a build of PyTorch for this machine's processor. uv does not read that.
$(VENV)/.torch: $(VENV)/.test
	@echo "Installing PyTorch into $(VENV) ..."
	@$(PIP) torch
	@touch $@

# torchvision is compiled for CUDA. Beside PyTorch without it, it would keep transformers from importing; so it stands in
# a folder of its own, where benchmarks/torchvision_on_cpu.py finds it.
$(VENV)/.parity: $(VENV)/.torch
	@echo "Installing official models, TFDS, Apache Beam, transformers, torchvision and ONNX into $(VENV) ..."
	@$(UV) -e '.[parity,official,tfds,beam,export]'
	@$(UV) --no-deps tensorflow-serving-api==2.21.0  # it asks for TensorFlow 2.21, and its messages need none
	@$(PIP) --quiet --no-deps --upgrade --target $(VENV)/torchvision torchvision==0.28.0
	@touch $@
