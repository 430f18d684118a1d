# Everything one can do here; `make help` lists it.
PYTEST = .venv/bin/python -m pytest
export CUTAWAY_REQUIRE_PEERS

.PHONY: help setup dev peers hello test test-vm test-vm-all crash check format protos bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## .venv with Cutaway and what it needs
	@tools/venv.sh

dev: ## .venv with what tests and checks need as well
	@tools/venv.sh dev

peers: dev ## unpack the real docker, containerd, runc, ... into .peers
	@.venv/bin/python tools/peers.py

hello: setup ## set up, start the daemons if none is listening, run hello-world
	@.venv/bin/cutaway daemon start
	.venv/bin/cutaway run hello-world
	.venv/bin/cutaway ps -a

test: dev peers ## all tests, real peers included
	@$(PYTEST) -n 2 --dist loadgroup $(ARGS)

test-vm: dev peers ## boot a kernel with cgroup v2 only under qemu and run tests in it
	@.venv/bin/python -m tools.vm $(ARGS)

test-vm-all: dev peers ## in that machine all tests of the runtime and the shim as well: slow
	@.venv/bin/python -m tools.vm --all $(ARGS)

check: dev ## ruff, mypy --strict, import directions, generated code
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy src tools tests bench
	.venv/bin/python tools/generate_protos.py --check
	@$(PYTEST) -q tests/unit/test_import_direction.py

format: dev ## let ruff rewrite what it can
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

protos: dev ## regenerate src/cutaway/pb from proto/
	.venv/bin/python tools/generate_protos.py

crash: dev peers ## kill daemons at random, ROUNDS=100 times, and look whether all fits together
	@CUTAWAY_CRASH_ROUNDS=$(or $(ROUNDS),100) CUTAWAY_CRASH_SEED=$(or $(SEED),$(shell date +%F)) \
		$(PYTEST) tests/crash/test_random_walk.py -n 0 -s $(ARGS)

bench: dev peers ## side by side with the real parts: table, and bench/results/latest.md
	.venv/bin/python -m bench $(ARGS)

clean: ## remove what the targets above made
	rm -rf .venv .peers .mypy_cache .ruff_cache .pytest_cache src/*.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
