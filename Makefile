# make demo    pretrain on CIFAR-10 and show what was learned (about a quarter of an hour on two cores)
# make test    run the tests
# make faults  try faults by the thousand, and write docs/reliability.md (under a quarter of an hour on two cores)
# make results list the measurements whose inputs have changed since
# make gpu     run the tests that need a GPU
# make check   check lint, format and types
# make docs    build the documentation site into site/
#
# Each works on a fresh machine with Python >= 3.11: it creates .venv and installs the package into it
# (make docs: .venv-docs, without the package and PyTorch, as the reference is read from the source).

export PYTHONDONTWRITEBYTECODE := # keep compiled modules: without them, importing torch takes three times as long

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
DOCS := .venv-docs/.installed

.PHONY: demo test faults results gpu check docs clean

demo: $(INSTALLED)
	$(BIN)/adco demo

test: $(INSTALLED)
	$(BIN)/pytest -n 2

faults: $(INSTALLED)
	rm -f benchmarks/results/faults.jsonl # rows are added to those that are there
	ADCO_FAULTS=1 $(BIN)/pytest -n 2 --dist worksteal -m fault
	$(BIN)/python tests/faults/table.py

results: $(INSTALLED)
	$(BIN)/python benchmarks/changed.py

gpu: $(INSTALLED)
	ADCO_GPU=1 $(BIN)/pytest tests/gpu

check: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

# --no-compile halves the installation time: most modules are never imported, so compiling them is wasted.
$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[dev]'
	touch $@

# The packages of the extra `docs` alone: '.[docs]' would also install PyTorch, which building the site does not need.
$(DOCS): pyproject.toml
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -c 'import tomllib; \
	  print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' \
	  > .venv-docs/requirements.txt
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check --requirement .venv-docs/requirements.txt
	touch $@

clean:
	rm -rf .venv .venv-docs site .pytest_cache .mypy_cache .ruff_cache .hypothesis
