# The commands for development and CI. `make help` lists them.

# rustup installs cargo here; a new installation is not in PATH yet.
CARGO_HOME ?= $(HOME)/.cargo
# .ci/setup installs Node.js here if the system's version is too old.
export PATH := $(CARGO_HOME)/bin:$(CURDIR)/target/node/node_modules/.bin:$(PATH)

# Duration of `make demo` and of `make fuzz`. STAY=1 keeps the demo's servers until Ctrl+C, with a page for visitors.
SECONDS ?= 20
STAY ?=
FUZZ_SECONDS ?= 60
# PostgreSQL versions for `make test-matrix`.
MAJORS ?= 14 15 16 17 18
# Arguments for cargo-mutants: `make mutants MUTANTS='--file src/progress.rs'`.
MUTANTS ?=
IMAGE ?= users-sync:local

# Most tests wait for their servers, so more of them than processors can run at once.
export RUST_TEST_THREADS ?= $(shell expr 2 \* `getconf _NPROCESSORS_ONLN`)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-matrix test-full bench check lint dist packages packages-test image helm site deny mutants fuzz

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install missing build tools: PostgreSQL's server programs, PgBouncer, compilers, Rust.
	@.ci/setup

demo: ## Show replication between two throwaway servers (SECONDS=20); STAY=1 adds a page for visitors.
	@.ci/setup demo
	cargo run --profile quick --no-default-features --locked -- demo --seconds $(SECONDS) $(if $(STAY),--stay)

test: setup ## Run all tests, including those against real servers and the auth stores' own tables.
	@.ci/setup stores
	directory=$$(.ci/server-directory) && TMPDIR="$$directory" cargo test --profile quick --locked

test-matrix: setup ## Run the tests that need servers against each PostgreSQL version (MAJORS="14 18").
	@.ci/setup stores
	@for major in $(MAJORS); do .ci/matrix $$major || exit 1; done

test-full: test ## Run all tests, and those where versions differ against the oldest and the newest PostgreSQL.
	.ci/matrix 14 short
	.ci/matrix 18 short

bench: setup ## Compare with PostgreSQL's own logical replication on this machine.
	cargo bench --locked
	@.ci/setup stores
	HARM_LIMIT_MS=1000 cargo test --release --locked --test postgres -- --nocapture ddl::
	VIEW_LIMIT_MS=500 cargo test --release --locked --test console -- --nocapture every_view_shows

check: setup ## Check the format, clippy and rustdoc; warnings are errors.
	cargo fmt --check
	cargo clippy --profile quick --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --profile quick --no-deps --locked

lint: check

dist: setup ## Build the distributed binary, static if musl is available, and print its size.
	@.ci/dist

packages: ## Build tar.gz, deb, rpm, wheel, npm package, formula, SBOM and checksums (docs/PACKAGES.md).
	@.ci/packages

packages-test: ## Install each package in an empty Debian 12, and build them again: the same bytes (needs root).
	@.ci/packages-test

image: ## Build the container image with docker or buildah (IMAGE=users-sync:local).
	@.ci/image $(IMAGE)

helm: ## Test the Helm chart and kubernetes-apply.yaml without a cluster: lint, schemas, equality, refused values.
	@.ci/helm

site: ## Build the documentation site in target/site, and check its links.
	@.ci/site

deny: ## Check the dependencies' licences, sources, duplicate versions and advisories.
	@.ci/deny

mutants: setup ## Run mutation tests of the pure modules (hours; exclusions are in .cargo/mutants.toml).
	@cargo mutants --version >/dev/null 2>&1 || cargo install --locked cargo-mutants
	cargo mutants $(MUTANTS)

fuzz: setup ## Feed the decoder arbitrary bytes (FUZZ_SECONDS=60).
	@cargo fuzz --version >/dev/null 2>&1 && cargo +nightly --version >/dev/null 2>&1 || { \
	  echo "make fuzz needs nightly Rust and cargo-fuzz:"; \
	  echo "    rustup toolchain install nightly && cargo install --locked cargo-fuzz"; \
	  echo "Without them, the property tests of \`make test\` cover the same decoder."; exit 1; }
	cargo +nightly fuzz run pgoutput -- -max_total_time=$(FUZZ_SECONDS)
