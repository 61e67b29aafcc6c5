# Build, run and prove sigoREST. Needs Rust, a C compiler and make; `make test` sets up the rest.

CARGO     ?= cargo
BUILD     := build
RELEASE   := $(or $(CARGO_TARGET_DIR),target)/release
# Each directory under providers/ is one plugin; its file is named by its id.
PROVIDERS := $(notdir $(patsubst %/,%,$(wildcard providers/*/)))
PACKAGES  := $(addprefix -p ,host $(PROVIDERS))
# No path of the machine that builds gets into what is built. Paths in this folder are relative already.
CARGO_DIR := $(or $(CARGO_HOME),$(HOME)/.cargo)
REMAPPED  := --remap-path-prefix=$(CARGO_DIR)=/cargo
# What a request runs lies together, as counted by `make profile`. Without the file, or in a folder whose name has a
# space, the build is as right, only slower. The sum in the flags has cargo build anew when the file is another.
PROFILE   := $(wildcard packaging/release.profdata)
ifeq ($(words $(PROFILE) $(CURDIR)),2)
LAID_OUT  := -Cprofile-use=$(CURDIR)/$(PROFILE) -Cllvm-args=-no-pgo-warn-mismatch \
             -Clink-arg=-Wl,-z,keep-text-section-prefix --cfg=counts_$(firstword $(shell cksum $(PROFILE)))
endif
C_FLAGS   := CFLAGS="$(CFLAGS) -ffile-prefix-map=$(CARGO_DIR)=/cargo"
RELEASED  := RUSTFLAGS="$(RUSTFLAGS) $(REMAPPED) $(LAID_OUT)" $(C_FLAGS)

.DEFAULT_GOAL := build
.PHONY: build run test test-env figures bench bench-growth bench-pure bench-plugins profile fuzz chaos streams loom kills reproduce check format clippy docs dependencies clean

## build: the server, the command line program and the plugins, in release, under build/
build:
	$(RELEASED) $(CARGO) build --release --locked $(PACKAGES)
	@mkdir -p $(BUILD)/plugins $(BUILD)/data
	@install -m 755 $(RELEASE)/sigoREST $(RELEASE)/sigoE $(BUILD)/
	@for id in $(PROVIDERS); do \
	  install -m 755 "$(RELEASE)/lib$$(echo $$id | tr - _).so" "$(BUILD)/plugins/$$id.so" || exit 1; \
	done

## run: build, then start the server; `make run ARGS="-http-port 9090"` passes flags on
run: build
	@exec $(BUILD)/sigoREST -data-dir $(BUILD)/data $(ARGS)

## test: everything, with real SDKs and a real inference server
test: test-env
	$(CARGO) test --workspace --locked

## test-env: what the SDK tests run, under build/test-env (Python and npm packages)
test-env:
	@sh tests/sdk/setup.sh

## figures: sizes, memory, time to the first answer, a thousand streams at once
figures: build
	python3 tests/bench/figures.py $(BUILD)

## bench: the gateway beside nginx, one table
bench: build nginx
	$(RELEASED) $(CARGO) run --release --locked -p bench -- all $(BUILD)/sigoREST $(BUILD)/plugins

## bench-growth: how the cost of a request grows, a table and build/growth.svg
bench-growth: build
	$(RELEASED) $(CARGO) run --release --locked -p bench -- growth $(BUILD)/sigoREST $(BUILD)/plugins

## bench-pure: splicing a request, scanning a stream, a plugin's step, with statistics
bench-pure:
	$(CARGO) bench --locked -p host --bench pure

## bench-plugins: loading a plugin part by part, what an old version leaves in memory, a step in a worker process
bench-plugins:
	$(CARGO) bench --locked -p host --bench load --bench worker

## profile: count what requests run, by which `make build` lays out the code (needs curl and llvm-profdata)
profile: nginx
	$(RELEASED) $(CARGO) build --release --locked -p bench
	RUSTFLAGS="$(RUSTFLAGS) $(REMAPPED)" $(C_FLAGS) CARGO="$(CARGO)" \
	  sh tests/bench/profile.sh $(RELEASE)/bench "$(PROVIDERS)"

.PHONY: nginx
nginx:
	@command -v nginx >/dev/null || { apt-get update -q && apt-get install -qy nginx-light; } \
	  || { echo "make bench needs nginx: install it" >&2; exit 1; }

## fuzz: every decoder under mutated input, each for MINUTES (10); tells the executions
MINUTES ?= 10
fuzz:
	SIGOREST_FUZZ_SECONDS=$$(( $(MINUTES) * 60 )) RUST_BACKTRACE=0 \
	  $(CARGO) test --locked -p host --test main -- fuzz:: --nocapture --test-threads=16

## chaos: all faults at once, under load, for MINUTES (10); prints one table
chaos:
	SIGOREST_CHAOS_SECONDS=$$(( $(MINUTES) * 60 )) \
	  $(CARGO) test --locked -p host --test main -- chaos:: --nocapture

## streams: STREAMS (9500) at once, each whole, and what memory each takes; needs descriptors for it (ulimit -n 20000)
STREAMS ?= 9500
streams:
	SIGOREST_STREAMS=$(STREAMS) $(CARGO) test --locked -p host --test main -- crowd:: --nocapture

## loom: what threads share, in every order with up to PREEMPTIONS (3) switches at bad moments
PREEMPTIONS ?= 3
loom:
	LOOM_MAX_PREEMPTIONS=$(PREEMPTIONS) $(CARGO) test --release --locked -p models -- --nocapture

## kills: kill the writing server KILLS (1000) times: what was acknowledged is there, no file is damaged
KILLS ?= 1000
kills:
	SIGOREST_KILLS=$(KILLS) $(CARGO) test --locked -p host --test main -- kill:: --nocapture

## reproduce: two release builds in two folders are equal byte for byte (some minutes)
reproduce:
	@sh tests/reproduce.sh

## check: format, lints, docs and the rules on dependencies
check: format clippy docs dependencies

format:
	$(CARGO) fmt --all --check

clippy:
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

docs:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

# One TLS library (rustls with ring), nothing from outside the registry; licences where cargo-deny is there.
dependencies:
	@$(CARGO) metadata --locked --format-version 1 >/dev/null
	@! grep -nE '^name = "(aws-lc-rs|aws-lc-sys|openssl|openssl-sys|native-tls|zstd-sys)"' Cargo.lock \
	  || { echo "a forbidden crate is in Cargo.lock: find who needs it with cargo tree -i" >&2; exit 1; }
	@! grep -n '^source = ' Cargo.lock | grep -v '"registry+' \
	  || { echo "a crate does not come from the registry; depend on a published version" >&2; exit 1; }
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny --locked check bans licenses sources; fi

clean:
	$(CARGO) clean
	rm -rf $(BUILD)
