# `make nightly` and `make test` are all a newcomer needs; each installs what it needs into .venv first.
# make itself can only return 0 or 2, so the main job's own exit code is printed.

PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
    $$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.installed

.PHONY: nightly test test-slow test-browser lint install clean

nightly: $(READY)
	@$(BIN)/motbench nightly; code=$$?; echo "motbench nightly: exit code $$code"; exit $$code

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --benchmark-disable

test-slow: $(READY)
	$(BIN)/python -m pytest -m "slow or not slow"

# Needs chromium, chromium-browser or google-chrome on the path (Debian: apt install chromium); pip cannot bring one.
test-browser: $(READY)
	$(BIN)/python -m pytest -m browser tests/browser

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

install: $(READY)

# The stamp is touched last: an interrupted installation is simply done again.
$(READY): requirements-ci.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or 3.12 found; install one, or name it: make PYTHON=/path/to/python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (about 2 GB with a CPU build of torch)"
	$(BIN)/python -m pip install --progress-bar off -r requirements-ci.txt
	$(BIN)/python -c 'import triton' 2>/dev/null || $(BIN)/python -m pip install --progress-bar off triton==3.6.0
	$(BIN)/python -m pip install --progress-bar off --no-deps -e .
	@touch $(READY)

clean:
	rm -rf .venv results .asv
