# What a person or the CI runs here. `make help` lists it.

# Where rustup puts cargo, also when it has just been installed.
CARGO_HOME ?= $(HOME)/.cargo
# Where .ci/setup puts Node.js, if the machine's own is too old.
export PATH := $(CARGO_HOME)/bin:$(CURDIR)/target/node/node_modules/.bin:$(PATH)

# How long `make demo` shows changes, and how long `make fuzz` looks for a panic.
SECONDS ?= 20
FUZZ_SECONDS ?= 60
# The servers of `make test-matrix`.
MAJORS ?= 14 15 16 17 18
# More for cargo-mutants: `make mutants MUTANTS='--file src/progress.rs'`.
MUTANTS ?=
IMAGE ?= users-sync:local

# Tests wait for their servers most of the time.
export RUST_TEST_THREADS ?= $(shell expr 2 \* `getconf _NPROCESSORS_ONLN`)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-matrix bench check lint dist image deny mutants fuzz

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is missing: PostgreSQL's server programs, compilers, Rust.
	@.ci/setup

demo: setup ## Show the main job on two throwaway servers (SECONDS=20).
	cargo run --release --locked -- demo --seconds $(SECONDS)

test: setup ## Run every test, also those against real servers and on the auth stores' own tables.
	@.ci/setup stores
	cargo test --release --locked

test-matrix: setup ## Run the tests that need servers on each PostgreSQL (MAJORS="14 18" for some of 14 to 18).
	@.ci/setup stores
	@for major in $(MAJORS); do .ci/matrix $$major || exit 1; done

bench: setup ## Measure against PostgreSQL's own logical replication on this machine.
	cargo bench --locked

check: setup ## Format check, clippy and rustdoc, warnings are errors.
	cargo fmt --check
	cargo clippy --release --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --release --no-deps --locked

lint: check

dist: setup ## Build the binary that is given to people, static where musl can be had, and print its size.
	@.ci/dist

image: ## Build the container's image with docker or buildah (IMAGE=users-sync:local).
	@.ci/image $(IMAGE)

deny: ## Hold licences, sources and duplicate versions of dependencies, and advisories where they can be fetched.
	@.ci/deny

mutants: setup ## Show that the tests of the pure modules can fail (hours; .cargo/mutants.toml says what is left out).
	@cargo mutants --version >/dev/null 2>&1 || cargo install --locked cargo-mutants
	cargo mutants $(MUTANTS)

fuzz: setup ## Feed the decoder with arbitrary bytes (FUZZ_SECONDS=60).
	@cargo fuzz --version >/dev/null 2>&1 && cargo +nightly --version >/dev/null 2>&1 || { \
	  echo "make fuzz needs nightly Rust and cargo-fuzz:"; \
	  echo "    rustup toolchain install nightly && cargo install --locked cargo-fuzz"; \
	  echo "Without them, the property tests in \`make test\` feed the same decoder."; exit 1; }
	cargo +nightly fuzz run pgoutput -- -max_total_time=$(FUZZ_SECONDS)
