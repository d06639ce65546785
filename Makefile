# Needs Python 3.11 (or 3.10, 3.12...) and nothing else: everything goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

LOWEST := .venv-lowest
CLIENTS := .venv-clients
PACKAGING := .venv-package

# A process for each core; tests that share a fixture run in the same one (tests/conftest.py).
PARALLEL ?= --numprocesses logical --maxprocesses 8 --dist loadscope

.PHONY: demo test test-lowest coverage notebooks picture docs package bench clients lint format clean

demo: $(READY)  ## three runs on real data: equal weights, standardised by hand, learned weights
	$(BIN)/lightning-uncertainty demo

test: $(READY)  ## all tests, the doctests and the README's code
	$(BIN)/python -m pytest $(PARALLEL)

# Old packages warn about what newer ones changed; only our own warnings stay errors. The notebooks and the page of what
# is compatible are those of the tested versions, and FSDP2 of torch 2.5 does not run on a CPU.
test-lowest: $(LOWEST)/.ready  ## the tests with the lowest versions that pyproject.toml allows (about 5 GB of torch)
	$(LOWEST)/bin/python -m pytest $(PARALLEL) -W default -W error::lightning_uncertainty.UncertaintyWarning \
		--ignore tests/docs/test_notebooks.py --ignore tests/docs/test_compatibility.py --ignore tests/trainer/test_sharded.py \
		--deselect "tests/benchmarks/test_gpu_distributed.py::test_a_case_that_needs_no_gpu_trains_and_its_ranks_agree[fsdp2]"

coverage: $(READY)  ## all tests, and the part of the package's lines that they run in this process and its workers
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report term:skip-covered

notebooks: $(READY)  ## run the notebooks and write their outputs into them (one minute)
	$(BIN)/ruff format notebooks
	$(BIN)/python notebooks/execute.py

picture: $(READY)  ## the picture of the README, from a real run (15 seconds)
	$(BIN)/python docs/examples/readme_picture.py

docs: $(READY)  ## the site: guides, and the reference from the docstrings, in docs_output/; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -q docs docs_output
	@echo docs_output/index.html

# The wheel is built from the sdist. Pyroma wants an address for mail; the developers are asked by issues.
package: $(PACKAGING)/.ready  ## what is published, in dist/, and checked as an index checks it
	rm -rf dist
	$(PACKAGING)/bin/python -m build --no-isolation
	$(PACKAGING)/bin/twine check --strict dist/*
	$(PACKAGING)/bin/check-wheel-contents dist/*.whl
	$(PACKAGING)/bin/pyroma --min 10 --skip-tests AuthorEmail dist/*.tar.gz

bench: $(READY)  ## what the plugin costs: prints the tables and writes benchmarks/RESULTS.md (8 minutes)
	$(BIN)/python -m benchmarks

clients: $(CLIENTS)/.ready  ## other people's models with and without learned weights: experiments/clients/RESULTS.md (20 minutes)
	$(CLIENTS)/bin/python -m experiments.clients

lint: $(READY)  ## style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv $(LOWEST) $(CLIENTS) $(PACKAGING) dist *_output

# torch goes first and alone: asked for together with the rest, pip may look for another build of it.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,evidence]"
	touch $(READY)

$(LOWEST)/.ready: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --constraint constraints-lowest.txt torch
	$(LOWEST)/bin/python -m pip install --quiet --constraint constraints-lowest.txt --editable ".[dev]"
	touch $(LOWEST)/.ready

# Seven libraries and what they import (2.6 GB, 2 minutes).
$(CLIENTS)/.ready: constraints.txt experiments/clients/requirements.txt
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --constraint constraints.txt torch
	$(CLIENTS)/bin/python -m pip install --quiet --no-deps --requirement experiments/clients/requirements.txt
	$(CLIENTS)/bin/python -m pip install --quiet --no-deps --no-build-isolation matcha-tts==0.0.7.2
	$(CLIENTS)/bin/python -m pip install --quiet --no-deps --editable .
	touch $(CLIENTS)/.ready

$(PACKAGING)/.ready: constraints.txt
	$(PYTHON) -m venv $(PACKAGING)
	$(PACKAGING)/bin/python -m pip install --quiet --constraint constraints.txt build check-wheel-contents hatchling pyroma "readme_renderer[md]" twine
	touch $(PACKAGING)/.ready
