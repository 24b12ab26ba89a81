# Everything a developer runs. Each target installs what it needs, says what it waits for, and can be run again.
#
#   make demo      the main job on this machine, without a cluster (CLUSTER=own: on a cluster of our own; CLUSTER=current:
#                  on that of your KUBECONFIG)
#   make test      pure tests, against a real nats-server, against a real kube-apiserver, with the CloudEvents SDKs
#   make e2e       on a real cluster
#   make docs-test what README, docs and chart notes tell a reader to type
#   make book      the documentation as a book, in target/book
#   make verify    format, lints, what may be linked, generated files, chart
#   make oldest    chart and operator on the API server of the oldest Kubernetes that is supported
#   make prometheus-test  the chart's alerts, and the queries of its dashboards, by promtool
#   make dashboards-test  every query of dashboards and alerts, asked of a Prometheus that scrapes the programs
#   make soak      what takes long: order by key under chaos at full size, requests to the API server
#   make scale     what hundreds of topics and handlers cost the operator, and by extrapolation thousands
#   make release   what a release publishes, in target/release-VERSION: images, chart, install.yaml, command line, bills of
#                  materials, checksums; ARCHES="amd64 arm64", REGISTRY=where the images will be
#   make bench     the figures of the design, as far as there are some

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# Whoever names a cluster has the demo there.
DEMO := $(if $(filter undefined,$(origin CLUSTER)),dev,cluster)
CLUSTER ?= own
PROFILE ?= fast
NAMESPACE ?= tidegate-system
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)

# One target for everything, so that static linking (.cargo/config.toml) never reaches build scripts and macros.
export CARGO_BUILD_TARGET := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
CARGO_TARGET_DIR ?= target
BIN := $(CARGO_TARGET_DIR)/$(CARGO_BUILD_TARGET)/$(PROFILE)
IMAGES := $(CARGO_TARGET_DIR)/images
DENY_VERSION := 0.20.2
MDBOOK_VERSION := 0.5.4
CYCLONEDX_VERSION := 0.5.9
ACTIONLINT_VERSION := 1.7.12
# Outside of the checkout, so that a clean one does not build it again.
DENY_ROOT := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tidegate/cargo-deny-$(DENY_VERSION)
MDBOOK_ROOT := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tidegate/mdbook-$(MDBOOK_VERSION)
CYCLONEDX_ROOT := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tidegate/cargo-cyclonedx-$(CYCLONEDX_VERSION)
CARGO_FLAGS := --profile $(PROFILE) --locked

NODE = $(BIN)/tidegate-cluster
TOOL = $$($(NODE) bin $(1))
ifeq ($(CLUSTER),own)
KUBE = eval "$$($(NODE) up 2>/dev/null | tail -1)";
# By which the tests reach a port of the node from outside.
FORWARD = TIDEGATE_CLUSTER=$(abspath $(NODE))
else
KUBE =
FORWARD =
endif

.PHONY: help demo test docs-test e2e soak bench verify generate images install uninstall cluster-up cluster-down \
        tools node-program binaries examples load fmt lint deny drift chart-check toolchain

help:
	@sed -n 's/^#   //p' Makefile

# --- the main job -----------------------------------------------------------------------------------------------

demo: toolchain demo-$(DEMO)

.PHONY: demo-dev demo-cluster
demo-dev: printer-and-sensor
	@cargo build -q --workspace --bin tidegate --bin tidegate-ingress --bin tidegate-handler-sidecar $(CARGO_FLAGS)
	@TIDEGATE=$(BIN)/tidegate EXAMPLES=$(CARGO_TARGET_DIR)/examples e2e/demo-dev.sh

demo-cluster:
	@$(MAKE) ready
	@$(KUBE) PATH="$$(dirname $(call TOOL,kubectl)):$$PATH" e2e/demo.sh

# A cluster with our images and the chart.
.PHONY: ready
ready: toolchain
ifeq ($(CLUSTER),own)
	@$(MAKE) load
else
	@echo "CLUSTER=current: the images of 'make images' ($(IMAGES)/*.tar) must be known to its nodes" >&2
	@$(MAKE) node-program
endif
	@$(KUBE) $(MAKE) install CLUSTER=current

# --- tests ------------------------------------------------------------------------------------------------------

