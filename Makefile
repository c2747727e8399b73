# make demo    pretrain on CIFAR-10 and show what was learned (about a quarter of an hour on two cores)
# make test    run the tests
# make check   lint, format and types
#
# Each is sufficient on a fresh machine with Python >= 3.11: it makes .venv and installs the package there.

export PYTHONDONTWRITEBYTECODE := # compiled modules are kept: importing torch anew takes three times as long

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test check clean

demo: $(INSTALLED)
	$(BIN)/adco demo

# Two processes of one thread each: the tests are small, and threads that wait for each other cost more than they do.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

check: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Without byte-compiling what is never imported, installation takes half the time.
$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
