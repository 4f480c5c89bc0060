# make demo   environment, the sample video through the whole pipeline, metrics and overlay
# make test   environment, lint, types, tests (make check: all but the tests)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FAISS ?= cpu
OTHER_FAISS := $(if $(filter gpu,$(FAISS)),cpu,gpu)
# The stamp is named after what is installed, so that another FAISS or TORCH_BACKEND installs again.
STAMP := $(VENV)/.installed-faiss-$(FAISS)-torch-$(or $(TORCH_BACKEND),default)
# One file of tests per process at a time; each process computes with one thread.
PYTEST := OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile --no-loadscope-reorder
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: env repository demo check lint types test test-all clean
.DELETE_ON_ERROR:

# FAISS=cpu|gpu. TORCH_BACKEND=cpu|cu128|... is handed to uv's --torch-backend; without it torch comes from the ordinary index.
env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	rm -f $(VENV)/.installed*
	$(BIN)/python -m pip uninstall -qq --yes faiss-$(OTHER_FAISS)  # the builds overwrite each other
ifdef TORCH_BACKEND
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --torch-backend=$(TORCH_BACKEND) -c constraints.txt -e ".[$(FAISS),test]"
else
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[$(FAISS),test]"
endif
	touch $(STAMP)

demo: repository env
	dvc repro
	vidseg summarize data/evaluate . --items videos.yaml
	@echo "overlay: $(CURDIR)/data/render/sample/overlay.mp4"

# A ZIP has no .git, and DVC works only with it: said before anything is installed.
repository:
	@git rev-parse --is-inside-work-tree > /dev/null 2>&1 || { echo "error: $(CURDIR) is no git repository, which DVC needs; \
	run: git init && git add -A && git -c user.name=me -c user.email=me@localhost commit -qm start (or git clone instead of a ZIP)" >&2; exit 2; }

lint: env
	ruff check .
	ruff format --check .

types: env
	mypy

check: lint types

test: check
	$(PYTEST)

test-all: check
	$(PYTEST) --slow

clean:
	rm -rf $(VENV) data plots
