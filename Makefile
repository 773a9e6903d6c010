# Every target makes and uses .venv in this folder; a second call installs nothing.
# Linux, a CPU only, and no several GB of CUDA packages: see "Installing" in README.md.
#   make PYTHON=python3.12 demo     another Python
#   make demo ARGS="--seeds 7 --out runs/demo-7"     more options for the command behind a target

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint requirements.lock

# Small models allocate and free the same few MB all the time. Left alone, glibc gives them back to
# the system after each step and fetches them again, page by page; see benchmarks/.
export MALLOC_MMAP_THRESHOLD_ := 1073741824
export MALLOC_TRIM_THRESHOLD_ := 1073741824
export MALLOC_TOP_PAD_ := 67108864
export TOKENIZERS_PARALLELISM := false

# A process per core, each with one thread; the tests of a file, and the cells of a notebook, stay in one process.
SIDE_BY_SIDE := -n logical --maxprocesses 8 --dist loadfile
# The longest first, so that the other core does the rest meanwhile.
BOOKS = $(filter notebooks/08%,$(ALL_BOOKS)) $(filter-out notebooks/08%,$(ALL_BOOKS))
ALL_BOOKS = $(sort $(wildcard notebooks/*.ipynb))

.PHONY: help demo test lint lab docs browser notebooks bench clean

help:            ## say what can be made
	@grep -E '^[a-z]+:.*##' Makefile | sed -e 's/:.*## */\t/' | expand -t 12

demo: $(VENV)/.core     ## compare GRPO with PSN-GRPO on both tasks (minutes); writes runs/demo
	$(BIN)/psn-tutorial compare --preset demo --out runs/demo $(ARGS)

test: $(VENV)/.full lint     ## lint, all tests, all notebooks; needs no network once installed
	@$(BIN)/python -m tests.models.smollm2
	@ls notebooks/*.ipynb >/dev/null 2>&1 || \
		{ echo "make test: notebooks/ holds no notebook to run" >&2; exit 1; }
	@echo "== the tests, side by side"
	MPLBACKEND=Agg OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -rs $(SIDE_BY_SIDE) tests $(ARGS)
	@echo "== the notebooks, side by side; a dot is a cell"
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q $(SIDE_BY_SIDE) --no-loadscope-reorder \
		--nbval --nbval-current-env --nbval-kernel-startup-timeout=600 --nbval-sanitize-with=tests/nbval_sanitize.cfg \
		-p tests.notebooks.outputs -p tests.notebooks.promises $(BOOKS)

lint: $(VENV)/.full     ## ruff, over code and notebooks; which package may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/lint-imports --no-cache --no-logo

lab: $(VENV)/.full     ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

docs: $(VENV)/.full     ## build the documentation site, build/site/html/index.html; runs no notebook, needs no network
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python docs/build.py

browser: $(VENV)/.full     ## drive JupyterLab in Chromium, where there is one: notebook 00, all cells (minutes)
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -rs tests/notebooks/lab.py

notebooks: $(VENV)/.full     ## run every notebook anew; store what it shows, and what it took
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m tests.notebooks.execute $(ARGS)

bench: $(VENV)/.full     ## the speed ratios
	@ls benchmarks/*.py >/dev/null 2>&1 || \
		{ echo "make bench: benchmarks/ holds no script" >&2; exit 1; }
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:           ## remove .venv and all caches; runs/ stays
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis *.egg-info
	find psn_tutorial tests benchmarks notebooks -name __pycache__ -prune -exec rm -rf {} +
	find notebooks -name .ipynb_checkpoints -prune -exec rm -rf {} +

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { echo "psn_tutorial needs Python 3.11 or newer, and there is \
	no $(PYTHON) here. Install it, or name yours: make PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "psn_tutorial needs \
	Python 3.11 or newer, and $(PYTHON) is `$(PYTHON) -V`. Name a newer one: make PYTHON=python3.12" \
	>&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) could not make $(VENV). On Debian and Ubuntu: \
	sudo apt install python3-venv" >&2; exit 2; }
	@touch $@

# torch first: it decides between the CPU and the CUDA build, and a failure shows early.
$(VENV)/.core: pyproject.toml requirements.lock | $(VENV)/.made
	$(INSTALL) torch
	$(INSTALL) --quiet --editable .
	@touch $@

$(VENV)/.full: $(VENV)/.core
	$(INSTALL) --quiet --editable '.[docs,notebooks,test]'
	@touch $@