# The operator's tests on API servers wait most of their time, as many of the others do: all others run beside them, one
# after the other. What is built is built before, for time that is measured in a test is not time for a compiler.
test: toolchain node-program
	@$(NODE) tools --only parts --only kube >/dev/null
	cargo test --workspace --no-run $(CARGO_FLAGS)
	cargo test --workspace --no-run --test api $(CARGO_FLAGS)
	@export NATS_SERVER=$(call TOOL,nats-server) ETCD=$(call TOOL,etcd) KUBE_APISERVER=$(call TOOL,kube-apiserver); \
	{ cargo test --workspace --test api $(CARGO_FLAGS) -- --test-threads=4 2>&1 | sed -u 's/^/api: /'; } & api=$$!; \
	failed=; cargo test --workspace --no-fail-fast $(CARGO_FLAGS) || failed+=" workspace"; \
	PROFILE=$(PROFILE) e2e/sdk/run.sh || failed+=" sdk"; \
	TIDEGATE=$(BIN)/tidegate EXAMPLES=$(BIN)/examples e2e/handlers.sh || failed+=" handlers"; \
	wait $$api || failed+=" api"; \
	[ -z "$$failed" ] || { echo "make test: failed:$$failed" >&2; exit 1; }

# Every block of the documentation, as its reader would type it.
docs-test: toolchain
	@$(MAKE) ready
	@$(KUBE) PATH="$$(dirname $(call TOOL,kubectl)):$$(dirname $(call TOOL,helm)):$$PATH" $(BIN)/docs-test --release tidegate \
	  --namespace $(NAMESPACE) README.md docs/*.md manifests/examples/*/README.md

e2e: toolchain
	@$(MAKE) ready
	@cargo build -q --workspace --bin tidegate $(CARGO_FLAGS)
	$(KUBE) $(FORWARD) TIDEGATE=$(abspath $(BIN))/tidegate cargo test --workspace --test e2e $(CARGO_FLAGS) -- --test-threads=2 --nocapture

# A hundred thousand events in order by key while pods and brokers go, at one and at three servers; a broker that gets more
# and fewer servers at 500 events a second, without and with a kill after every step, and on a cluster; the authorization
# matrix of a broker (identity, operation and port, with counts) at one and at three servers; what the operator asks of the
# API server while 1, 11 and 50 handlers work and while 100 resources rest. About three quarters of an hour, with figures.
soak: toolchain node-program
	@$(NODE) tools --only parts --only kube >/dev/null
	TIDEGATE_ORDER_EVENTS=1000 NATS_SERVER=$(call TOOL,nats-server) \
	  cargo test --workspace --test order $(CARGO_FLAGS) -- --test-threads=1 --nocapture
	NATS_SERVER=$(call TOOL,nats-server) \
	  cargo test --workspace --test broker $(CARGO_FLAGS) -- --test-threads=1 --nocapture nobody_may
	NATS_SERVER=$(call TOOL,nats-server) \
	  cargo test --workspace --test broker $(CARGO_FLAGS) -- --ignored --test-threads=1 --nocapture growth
	NATS_SERVER=$(call TOOL,nats-server) ETCD=$(call TOOL,etcd) KUBE_APISERVER=$(call TOOL,kube-apiserver) \
	  cargo test --workspace --test api $(CARGO_FLAGS) -- --ignored --test-threads=1 --nocapture api_requests
	@$(MAKE) scale
	@$(MAKE) soak-cluster

# What hundreds of topics and handlers cost the operator, and by extrapolation thousands: memory, processor time, requests
# to the API server, time after a restart. About ten minutes; SCALE=4000x1000x8 measures the full size on eight brokers.
SCALE ?= 100x25x1,500x125x1
.PHONY: scale
scale: toolchain node-program
	@$(NODE) tools --only parts --only kube --only kwok >/dev/null
	TIDEGATE_SCALE=$(SCALE) NATS_SERVER=$(call TOOL,nats-server) ETCD=$(call TOOL,etcd) \
	  KUBE_APISERVER=$(call TOOL,kube-apiserver) KUBE_CONTROLLER_MANAGER=$(call TOOL,kube-controller-manager) \
	  KUBE_SCHEDULER=$(call TOOL,kube-scheduler) KWOK=$(call TOOL,kwok) \
	  cargo test --workspace --test api $(CARGO_FLAGS) -- --ignored --test-threads=1 --nocapture figures_of_scale

# On the real cluster: authorities and a key are replaced at 500 events a second. Ten minutes.
.PHONY: soak-cluster
soak-cluster: toolchain
	@$(MAKE) ready
	$(KUBE) $(FORWARD) cargo test --workspace --test e2e $(CARGO_FLAGS) -- --ignored --test-threads=1 --nocapture

