# A list of verbs; `make help` tells them. Needs Python 3.10 to 3.13 with venv, make, and the package index. Nothing is
# installed outside this folder. All paths are relative, so that the folder's own path may hold spaces.
PYTHON ?= python3
DATA ?=
ARGS ?=
UPGRADE ?=

# Every lock is complete, so pip has nothing to resolve (--no-deps). Byte code is left to the first import: compiling all of
# torch takes longer than the rest of its installation.
INSTALL = -m pip --disable-pip-version-check install --quiet --no-deps --no-compile
LOCKED = $(INSTALL) --require-hashes
OURS = $(INSTALL) --no-build-isolation --editable ./client --editable ./container
# The one part in C. Without a compiler it is installed without its code, and Pillow does the same.
NATIVE = $(INSTALL) --no-build-isolation --force-reinstall ./container/native
METADATA = client/pyproject.toml container/pyproject.toml container/native/pyproject.toml \
	$(wildcard container/native/src/tvetl_pixels/*)
VENV = $(PYTHON) -c 'import sys; (3, 10) <= sys.version_info < (3, 14) or sys.exit("tvetl needs Python 3.10 to 3.13: try make PYTHON=python3.12")' \
	&& $(PYTHON) -m venv --clear

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format lock audit licences tables notebook pictures training bench bench-gpu reliability manifests dist build sbom minikube deploy undeploy test-k8s e2e clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

setup: .venv/dev.stamp  ## .venv with both packages, torch and the test tools (3 GB to fetch, 5.5 GB on disk)
	@echo "Ready: .venv/bin/tvetl and .venv/bin/tvetl-server"

demo: .venv/run.stamp  ## photographs through a local cluster, into build/demo/ (DATA=<folder of photographs>)
	@.venv/bin/python examples/demo.py $(if $(DATA),"$(DATA)")

# Two processes take a file at a time, in the order given. By the number of tests, files of few long ones would come last.
SPREAD = --numprocesses 2 --dist loadfile --no-loadscope-reorder
# Hostile tests that bound times or memory closely, or end processes.
ALONE = $(patsubst %,tests/hostile/test_%.py,arguments broken_http crash_and_hang jail kills memory overload slow_http)
# Tests of what knows the SDK, or is asked by it.
SDK = $(patsubst %,tests/hostile/test_%_faults.py,client proxy) tests/e2e tests/conformance/test_servers.py \
	$(patsubst %,tests/local/test_%.py,sdk secured targets) tests/client

test: .venv/dev.stamp .venv-sdk1/stamp  ## all tests, then those of the client again with aistore 1.x (ARGS=<pytest's>)
ifneq ($(ARGS),)
	.venv/bin/python -m pytest $(ARGS)
else
# One after the other, also after one that failed. tests/cluster has one Kubernetes for all its files.
	@sh tests/support/parts.sh \
		".venv/bin/python -m pytest $(SPREAD) $(addprefix --ignore ,tests/cluster $(ALONE))" \
		".venv/bin/python -m pytest $(ALONE) tests/cluster" \
		".venv-sdk1/bin/python -m pytest $(SPREAD) $(SDK)"
endif

lint: .venv/dev.stamp  ## ruff, mypy --strict, and who may import whom
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo

format: .venv/dev.stamp  ## write the code as ruff would
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

# Order matters: each lock takes the versions of the ones before it.
lock: build/uv/bin/uv  ## resolve the locks again (UPGRADE=--upgrade takes newer versions)
	$(COMPILE) locks/run.in --output-file locks/run.txt
	$(COMPILE) locks/dev.in --output-file locks/dev.txt
	echo tvetl > build/left-out.txt && $(COMPILE) --excludes build/left-out.txt locks/server.in --output-file locks/server.txt
	$(COMPILE) --excludes build/left-out.txt locks/server-torch.in --output-file locks/server-torch.txt
	$(COMPILE) --excludes build/left-out.txt $$(sed -n 's/^\([a-z0-9.-]*\)==.*/--no-emit-package \1/p' locks/server-torch.txt) \
		locks/server-cuda.in --output-file locks/server-cuda.txt
	$(COMPILE) locks/build.in --output-file locks/build.txt
	$(COMPILE) locks/sdk1.in --output-file locks/sdk1.txt
	$(COMPILE) --no-deps locks/photos.in --output-file locks/photos.txt
	$(COMPILE) locks/audit.in --output-file locks/audit.txt

audit: build/audit/stamp  ## known vulnerabilities of all that the locks name (ARGS=--if-reachable: fine if nobody tells)
	@build/audit/bin/python locks/audit.py $(ARGS)

licences: .venv/dev.stamp  ## write docs/licences.md, from what is installed
	@.venv/bin/python docs/licences.py

tables: .venv/run.stamp  ## write the tables in README and docs as the code has them
	.venv/bin/python docs/tables.py

notebook: .venv/dev.stamp  ## execute examples/walkthrough.ipynb, and keep its outputs
	@.venv/bin/python docs/notebook.py

pictures: .venv/dev.stamp  ## draw the pictures that the README shows
	@.venv/bin/python docs/pictures.py

training: .venv/dev.stamp  ## compare training input: torchvision in workers, and the cluster (DATA=<folder of JPEGs>)
	@PYTHONPATH=tests .venv/bin/python -m benchmarks.training $(if $(DATA),"$(DATA)")

bench: .venv/dev.stamp  ## tvetl-server and its peers side by side, into docs/performance.md (DATA=, ARGS=--quick|--help)
	@PYTHONPATH=tests .venv/bin/python -m benchmarks $(if $(DATA),--data "$(DATA)") $(ARGS)

bench-gpu: .venv/dev.stamp $(if $(findstring --host,$(ARGS)),,.venv/gpu.stamp)  ## the same with a GPU, into docs/performance.md and docs/gpu.md (ARGS=--host: without one)
	@PYTHONPATH=tests .venv/bin/python -m benchmarks.gpu $(if $(DATA),--data "$(DATA)") $(ARGS)

reliability: .venv/dev.stamp  ## bad input, faults and attackers against the server, into docs/reliability.md (ARGS=<pytest's>)
	.venv/bin/python -m pytest tests/hostile --keep-figures $(ARGS)
	.venv/bin/python docs/tables.py

manifests: .venv/run.stamp  ## write k8s/pods/ as tvetl.pod has them
	@.venv/bin/python k8s/manifests.py

dist: .venv/run.stamp  ## wheels and source archives of the three packages, into dist/
	@.venv/bin/python locks/dist.py

build:  ## the image, with docker, podman or buildah (VARIANT=slim|cpu|cuda IMAGE= BASE= INDEX= TORCH_INDEX= BUILDFLAGS=)
	@test "$(VARIANT)" != cuda || test -z "$(TORCH_INDEX)" || { \
		echo "TORCH_INDEX is for wheels without CUDA: the cuda variant takes torch, as its lock has it, from INDEX" >&2; exit 2; }
	@test -n "$(BUILDER)" || { echo "make build needs docker (with its engine running), podman or buildah" >&2; exit 2; }
	$(BUILDER) build $(REPEATABLE) $(BUILDARGS) $(BUILDFLAGS) --target $(VARIANT) --tag $(IMAGE) --file container/Dockerfile .

sbom:  ## what is in the image IMAGE, as CycloneDX, into build/sbom.cdx.json
	@mkdir -p build/nothing
	@printf 'FROM %s AS image\nFROM scratch\nCOPY --from=image /opt/tvetl/sbom.cdx.json /\n' $(IMAGE) \
		| $(BUILDER) build $(REPEATABLE) $(BUILDFLAGS) --output build --file - build/nothing >/dev/null
	@echo "build/sbom.cdx.json: $$(grep -c '"bom-ref"' build/sbom.cdx.json) components of $(IMAGE)"

minikube:  ## the `minikube start` line for OVERLAY=minikube|minikube-two|gpu; RUN=1 runs it
	@echo '$(MINIKUBE)'
	@$(if $(RUN),$(MINIKUBE))

deploy: .venv/run.stamp  ## AIStore for development, with tvetl, in the current Kubernetes context (OVERLAY= IMAGE= LOAD=)
	@.venv/bin/python k8s/deploy.py --overlay $(OVERLAY) $(DEPLOYED) $(if $(LOAD),--load '$(LOAD)')

undeploy: .venv/run.stamp  ## take it away again
	@.venv/bin/python k8s/deploy.py --down

test-k8s: .venv/dev.stamp  ## the pod on a real one-node Kubernetes (needs root and ../shared/kube; else skipped)
	.venv/bin/python -m pytest tests/cluster $(ARGS)

e2e: .venv/dev.stamp .venv-sdk1/stamp  ## the end-to-end tests with both SDKs (AIS_ENDPOINT=, else on the stand-in; IMAGE=)
	.venv/bin/python -m pytest tests/e2e $(ARGS)
	.venv-sdk1/bin/python -m pytest tests/e2e $(ARGS)

clean:  ## remove all that these verbs made
	rm -rf .venv .venv-sdk1 build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	rm -rf container/native/build container/native/src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# For `build`. INDEX serves the wheels; TORCH_INDEX only torch and torchvision, without hashes (docs/image.md).
VARIANT ?= slim
IMAGE ?= tvetl-server:$(VERSION)$(if $(filter-out slim,$(VARIANT)),-$(VARIANT))
BASE ?=
INDEX ?=
TORCH_INDEX ?=
BUILDFLAGS ?=
BUILDER ?= $(shell docker version >/dev/null 2>&1 && echo docker || command -v podman || command -v buildah)
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' client/src/tvetl/__init__.py)
BUILDARGS = $(if $(BASE),--build-arg BASE=$(BASE)) $(if $(INDEX),--build-arg PIP_INDEX_URL=$(INDEX)) \
	$(if $(TORCH_INDEX),--build-arg TORCH_INDEX_URL=$(TORCH_INDEX))
# Every file and the image itself bear this time (2026-01-01), not that of the build: what is the same looks the same.
SOURCE_DATE_EPOCH ?= 1767225600
REPEATABLE = $(if $(filter docker,$(notdir $(firstword $(BUILDER)))),--build-arg SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH), \
	--layers --timestamp $(SOURCE_DATE_EPOCH))

