# Every target sets up what it needs first. RELEASE: a release set (releases/). SOURCE: auto, upstream or packages. ARGS: more for ansible-playbook.
.DEFAULT_GOAL := help
.PHONY: help setup up status down mirror test lint format unit integration molecule cluster bench lock
export PATH := $(CURDIR)/.venv/bin:$(PATH)
PLAY := ansible-playbook -i inventories/kind $(if $(RELEASE),-e platform_release=$(RELEASE)) $(if $(SOURCE),-e kind_source=$(SOURCE)) $(ARGS)
MOLECULE_KUBECONFIG := $(or $(MLOPS_PLATFORM_CACHE),$(HOME)/.cache/mlops-platform)/kind/mlops-platform-molecule.kubeconfig

help: ## what there is to call
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 20
setup: ## the virtual environment
	@python3 bootstrap.py
up: setup ## from nothing to a kind cluster with the platform: engine, tools, cluster, rehearsal of Google Cloud, all roles, smoke tests
	@$(PLAY) -e platform_smoke=true playbooks/kind.yml playbooks/rehearsal.yml site.yml playbooks/status.yml
status: setup ## what runs, and where it answers
	@$(PLAY) playbooks/status.yml
down: setup ## delete the cluster (everything cached stays)
	@$(PLAY) playbooks/kind.yml playbooks/rehearsal.yml -e kind_state=absent -e rehearsal_state=absent
mirror: setup ## build what the cluster needs from source packages, without making a cluster
	@$(PLAY) playbooks/mirror.yml
test: lint unit integration molecule cluster ## all of the following, in this order
	@molecule destroy
lint: setup ## ansible-lint (production), yamllint, ruff
	ruff check .
	ruff format --check .
	yamllint --strict .
	ansible-lint --strict
format: setup ## let ruff format the Python
	ruff check --fix . && ruff format .
unit: setup ## tests of the Python code
	pytest tests/unit -n 2
integration: setup ## needs etcd and kube-apiserver: from the mirror or upstream
	@$(PLAY) playbooks/kind.yml -e kind_state=prepared
	pytest tests/integration -m 'not cluster'
molecule: setup ## a fresh cluster; every role's scenario and the site's, one after the other
	molecule destroy
	molecule test --all --destroy=never
cluster: setup ## tests on the cluster that Molecule left
	MLOPS_PLATFORM_TEST_KUBECONFIG=$(MOLECULE_KUBECONFIG) pytest tests/integration -m cluster -rP
bench: setup ## how long it takes, beside kubectl and helm by hand; how many requests Google Cloud gets
	python tests/bench/run.py
	python tests/bench/cloud.py
lock: setup ## resolve requirements.in into requirements.txt
	UV_SYSTEM_CERTS=1 uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command 'make lock' requirements.in -o requirements.txt
