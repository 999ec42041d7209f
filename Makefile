# Every target stands alone on a fresh clone: Python 3.11+ and make are all it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test lint bench bench-record sim clean

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(STAMP)   ## three daemons, three engines, one killed
	@$(BIN)/python -m examples.demo

test: $(STAMP)   ## everything within ten minutes on two cores
	$(BIN)/python -m pytest -q

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)  ## a table of ratios; JSON=1 for JSON
	$(BIN)/python -m tests.bench $(if $(JSON),--json)

bench-record: $(STAMP)  ## what the record costs; KILLS=100 to lose the leader more often
	$(BIN)/python -m tests.bench.record $(if $(JSON),--json) $(if $(KILLS),--kills $(KILLS))

sim: $(STAMP)    ## 1,000 simulated members, 60 virtual seconds
	$(BIN)/python -m tests.sim.thousand

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
