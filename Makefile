# make demo   set up and run the main job      make test   set up and run every test
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test clean

demo: $(VENV)/.demo
	$(BIN)/eas-export demo

test: $(VENV)/.ready
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

$(VENV)/.demo: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	$(INSTALL) -e '.[cpu]'
	touch $@

$(VENV)/.ready: $(VENV)/.demo
	$(INSTALL) -e '.[cpu,rtx,test]'
	touch $@

clean:
	rm -rf $(VENV) eas-demo
