# What people type. `make` alone lists it.

# cargo, wherever rustup put it and whether or not this shell has read its profile.
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)

STEP := scripts/step
BUILT := $(or $(CARGO_TARGET_DIR),target)

# The order of the steps is their meaning, and cargo uses every processor by itself.
.NOTPARALLEL:

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: ## a researcher's session from login to result, in a temporary folder, with the real Docker client
	@scripts/setup
	@scripts/with-engine scripts/demo

.PHONY: test
test: ## every check and every test; installs what is missing and starts an engine if none runs
	@$(STEP) "test" $(MAKE) --no-print-directory setup lint with-engine-test

.PHONY: bench
bench: ## speed, beside nginx, distribution, openssl and Docker by hand; ONLY="push-1gib …", WITHOUT=distribution, ROUNDS=1, STRICT=1
	@scripts/setup bench
	@$(STEP) "build" cargo build --release --locked --package torno --package torno-bench --bins
	@scripts/with-engine $(BUILT)/release/torno-bench $(foreach name,$(ONLY),--only $(name)) $(foreach name,$(WITHOUT),--without $(name)) $(ROUNDS:%=--rounds %) \
		$(DISTRIBUTION:%=--distribution %) $(if $(STRICT),--strict)

.PHONY: crash
crash: ## 200 kills and 12 power cuts under load, and whether anything promised was lost; KILLS=1000, POWER=0, SEED=7, WITHOUT=engine
	@scripts/setup
	@$(STEP) "build" cargo build --release --locked --package torno --package torno-crash --bins
	@$(if $(filter engine,$(WITHOUT)),,scripts/with-engine) $(BUILT)/release/torno-crash \
		$(if $(filter engine,$(WITHOUT)),,--engine unix:///var/run/docker.sock) $(KILLS:%=--kills %) $(POWER:%=--power %) $(SEED:%=--seed %)

.PHONY: build
build: ## the binary, optimised: target/release/torno
	@$(STEP) "build" cargo build --release --locked --bin torno

.PHONY: fuzz
fuzz: ## every parser of a stranger's bytes, a minute each, on the nightly toolchain
	@$(STEP) "fuzz" scripts/fuzz

.PHONY: lint
lint: ## formatting, clippy and the documentation, with every warning an error
	@$(STEP) "format" cargo fmt --all --check
	@$(STEP) "clippy" cargo clippy --workspace --all-targets -- -D warnings
	@RUSTDOCFLAGS=-Dwarnings $(STEP) "documentation" cargo doc --workspace --no-deps --quiet

.PHONY: race
race: ## a minute of pushes, mounts, deletions and gc at once, and every order of their steps; RACE=60
	@scripts/setup
	@$(STEP) "build" cargo build --locked --bin torno
	@TORNO_RACE=$(or $(RACE),60) TORNO_ORDERS=all $(STEP) "race" scripts/with-engine cargo nextest run --locked \
		-p torno-tests -p torno-registry --no-capture a_stored_manifest no_order_of_steps

.PHONY: setup
setup:
	@scripts/setup

# The parts of `test` that need an engine, and those that follow them.
.PHONY: with-engine-test
with-engine-test:
	@scripts/with-engine $(MAKE) --no-print-directory engine-test

.PHONY: engine-test
engine-test:
	@$(STEP) "build" cargo build --bin torno
	@$(STEP) "tests" scripts/tests
	@$(STEP) "breast-cancer example" examples/breast-cancer/check
