# Everything runs in .venv, which the first command makes. `make PYTHON=python3.12 run` picks another Python.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Most tests keep one core busy. TESTS= runs them one after the other, in one process.
TESTS ?= -n 2 --dist worksteal

# Both: the first holds for what is installed and, in an older pip, for what packages are built with; a newer pip asks
# the second for that. `-c` alone would leave the newest setuptools to build what comes as source.
LOCKED := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt

# uv does not read pip's configuration: where pip is told of an index or of find-links, uv is told the same.
pip_setting = $(shell $(BIN)/pip config list | sed -n "s/^[^ ]*\.$(1)='\(.*\)'$$/\1/p" | head -n 1)
told = $(if $(call pip_setting,$(1)),$(2)="$(call pip_setting,$(1))")
UV = $(call told,find-links,UV_FIND_LINKS) $(call told,index-url,UV_DEFAULT_INDEX) $(BIN)/uv --quiet

.PHONY: run install test test-slow bench bench-gpu check check-newest check-floors check-dist lock dist format

run: install
	$(BIN)/python -m summarizer.run

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; say which: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(LOCKED) $(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

test: install
	$(BIN)/python -m pytest $(TESTS)

test-slow: install
	$(BIN)/python -m pytest $(TESTS) -m slow

bench: install
	$(BIN)/python experiments/training_throughput/measure.py $(ARGS)

bench-gpu: install
	$(BIN)/python experiments/gpu/run.py $(ARGS)

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py tests/test_private_names.py

# The newest release of everything within pyproject.toml's ranges; no pre-release where there is a release.
check-newest: install
	$(UV) venv --clear --python $(BIN)/python .venv-newest
	$(UV) pip install --python .venv-newest/bin/python --upgrade -e '.[dev]'
	.venv-newest/bin/python -m pytest -m versions

# The oldest release that pyproject.toml claims of everything it names, compared before and after: whatever installs
# into the environment later would quietly bring the newest back.
check-floors: install
	$(UV) venv --clear --python $(BIN)/python .venv-floors
	$(UV) pip install --python .venv-floors/bin/python --resolution lowest-direct -e '.[dev]'
	.venv-floors/bin/python .ci/installed.py floors
	.venv-floors/bin/python -m pytest -m versions
	.venv-floors/bin/python .ci/installed.py floors

# Both archives; the wheel is built from the sdist.
dist: install
	rm -rf dist
	$(BIN)/python -m build --no-isolation

check-dist: dist
	$(UV) venv --clear --python $(BIN)/python .venv-dist
	$(UV) pip install --python .venv-dist/bin/python --constraints constraints.txt dist/*.whl
	.ci/run-installed .venv-dist

# Neither this machine's wheels nor an index's address belong into the file.
lock: $(BIN)/uv
	env -u UV_FIND_LINKS $(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 --all-extras --upgrade \
		--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' pyproject.toml --output-file constraints.txt

# Not by `install`, which may be what a new lock is to mend.
$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(LOCKED) $(BIN)/pip install --quiet --disable-pip-version-check uv

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
