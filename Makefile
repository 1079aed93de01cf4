# Everything below builds .venv first where it is missing or older than pyproject.toml or constraints.txt.
#
#     make demo          the whole chain on synthetic data, in minutes; page in demo_output/
#     make test          all tests that this machine can run, lint, types, documentation
#     make test-fast     the tests for every change
#     make results       what docs/reference/results.md lacks, and how long it would take; renews its tables. With
#                        DATA=FOLDER (raw nnU-Net datasets) WORK=FOLDER it runs what is missing: hours to days
#     make lint | docs | clean
#
# PYTHON=python3.12 chooses another interpreter. TORCH_INDEX=URL chooses another build of torch: CPU wheels, a CUDA version
# (see pytorch.org/get-started), for example
#     make TORCH_INDEX=https://download.pytorch.org/whl/cpu demo

PYTHON ?= python3
TORCH_INDEX ?=
PYTEST_ARGS ?=
DATA ?=
WORK ?=

BIN := .venv/bin
STAMP := .venv/.installed
WHEEL := build/wheel

.DELETE_ON_ERROR:
.PHONY: demo test test-fast results lint types docs clean

demo: $(STAMP)
	$(BIN)/nnUNetv2_semisup demo

test: lint types docs
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

test-fast: $(STAMP)
	$(BIN)/python -m pytest -m fast $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

results: $(STAMP)
	$(BIN)/python benchmarks/results.py $(if $(DATA),--data $(DATA) --work $(WORK))

# The types of what is installed from a wheel, from a folder where the repository is out of sight.
types: $(STAMP)
	rm -rf build
	$(BIN)/python -m build --wheel --no-isolation --outdir $(WHEEL) . > /dev/null
	$(BIN)/python -m zipfile -e $(WHEEL)/*.whl $(WHEEL)/site
	cd $(WHEEL) && MYPYPATH=site ../../$(BIN)/mypy --config-file ../../pyproject.toml -p nnunetv2_semisup

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv build dist site demo_output

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed; choose one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt -e '.[dev]'
	touch $@
