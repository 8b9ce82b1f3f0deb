# Everything that builds, checks and measures Darklaunch. `make` alone lists it.

# Scripts of a recipe stop at the first failure, within pipes too.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GO ?= go
TOOL := $(GO) tool -modfile=tools/go.mod

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/darklaunch
	$(GO) build -buildvcs=auto -o bin/darklaunch ./cmd/darklaunch

.PHONY: demo
demo: build $(if $(filter corpus,$(MAIL)),corpus) $(if $(filter hbase,$(STORE)),setup) ## rehearse a dark launch on this machine; MAIL=corpus or MAIL=DIR for real mails; STORE=hbase on a real HBase
	$(if $(filter hbase,$(STORE)),bin/testenv hbase -- )bin/darklaunch demo $(if $(MAIL),--mail $(MAIL)) $(if $(filter hbase,$(STORE)),--store hbase:{quorum})

.PHONY: setup
setup: bin/testenv ## install what the tests need and is missing: Debian packages as root, the rest into the cache directory
	bin/testenv setup

# Built, not run by the Go tool, which would keep signals and exit codes to itself.
.PHONY: bin/testenv
bin/testenv:
	$(GO) build -o $@ ./internal/testenv/cmd/testenv

.PHONY: corpus
corpus: setup ## fetch some 6,000 real mails into the cache directory; setup does it too
	@echo "use them with: darklaunch legacy import --data DIR --mail corpus"

.PHONY: test
test: setup check ## everything, the real servers too
	bin/testenv run -- $(GO) test -timeout 20m ./...

.PHONY: chaos
chaos: setup ## many more schedules of faults on mailboxes, simulated and on real stores; minutes
	$(GO) test ./appserver/mailbox -run TestSchedules -schedules 10000 -timeout 30m -v
	DARKLAUNCH_FULL=1 bin/testenv run -- $(GO) test ./cmd/darklaunch -run 'TestInvariants|TestServerKilled|TestRowStore' -count 5 -timeout 60m -v
	DARKLAUNCH_FULL=1 bin/testenv run -- $(GO) test ./cmd/darklaunch -run 'TestDemoFaults|TestDemoHBase|TestTutorialCommands' -timeout 60m -v

.PHONY: bench
bench: setup ## side by side with peers, writes bench/RESULTS.md; three hours on two idle cores
	VERDICT_SIMULATIONS=full $(GO) test -v -count 1 -timeout 30m -run 'AtTheMargin|Power|Errors|ErrorRate|Gate|Pooled|Holm' ./verdict/judge
	bin/testenv run -- $(GO) test -run '^$$' -bench . -benchtime 1x -timeout 45m ./bench/mirror
	bin/testenv run -- $(GO) test -run '^$$' -bench . -benchtime 1x -timeout 60m ./bench/load
	$(GO) test -run TestStallInRealTime -v ./loadgen/engine -full
	$(GO) test -run '^$$' -bench Lag -benchtime 30x -count 5 ./loadgen/engine
	bin/testenv run -- $(GO) test -run '^$$' -bench Hostile -benchtime 1x -timeout 90m ./bench/hostile
	bin/testenv run -- $(GO) test -run '^$$' -bench Latency -benchtime 1x -timeout 90m ./bench/hostile # half an hour a protocol
	bin/testenv run -- $(GO) test -run '^$$' -bench . -benchtime 1x -timeout 30m ./bench/verdict
	$(GO) test -run '^$$' -bench WrongField -benchtime 1x -v ./verdict/noise
	DARKLAUNCH_FULL=1 $(GO) test -run 'TestSampledUsers|TestBlackHole' -v -timeout 30m ./mirror # ten minutes of one mirror
	bin/testenv run -- $(GO) test -run '^$$' -bench . -benchtime 1x -timeout 90m ./bench/gate
	bin/testenv run -- $(GO) test -run '^$$' -bench 'Appserver|Cache|BenchmarkSearch' -benchtime 1x -timeout 30m ./cmd/darklaunch
	bin/testenv run -- $(GO) test -run '^$$' -bench Put -benchtime 5000x ./appserver/store/hbase

.PHONY: check
check: fmt vet tidy generated ## format, vet, lint, import rules, short tests with the race detector; no servers
	$(GO) test -short -race ./...

.PHONY: fmt
fmt:
	@unformatted=$$(gofmt -l .); \
	if [ -n "$$unformatted" ]; then echo "not formatted by gofmt:"; echo "$$unformatted"; exit 1; fi

.PHONY: vet
vet:
	$(GO) vet ./...
	$(TOOL) staticcheck ./...

.PHONY: tidy
tidy:
	$(GO) mod tidy -diff
	cd tools && $(GO) mod tidy -diff && $(GO) vet ./... && $(GO) test ./...

.PHONY: generated
generated:
	$(GO) run -C tools ./protogen -check
	$(GO) test -run TestFresh ./dashboards/grafana

.PHONY: generate
generate: ## write the generated code and Grafana's dashboards again
	$(GO) run -C tools ./protogen
	$(GO) run ./dashboards/grafana/generate

.PHONY: pictures
pictures: setup ## write the pictures of the board in docs/pictures again
	bin/testenv run -- $(GO) test ./dashboards/board -run TestPictures -count 1 -pictures $(CURDIR)/docs/pictures

.PHONY: readme
readme: ## type the commands of README and tutorial, and write there what they print
	$(GO) test ./cmd/darklaunch -run 'TestREADMECommands|TestTutorialCommands' -count 1 -timeout 20m -update

.PHONY: fuzz
fuzz: ## run each fuzz target for a minute
	@for target in $$(grep -rlE '^func Fuzz' --include='*_test.go' . | grep -v testdata | xargs -n1 dirname | sort -u); do \
		for name in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]+' $$target/*_test.go | sed 's/func //'); do \
			echo "$$target $$name"; $(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime 1m "$$target"; \
		done; \
	done
