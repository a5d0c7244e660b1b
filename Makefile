# Everything runs in .venv, which the first target that needs it creates; only Python, pip and make are assumed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: check quick test test-without-mindspore lint docs screenshots package bench golden matrix clean

check: .venv/.installed
	$(BIN)/ms2torch-roi check

# The inner loop, under a minute on two cores: without what is marked slow.
quick: .venv/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow' --hypothesis-profile quick

test: .venv/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile

# The newest NumPy, which MindSpore does not allow, and everything that works where MindSpore is not installed.
test-without-mindspore: .venv-without-mindspore/.installed
	.venv-without-mindspore/bin/python -m pytest -n 2 --dist loadfile

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pages for a browser, into build/site.
docs: .venv/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The pictures in docs/images, some by Chromium.
screenshots: .venv/.installed
	$(BIN)/python tools/screenshots.py

# The archives as they would be published, into dist.
package: .venv/.installed
	rm -rf dist
	$(BIN)/python -m build --quiet
	$(BIN)/twine check --strict dist/*

# Five minutes; all cases with: .venv/bin/python benchmarks/speed.py --all
bench: .venv/.installed
	mkdir -p build
	$(BIN)/python benchmarks/speed.py --json build/benchmark.json

# The calls of every supported MindSpore that come with the package, recorded again.
golden: .venv/.installed
	$(BIN)/python tools/golden.py

# Both frameworks in all supported versions, each in an environment of its own, into EVIDENCE.md: an hour or two.
matrix: .venv/.installed
	$(BIN)/python tools/matrix.py --write

# torch and torchvision are resolved together, so that torchvision's own pin chooses torch. Bytecode is compiled here, once
# for the hundreds of processes that the tests start, which may not write it.
.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable '.[dev]'
	touch $@

.venv-without-mindspore/.installed: pyproject.toml .venv/.installed
	$(PYTHON) -m venv .venv-without-mindspore
	$(BIN)/uv pip install --quiet --compile-bytecode --python .venv-without-mindspore/bin/python --editable '.[torch,cli,test]' 'numpy>=2'
	touch $@

clean:
	rm -rf .venv .venv-without-mindspore
