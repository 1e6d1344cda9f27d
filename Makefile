# Everything a fresh machine needs: Python >= 3.10 with venv, pip and make.
#   make demo    set up, generate the built-in data set, train, evaluate, export, draw
#   make test    set up, run the tests in JOBS=2 processes
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
DEMO ?= output/demo
JOBS ?= 2
STREETS := $(or $(DETECTRON2_DATASETS),datasets)/streets

.PHONY: demo test lint setup clean
.DEFAULT_GOAL := help

.PHONY: help
help:
	@sed -n 's/^#  *make/make/p' Makefile

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "densekit needs Python 3.10 or newer; run make PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@

demo: setup
	$(RUN) datasets/make_streets.py --root $(STREETS)
	$(RUN) train_net.py --config-file configs/quickstart/mask_rcnn_R_18_FPN_streets.yaml --resume OUTPUT_DIR $(DEMO)
	$(RUN) -m densekit.formats.overlays --dataset streets_val --count 8 --ground-truth --output $(DEMO)/overlays \
		--predictions $(DEMO)/inference/streets_val/coco_instances_results.json
	@echo "predictions  $(DEMO)/inference/streets_val/coco_instances_results.json"
	@echo "pictures     $(DEMO)/overlays"
	@echo "metrics      $(DEMO)/metrics.json (tensorboard --logdir $(DEMO))"
	@echo "weights      $(DEMO)/model_final.pth"

test: setup
	$(RUN) -m pytest -n $(JOBS) --dist loadfile

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info