bench: toolchain
	@$(MAKE) bench-local
	@$(MAKE) ready >&2
	@$(KUBE) PATH="$$(dirname $(call TOOL,kubectl)):$$PATH" e2e/bench.sh

# Without a cluster: sidecar and ingress beside what they are compared with, about twenty minutes on a quiet machine. All
# three programs in one build, so that they have one set of dependencies. It writes docs/performance.md; BENCH chooses
# something else: BENCH='--rounds 3 delivery', BENCH=--help.
BENCH ?= --save docs/performance
BENCH_PROGRAM := $(CARGO_TARGET_DIR)/$(CARGO_BUILD_TARGET)/bench-run/tidegate-bench
.PHONY: bench-local
bench-local: toolchain node-program
	@$(NODE) tools --only parts --only collector >/dev/null
	@cargo build --profile bench-run --locked -p tidegate-bench -p tidegate-handler-sidecar -p tidegate-ingress
	@$(BENCH_PROGRAM) --build-peers
	@NATS_SERVER=$(call TOOL,nats-server) OTELCOL=$(call TOOL,otelcol) $(BENCH_PROGRAM) $(BENCH)

# --- checks -----------------------------------------------------------------------------------------------------

verify: toolchain fmt lint deny workflows drift chart-check
	@echo "verify: all good"

fmt:
	cargo fmt --all --check

lint:
	cargo clippy --workspace --all-targets $(CARGO_FLAGS) -- -D warnings
	@# What `cargo test` leaves out by itself, --all-targets leaves out, too.
	cargo clippy --workspace --test api --test e2e $(CARGO_FLAGS) -- -D warnings
	@# The protocols do no I/O: they compile without a runtime.
	cargo clippy -p tidegate-wire --no-default-features $(CARGO_FLAGS) -- -D warnings

# What may be linked into the programs (deny.toml). Advisories change without a change of ours, and are not part of it.
deny: $(DENY_ROOT)/bin/cargo-deny
	@cargo fetch --locked
	$(DENY_ROOT)/bin/cargo-deny --offline --locked check bans licenses sources

# Built for the host as any other tool, and so without this folder's own cargo configuration.
# It runs for seconds: what optimising it would take is saved.
$(DENY_ROOT)/bin/cargo-deny:
	@echo "building cargo-deny $(DENY_VERSION), once: some minutes" >&2
	@mkdir -p $(DENY_ROOT)
	cd $(DENY_ROOT) && env -u CARGO_BUILD_TARGET -u CARGO_TARGET_DIR cargo install --debug cargo-deny --version $(DENY_VERSION) --locked --root .

