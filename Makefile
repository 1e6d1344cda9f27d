# Everything a fresh machine needs: Python >= 3.10 with venv, pip and make.
#   make demo    set up, generate the built-in data set, train, evaluate, export, draw
#   make demo SYSTEM=retinanet   the same with another system; make demo SYSTEM= lists them
#   make test    set up, run the tests in JOBS=2 processes
#   make docs    set up, build the documentation in output/site
#   make results   measure all systems' small configurations again, hours; DATA="bccd=bccd.yaml camvid=camvid.yaml"
#   make tables  write the tables of README, docs and rooms from results/*.json
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
SYSTEM ?= mask_rcnn
DEMO ?=
DATA ?=
JOBS ?= 2

.PHONY: demo test docs results tables lint setup clean
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
	@$(RUN) -m densekit demo $(if $(SYSTEM),$(SYSTEM) $(if $(DEMO),--output $(DEMO)),--list)

test: setup
	$(RUN) -m pytest -n $(JOBS) --dist loadfile

docs: setup
	@DENSEKIT_HOST=builtin NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet
	@echo "the site     output/site/index.html (for its search: $(RUN) -m http.server --directory output/site)"

results: setup
	$(RUN) benchmarks/measure.py $(if $(DATA),--data $(DATA))
	$(RUN) docs/tools/results.py

tables: setup
	$(RUN) docs/tools/results.py

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info
