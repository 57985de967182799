# Everything runs in .venv, which is made when it is first needed and filled anew when setup.cfg or constraints.txt change.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
INSTALL = .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable
WANTED = setup.cfg pyproject.toml constraints.txt

.PHONY: demo test lint

demo: .venv/has-stpredict
	.venv/bin/python tools/demo.py

test: .venv/has-tests
	.venv/bin/python -m pytest

lint: .venv/has-tests
	.venv/bin/ruff check
	.venv/bin/mypy
	.venv/bin/lint-imports

.venv/made:
	$(PYTHON) -m venv .venv
	touch $@

.venv/has-stpredict: .venv/made $(WANTED)
	$(INSTALL) .
	touch $@

.venv/has-tests: .venv/made $(WANTED)
	$(INSTALL) '.[test,track,radar,onnx,hub]'
	touch $@ .venv/has-stpredict