# They cannot run here. Without shellcheck, which not every machine has.
.PHONY: workflows
workflows:
	@go run github.com/rhysd/actionlint/cmd/actionlint@v$(ACTIONLINT_VERSION) -shellcheck= -pyflakes=
	@! grep -nE 'uses: [^#]*@' .github/workflows/*.yml | grep -vE '@[0-9a-f]{40} # v' || { echo "an action is named by a tag, which can be moved" >&2; exit 1; }

# What is generated must be what is committed.
GENERATED := manifests charts/tidegate/files charts/tidegate/README.md docs/reference
drift:
	@$(MAKE) generate
	@git diff --exit-code -- $(GENERATED) || { echo "run 'make generate' and commit the result" >&2; exit 1; }
	@test -z "$$(git status --porcelain -- $(GENERATED))" || { git status --short -- $(GENERATED); exit 1; }

# A real API server judges what the chart renders.
chart-check: node-program
ifeq ($(CLUSTER),own)
	@$(MAKE) cluster-up >/dev/null
endif
	@HELM=$(call TOOL,helm) charts/check.sh
	@$(KUBE) CLUSTER=$(CLUSTER) KUBECTL=$(call TOOL,kubectl) HELM=$(call TOOL,helm) manifests/check.sh

# The chart's alerts and dashboards, by Prometheus's own programs: PROMTOOL and PROMETHEUS name them (Debian: both in the package
# prometheus). They are no part of `verify` and `test`, because nothing here builds them.
PROMTOOL ?= promtool
PROMETHEUS ?= prometheus
.PHONY: prometheus-test dashboards-test
prometheus-test:
	@command -v $(PROMTOOL) >/dev/null || { echo "missing: promtool. Install it (Debian: apt-get install prometheus), or name it by PROMTOOL=" >&2; exit 1; }
	@$(PROMTOOL) check rules charts/tidegate/files/prometheus/rules.yaml
	@$(PROMTOOL) test rules charts/rules.test.yaml
	@queries=$$(mktemp); trap 'rm -f "$$queries"' EXIT; charts/dashboards.py rules >"$$queries" && $(PROMTOOL) check rules "$$queries"

# A minute, once everything is built.
dashboards-test: toolchain node-program
	@$(NODE) tools --only parts --only kube >/dev/null
	@cargo build -q --workspace --bin tidegate --bin tidegate-operator --bin tidegate-ingress --bin tidegate-handler-sidecar $(CARGO_FLAGS)
	@export KUBECTL=$(call TOOL,kubectl) ETCD=$(call TOOL,etcd) NATS_SERVER=$(call TOOL,nats-server) \
	  KUBE_APISERVER=$(call TOOL,kube-apiserver); \
	TIDEGATE=$(BIN)/tidegate PROMETHEUS=$(PROMETHEUS) PROMTOOL=$(PROMTOOL) manifests/on-api-server.sh e2e/dashboards/run.sh

# The oldest Kubernetes that the chart says it supports: its API server judges what the chart renders, and the operator's tests
# on an API server run on it. Four minutes of building it, once, are why this is no part of `verify` and `test`.
.PHONY: oldest
oldest: toolchain node-program
	@$(NODE) tools --only parts --only kube --only kube-1.29 >/dev/null
	@export HELM=$(call TOOL,helm) KUBECTL=$(call TOOL,kubectl) ETCD=$(call TOOL,etcd) NATS_SERVER=$(call TOOL,nats-server) \
	  KUBE_APISERVER=$(call TOOL,kube-apiserver-1.29); \
	CLUSTER=own manifests/on-api-server.sh manifests/check.sh && \
	cargo test --workspace --test api $(CARGO_FLAGS) -- --test-threads=4
# --- the book ---------------------------------------------------------------------------------------------------

# Pages are read where they lie, too, so they link to files outside of docs/; in the book these are links to the repository.
REPOSITORY := $(shell sed -n 's/^repository = "\(.*\)"/\1/p' Cargo.toml | head -1)
.PHONY: book
book: $(MDBOOK_ROOT)/bin/mdbook
	@rm -rf $(CARGO_TARGET_DIR)/book-source && mkdir -p $(CARGO_TARGET_DIR) && cp -r docs $(CARGO_TARGET_DIR)/book-source
	@find $(CARGO_TARGET_DIR)/book-source -name '*.md' -exec sed -i 's#](\.\./\(\.\./\)*\([A-Za-z]\)#]($(REPOSITORY)/blob/main/\2#g' {} +
	$(MDBOOK_ROOT)/bin/mdbook build $(CARGO_TARGET_DIR)/book-source --dest-dir $(abspath $(CARGO_TARGET_DIR))/book

$(MDBOOK_ROOT)/bin/mdbook:
	@echo "building mdbook $(MDBOOK_VERSION), once: some minutes" >&2
	@mkdir -p $(MDBOOK_ROOT)
	cd $(MDBOOK_ROOT) && env -u CARGO_BUILD_TARGET -u CARGO_TARGET_DIR cargo install --debug mdbook --version $(MDBOOK_VERSION) \
	  --no-default-features --features search --locked --root .

# --- generated files --------------------------------------------------------------------------------------------

generate: toolchain node-program
	cargo build --workspace --bin crdgen $(CARGO_FLAGS)
	@$(NODE) tools --only parts >/dev/null
	HELM=$(call TOOL,helm) CRDGEN=$(BIN)/crdgen manifests/generate.sh

# --- images -----------------------------------------------------------------------------------------------------

# docker-archives in $(IMAGES), made without a builder; the Dockerfile makes the same with one.
images: toolchain binaries examples node-program
	@$(NODE) tools >/dev/null
	@mkdir -p $(IMAGES)
	@image() { $(NODE) image "localhost/tidegate/$$1:dev" $(IMAGES)/$$1.tar --entry "/bin/$$2" "/bin/$$2=$$3"; }; \
	  image operator tidegate-operator $(BIN)/tidegate-operator; \
	  image sidecar tidegate-handler-sidecar $(BIN)/tidegate-handler-sidecar; \
	  image ingress tidegate-ingress $(BIN)/tidegate-ingress; \
	  image e2e tidegate-e2e $(BIN)/tidegate-e2e; \
	  image broker nats-server $(call TOOL,nats-server); \
	  image collector otelcol $(call TOOL,otelcol); \
	  image example-sensor sensor $(CARGO_TARGET_DIR)/examples/sensor; \
	  image example-printer printer $(CARGO_TARGET_DIR)/examples/printer; \
	  image example-mqtt mqtt $(CARGO_TARGET_DIR)/examples/mqtt; \
	  image example-nats nats $(CARGO_TARGET_DIR)/examples/nats
	@ls -l $(IMAGES)/*.tar | awk '{printf "image %-60s %6.1f MB\n", $$9, $$5 / 1e6}'

binaries: toolchain
	cargo build --workspace --bins $(CARGO_FLAGS)

.PHONY: printer-and-sensor
printer-and-sensor: toolchain
	@mkdir -p $(CARGO_TARGET_DIR)/examples
	cd manifests/examples/temperature && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o $(abspath $(CARGO_TARGET_DIR))/examples/ ./sensor ./printer

examples: printer-and-sensor
	cd manifests/examples/publishers && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o $(abspath $(CARGO_TARGET_DIR))/examples/ ./mqtt ./nats

load: images cluster-up
	$(NODE) load $(IMAGES)/*.tar

# --- a release --------------------------------------------------------------------------------------------------

# Nothing is fetched but crates and Go modules, and two runs on the same commit write the same bytes. This machine's
# architecture, unless ARCHES says more: a Rust standard library and a linker for each must be here. Or each is built where it
# is native (make release-programs), and PROGRAMS is the folder to which all were brought, each in one named after it.
# REGISTRY is the registry, with a path where it has one, to which the images will go. Nobody owns images on localhost.
ARCHES ?= $(subst aarch64,arm64,$(subst x86_64,amd64,$(shell uname -m)))
REGISTRY ?= localhost
PROGRAMS ?=
RELEASE := $(CARGO_TARGET_DIR)/release-$(VERSION)
BUILT_PROGRAMS := $(CARGO_TARGET_DIR)/release-programs
.PHONY: release release-programs
release: toolchain node-program $(CYCLONEDX_ROOT)/bin/cargo-cyclonedx $(if $(PROGRAMS),,release-programs)
	@$(NODE) tools --only parts >/dev/null
	@ARCHES="$(ARCHES)" REGISTRY=$(REGISTRY) VERSION=$(VERSION) REPOSITORY=$(REPOSITORY) HELM=$(call TOOL,helm) \
	  NODE=$(abspath $(NODE)) CYCLONEDX=$(CYCLONEDX_ROOT)/bin/cargo-cyclonedx \
	  release/make.sh $(or $(PROGRAMS),$(BUILT_PROGRAMS)) $(RELEASE)
	@echo "release $(VERSION) for $(ARCHES), images to be pushed to $(REGISTRY):" >&2
	@cat $(RELEASE)/SHA256SUMS

release-programs: toolchain
	@for architecture in $(ARCHES); do release/programs.sh $$architecture $(BUILT_PROGRAMS)/$$architecture; done

$(CYCLONEDX_ROOT)/bin/cargo-cyclonedx:
	@echo "building cargo-cyclonedx $(CYCLONEDX_VERSION), once: some minutes" >&2
	@mkdir -p $(CYCLONEDX_ROOT)
	cd $(CYCLONEDX_ROOT) && env -u CARGO_BUILD_TARGET -u CARGO_TARGET_DIR cargo install --debug cargo-cyclonedx --version $(CYCLONEDX_VERSION) --locked --root .

# --- the chart --------------------------------------------------------------------------------------------------

install: toolchain node-program
	@HELM=$(call TOOL,helm) KUBECTL=$(call TOOL,kubectl) NAMESPACE=$(NAMESPACE) e2e/install.sh

uninstall: node-program
	$(call TOOL,helm) uninstall tidegate --namespace $(NAMESPACE) --ignore-not-found --wait

# --- the cluster ------------------------------------------------------------------------------------------------

cluster-up: node-program
	@$(NODE) up

cluster-down: node-program
	@$(NODE) down

node-program: toolchain
	@[ -x $(NODE) ] || echo "building the program that runs the local cluster: some minutes, once" >&2
	@cargo build -q --workspace --bin tidegate-cluster $(CARGO_FLAGS)

tools: node-program
	@$(NODE) tools

toolchain:
	@for tool in cargo rustc go; do \
	  command -v $$tool >/dev/null || { echo "missing: $$tool (a Rust toolchain >= 1.95 and a Go toolchain >= 1.26 are needed)" >&2; exit 1; }; \
	done
