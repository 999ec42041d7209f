# Every target stands alone on a fresh clone: Python 3.11+ and make are all it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# Tests start hundreds of daemons and commands.  Where the environment forbids bytecode to be kept, each
# of them would compile meshd anew, which takes as long as all else that it does.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test lint bench bench-record sim-record sim sim-members chaos clean

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(STAMP)   ## three daemons, three engines, one killed
	@$(BIN)/python -m examples.demo

# Three files of real daemons at a time, since those mostly wait; by themselves the ones that listen to
# real multicast or make networks of their own.  Each step runs, whatever became of the one before.
# Files stay whole: some tests count what others did.
ALONE := tests/e2e/test_mdns.py tests/e2e/test_netns.py
test: $(STAMP)   ## everything within ten minutes on two cores
	@failed=0; \
	$(BIN)/python -m pytest -q -n logical --maxprocesses 8 --dist loadfile --ignore tests/e2e \
		|| failed=1; \
	$(BIN)/python -m pytest -q -n 3 --dist loadfile tests/e2e $(ALONE:%=--ignore %) || failed=1; \
	$(BIN)/python -m pytest -q $(ALONE) || failed=1; \
	exit $$failed

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)  ## a table of ratios; JSON=1 for JSON
	$(BIN)/python -m tests.bench $(if $(JSON),--json)

bench-record: $(STAMP)  ## what the record costs; KILLS=100 to lose the leader more often
	$(BIN)/python -m tests.bench.record $(if $(JSON),--json) $(if $(KILLS),--kills $(KILLS))

sim-record: $(STAMP)  ## the record under faults, by seed; SEEDS=1000 FROM=0 FOR_S=120
	$(BIN)/python -m tests.sim.seeds $(if $(SEEDS),--seeds $(SEEDS)) $(if $(FROM),--from $(FROM)) \
		$(if $(FOR_S),--for-s $(FOR_S))

sim: $(STAMP)    ## whole nodes under faults, by seed; SEEDS=1000 FROM=0 FOR_S=120
	$(BIN)/python -m meshd.testing.simulation $(if $(SEEDS),--seeds $(SEEDS)) \
		$(if $(FROM),--from $(FROM)) $(if $(FOR_S),--for-s $(FOR_S))

# About three minutes: each scenario starts a mesh of its own (10 s), and heals it.
SCENARIOS ?= holder-killed entry-killed backend-frozen partition full-disk mix
chaos: $(STAMP)  ## real daemons, broken on purpose; SCENARIOS="mix zombie" DURATION=60 RATE=20 SEED=7
	@$(BIN)/meshd-chaos run $(SCENARIOS:%=--scenario %) --duration $(or $(DURATION),12) \
		--rate $(or $(RATE),8) $(if $(SEED),--seed $(SEED)) $(if $(REPORT),--report $(REPORT))

sim-members: $(STAMP) ## 1,000 simulated members, 60 virtual seconds
	$(BIN)/python -m tests.sim.thousand

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
