# The study's commands; `make help` lists them. Nothing here knows more than `python -m samlib`.
PYTHON  ?= python3
PROFILE ?= quick
RESULTS ?= results
EXECUTOR ?= local
KEEP    ?= build/gpu
KILLS   ?= 50
CASES   ?= 1000
VENV    ?= .venv
# Of a campaign only where it is given: its default is one run per core.
AT_ONCE := $(if $(WORKERS),--workers $(WORKERS))
WORKERS ?= 2
TORCH   ?= 2.5.1
SAMLIB  := $(VENV)/bin/python -m samlib
READY   := $(VENV)/.installed

PYTEST  := $(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder --max-worker-restart 0 --durations=25

.PHONY: help install reproduce book smoke lint test test-fast test-torch torture bench gpu-plan readme clean

help: ## list these commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	  -c constraints.txt -e '.[test]'
	@touch $(READY)

install: $(READY) ## make .venv with the pinned versions

reproduce: $(READY) ## regenerate every result of PROFILE (quick), then the book; WORKERS: runs at once; EXECUTOR=ray: on a cluster
	$(SAMLIB) reproduce --profile $(PROFILE) --results $(RESULTS) --executor $(EXECUTOR) $(AT_ONCE)

book: $(READY) ## build the book from the records that are there; trains nothing
	$(SAMLIB) book --results $(RESULTS)

smoke: $(READY) ## the smoke profile through every notebook and the book, in build/smoke
	rm -rf build/smoke
	$(SAMLIB) reproduce --profile smoke --results build/smoke/results --book build/smoke/book $(AT_ONCE)

lint: $(READY) ## style, security rules, and types of the rooms that decide a run
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test: lint ## lint and every test, the slowest ones printed
	$(PYTEST)

test-fast: lint ## lint and the tests of a few seconds: the loop while working
	$(PYTEST) -m "not slow"

test-torch: ## the tests of the step with another PyTorch, TORCH (2.5.1, or newest), in build
	$(PYTHON) -m venv build/torch-$(TORCH)
	build/torch-$(TORCH)/bin/python -m pip install --quiet --disable-pip-version-check \
	  torch$(if $(filter newest,$(TORCH)),,==$(TORCH)) torchvision -e '.[light]'
	build/torch-$(TORCH)/bin/python -m pytest tests/sam

torture: $(READY) ## CASES of bad input of every kind, then campaigns killed KILLS times and damaged
	SAMLIB_FUZZ=$(CASES) $(PYTEST) tests/cli/test_fuzz.py
	$(VENV)/bin/python tests/torture.py --kills $(KILLS)

bench: $(READY) ## time steps, epochs, augmentation against floor and peers; packing and growth
	$(SAMLIB) bench step --profile $(PROFILE) --rounds 60
	$(SAMLIB) bench family --profile $(PROFILE) --rounds 60
	$(SAMLIB) bench step --model resnet56
	$(SAMLIB) bench step --model wrn16_4
	$(SAMLIB) bench step --model vit_t --rounds 10
	$(SAMLIB) bench epoch --images 512
	$(SAMLIB) bench augment --images 512
	$(SAMLIB) bench networks
	$(SAMLIB) bench packing
	$(SAMLIB) bench growth

gpu-plan: $(READY) ## on a GPU: its tests, calibration, records of cifar100-45k, benches; continues in KEEP
	PYTHON=$(VENV)/bin/python KEEP=$(KEEP) tools/gpu_plan.sh $(STAGES)

readme: $(READY) ## put the headline of the leading profile, or of PROFILE, into README.md
	$(SAMLIB) readme --results $(RESULTS) $(if $(filter file,$(origin PROFILE)),,--profile $(PROFILE))

clean: ## remove what was built, never results (those of gpu-plan are in build/gpu)
	rm -rf $(filter-out build/gpu,$(wildcard build/*)) book/_build