# For `deploy` and `minikube`. LOAD is a command that brings an image to the nodes, where it is no Minikube.
OVERLAY ?= minikube
LOAD ?=
RUN ?=
# An image named on the command line, and not build's own default.
DEPLOYED = $(if $(filter command environment,$(firstword $(origin IMAGE))),--image $(IMAGE))
# Four CPUs and 6 GB: AIStore asks for 0.35 CPUs and 0.8 GB, each ETL for 0.25 CPUs and GB, and works faster with more.
MINIKUBE = minikube start --driver docker --cpus 4 --memory 6g$(if $(filter minikube-two,$(OVERLAY)), --nodes 2)$(if \
	$(filter gpu,$(OVERLAY)), --container-runtime docker --gpus all)

e2e: export TEST_IMAGE = $(if $(DEPLOYED),$(IMAGE))

COMPILE = build/uv/bin/uv pip compile --quiet $(UPGRADE) --universal --python-version 3.10 --generate-hashes --no-annotate \
	--no-emit-index-url --no-emit-package tvetl --no-emit-package tvetl-server --custom-compile-command 'make lock'

build/uv/bin/uv:
	$(VENV) build/uv
	build/uv/bin/python $(INSTALL) uv==0.13.9

build/audit/stamp: locks/audit.txt
	@$(VENV) build/audit
	@build/audit/bin/python $(LOCKED) -r locks/audit.txt
	@touch $@

