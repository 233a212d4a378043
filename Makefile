# make demo | test | test-long | lint | bench      INPUT=DIR: the demo on your own PubMed XML and JATS
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INPUT ?=

# Two ranks on a small machine: one thread each, or they starve each other.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test test-long lint format bench lock clean

demo: $(INSTALLED)
	$(BIN)/python launch/demo.py $(if $(INPUT),--input "$(INPUT)")

test: $(INSTALLED)
	$(BIN)/python -m pytest tests -m "not long" --numprocesses 2 --dist loadfile

# Hours of failures on purpose; its result is docs/reliability.md.
test-long: $(INSTALLED)
	$(BIN)/python -m pytest tests -m long --junitxml $(VENV)/long.xml; \
		code=$$?; $(BIN)/python -m tests.reliability_page $(VENV)/long.xml > docs/reliability.md; exit $$code

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

# torch comes first: with it there, nothing below asks for another build of it.
$(INSTALLED): requirements.lock setup.py
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { echo "python3: Python 3.11 or later is needed; install it, or set PYTHON=..."; exit 1; }
	@$(PYTHON) -c "import venv, ensurepip" 2>/dev/null || { echo "python3 has no venv; install the package python3-venv"; exit 1; }
	@$(PYTHON) -c "import os, sysconfig as s; raise SystemExit(not os.path.exists(s.get_path('include') + '/Python.h'))" || { echo "Python's headers are missing; install the package python3-dev"; exit 1; }
	@command -v g++ >/dev/null || { echo "g++ is missing; install the package g++ (DeepSpeed builds an operation on first use)"; exit 1; }
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $$(grep '^torch==' requirements.lock)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(INSTALLED)

# New versions on purpose: resolves setup.py's ranges and writes the lock. torch's build (CPU or CUDA)
# is the machine's choice, so neither its local version nor its CUDA packages are locked.
lock: $(INSTALLED)
	$(BIN)/pip install --quiet pip-tools
	echo "torch==2.13.0" > $(VENV)/constraints.txt
	$(BIN)/pip-compile --quiet --strip-extras --no-header --no-annotate --allow-unsafe --no-emit-index-url \
		--no-emit-find-links --constraint $(VENV)/constraints.txt --extra eval --extra dev \
		--output-file $(VENV)/resolved.txt setup.py
	grep -Ev '^(nvidia-|cuda-|triton)' $(VENV)/resolved.txt | sed 's/+cpu$$//' > requirements.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
