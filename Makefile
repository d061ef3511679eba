# make demo: train, cut and score a family on synthetic digits (no download but packages)
# make test: run the tests
VENV ?= .venv
PYTHON_CANDIDATES := python3 python3.12 python3.13 \
	$(wildcard $(HOME)/.pyenv/versions/3.12*/bin/python3) \
	$(wildcard $(HOME)/.pyenv/versions/3.13*/bin/python3)
PYTHON = $(shell for p in $(PYTHON_CANDIDATES); do \
	$$p -c 'import sys, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 12), (3, 13)))' \
	2>/dev/null && echo $$p && break; done)

.PHONY: demo test lint clean
demo: $(VENV)/installed
	$(VENV)/bin/espnet-dynsize demo --corpus digits

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

$(VENV)/installed: setup.py
	@test -n "$(PYTHON)" || { echo "Install Python 3.12 or 3.13 with venv (for example" \
		"'pyenv install 3.12', or 'apt install python3.12-venv')." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q --upgrade pip
	$(VENV)/bin/pip install -q -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