.venv/stamp:
	@echo "Making .venv"
	@$(VENV) .venv
	@touch $@

.venv/run.stamp: .venv/stamp locks/run.txt locks/photos.txt $(METADATA)
	@echo "Installing what the client and the server need (70 MB to fetch, 240 MB on disk)"
	@.venv/bin/python $(LOCKED) -r locks/run.txt -r locks/photos.txt
	@.venv/bin/python $(OURS)
	@.venv/bin/python $(NATIVE)
	@.venv/bin/python -c 'from tvetl_server.engine.resize import resizer; print("Resizing is done by", resizer())'
	@touch $@

.venv/dev.stamp: .venv/run.stamp locks/dev.txt
	@echo "Installing torch and the test tools (on Linux 3 GB to fetch, 5.5 GB on disk: some minutes, the first time)"
	@.venv/bin/python $(LOCKED) -r locks/dev.txt
	@touch $@

.venv/gpu.stamp: .venv/dev.stamp locks/server-cuda.txt
	@echo "Installing what else a GPU needs (6 MB)"
	@.venv/bin/python $(LOCKED) -r locks/server-cuda.txt
	@touch $@

.venv-sdk1/stamp: locks/sdk1.txt locks/photos.txt $(METADATA)
	@echo "Making .venv-sdk1, with the AIStore SDK before 2.0 (70 MB to fetch, 240 MB on disk)"
	@$(VENV) .venv-sdk1
	@.venv-sdk1/bin/python $(LOCKED) -r locks/sdk1.txt -r locks/photos.txt
	@.venv-sdk1/bin/python $(OURS)
	@.venv-sdk1/bin/python $(NATIVE)
	@touch $@
