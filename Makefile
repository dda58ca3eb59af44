SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# Where it is set, every task of a play would compile Ansible anew: four seconds of a deploy.
unexport PYTHONDONTWRITEBYTECODE

# ENV names a folder under inventories/; the others are empty unless given: make deploy ENV=prod INVENTORY=hosts.yml
ENV ?= local
INVENTORY ?=
MANIFEST ?=
WEB_PORT ?=
DB_PORT ?=
VERSION ?=
DIRTY ?=
CONFIRM ?=
HOST ?=
WAIT ?=
ROTATE ?=
CONFIRM_HOST_KEYS ?=
ALLOW_RESTART ?=
RELEASE ?=
BACKUP ?=
WITHOUT_BACKUP ?=
ON ?=
ALLOW ?=
RETRY_AFTER ?=
ARGS ?=

BIN := .venv/bin
# A vault password comes from the caller's own file, else from .vault/<env>, which `make secrets` makes.
# Asked for in the recipe itself: `make secrets provision deploy` makes it and uses it in one call.
vault = $${ANSIBLE_VAULT_PASSWORD_FILE:-$$([ ! -f '.vault/$(ENV)' ] || echo '.vault/$(ENV)')}
with_vault = vault="$(vault)"; env $${vault:+ANSIBLE_VAULT_PASSWORD_FILE="$$vault"}
play := $(with_vault) $(BIN)/python plugins/play.py -i inventories/$(ENV) \
	$(if $(INVENTORY),-i $(INVENTORY)) $(if $(MANIFEST),-e "{\"project_manifest\": \"$$(realpath -- '$(MANIFEST)')\"}") \
	$(if $(WEB_PORT),-e web_port=$(WEB_PORT)) $(if $(DB_PORT),-e db_port=$(DB_PORT)) \
	$(if $(VERSION),-e project_version=$(VERSION)) $(if $(DIRTY),-e project_dirty=true) $(if $(ALLOW_RESTART),-e allow_restart=$(ALLOW_RESTART))
# Where the environment's host is this machine, its own script; else the same one on the host, over SSH.
is_here := $(shell grep -rls '^ansible_connection: local' 'inventories/$(ENV)')
over_ssh = $(with_vault) PYTHONPATH=plugins/module_utils $(BIN)/python -m kit_control.on_host \
	--env '$(ENV)' $(if $(INVENTORY),--inventory '$(INVENTORY)') $(if $(MANIFEST),--manifest '$(MANIFEST)') $(if $(HOST),--host '$(HOST)')
manage = $(if $(is_here),./docker-manage.sh $(ENV),$(over_ssh))
# Seconds to wait for another command that changes the same host; without, one is refused.
waiting = $(if $(WAIT),--wait $(WAIT))
login := environment $(if $(is_here),,.venv/.kit)
# Most of a test's time is waiting for containers: three at once on two cores, a file's tests in one process since they
# share stacks, in the order of tests/conftest.py.
parallel := -n $(or $(JOBS),3) --dist loadfile --no-loadscope-reorder
testbed := PYTHONPATH=plugins/module_utils:tests $(BIN)/python -m testbed

.PHONY: help setup requirements deploy rollback releases backup backups verify-backup copy-offsite prune-backups restore plan render smoke secrets provision down destroy ps logs shell manage migrate maintenance restart \
	status lint test test-fast test-fresh test-hosts test-faults test-backup-faults testbed-up testbed-down bench bench-deploy bench-backup diagrams env-example

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.kit ## Install what a deploy needs into .venv (every target that needs it does so by itself)

.venv/.kit: requirements/uv.txt requirements/kit.txt
	@./setup.sh $@ requirements/kit.txt

.venv/.dev: .venv/.kit requirements/dev.txt
	@./setup.sh $@ requirements/dev.txt

requirements: .venv/.dev ## Compile the locks under requirements/ anew from their .in files
	@for name in uv kit dev; do $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
		requirements/$$name.in --output-file requirements/$$name.txt; done

# An environment is a folder; a name without one is a typing mistake.
.PHONY: environment
environment:
	@[ -d 'inventories/$(ENV)' ] || { printf 'There is no environment %s; there are: %s\nNext: make <target> ENV=<one of these>, or copy inventories/prod to inventories/%s\n' \
		"'$(ENV)'" "$$(ls -m inventories)" '$(ENV)' >&2; exit 1; }
	@[ ! -f 'inventories/$(ENV)/group_vars/all/vault.yml' ] || [ -n "$(vault)" ] || { \
		printf '%s is encrypted, and its password is not here: no .vault/%s, and ANSIBLE_VAULT_PASSWORD_FILE is not set.\n' \
		'inventories/$(ENV)/group_vars/all/vault.yml' '$(ENV)' >&2; \
		printf 'Next: put the password into .vault/%s (0600), or remove the file and make new secrets: make secrets ENV=%s\n' \
		'$(ENV)' '$(ENV)' >&2; exit 1; }
	@[ -z "$(vault)" ] || [ -r "$(vault)" ] || { printf 'The vault password of %s cannot be read: %s (ANSIBLE_VAULT_PASSWORD_FILE)\nNext: ls -l %s\n' \
		'$(ENV)' "$(vault)" "$(vault)" >&2; exit 1; }

deploy: environment .venv/.kit ## Bring ENV to the newest release; WAIT=seconds for another deploy to end
	@$(play) playbooks/deploy.yml $(if $(WAIT),-e lock_wait_seconds=$(WAIT)) $(ARGS)

rollback: environment .venv/.kit ## Go back to the last good release of ENV, or to RELEASE=id
	@$(play) playbooks/rollback.yml $(if $(RELEASE),-e release_rollback_to=$(RELEASE)) $(if $(WAIT),-e lock_wait_seconds=$(WAIT)) $(ARGS)

plan: environment .venv/.kit ## Show what a deploy of VERSION to ENV would do; changes nothing there
	@$(play) playbooks/plan.yml $(ARGS)

render: environment .venv/.kit ## Write ENV's Compose, .env and nginx files to build/ENV; needs no host and no secret
	@$(play) playbooks/render.yml $(ARGS)

smoke: environment .venv/.kit ## Check from here that ENV serves as it should; results in build/ENV/smoke.json and .xml
	@$(play) playbooks/smoke.yml $(ARGS)

secrets: environment .venv/.kit ## Make the secrets that ENV lacks, or replace one: ROTATE=name
	@$(play) playbooks/secrets.yml $(if $(ROTATE),-e '{"release_bundle_rotate": "$(ROTATE)"}') $(ARGS)

provision: environment .venv/.kit ## Take ENV's bare hosts to where deploy can begin; a new host key is shown and asks
	@$(play) playbooks/provision.yml $(if $(CONFIRM_HOST_KEYS),-e '{"confirm_host_keys": "$(CONFIRM_HOST_KEYS)"}') $(if $(WAIT),-e lock_wait_seconds=$(WAIT)) $(ARGS)

# The daily commands: of several hosts, name one with HOST=.
down: $(login) ## Stop ENV and keep its data
	@$(manage) down $(waiting)

destroy: $(login) ## Remove ENV with its data; asks for its name, or CONFIRM=ENV
	@$(manage) destroy $(if $(CONFIRM),--confirm $(CONFIRM)) $(waiting)

ps: $(login) ## List ENV's containers
	@$(manage) ps

backup: $(login) ## Back ENV's database and media up, and verify the backup; ARGS='--level read'
	@$(manage) backup $(waiting) $(ARGS)

backups: $(login) ## List the backups on ENV's host
	@$(manage) backups $(ARGS)

verify-backup: $(login) ## Show that BACKUP=id|latest of ENV is good; ARGS='--level restore'
	@$(manage) verify-backup '$(or $(BACKUP),latest)' $(waiting) $(ARGS)

copy-offsite: $(login) ## Copy off-site what of ENV's backups lies on its host only
	@$(manage) copy-offsite $(ARGS)

prune-backups: $(login) ## Remove the backups of ENV that need not be kept; ARGS=--dry-run tells which
	@$(manage) prune-backups $(waiting) $(ARGS)

restore: $(login) ## Bring BACKUP=id|latest of ENV back; asks for its name, or CONFIRM=ENV; WITHOUT_BACKUP=1 makes none of what is there
	@$(manage) restore '$(or $(BACKUP),latest)' $(if $(CONFIRM),--confirm $(CONFIRM)) $(if $(WITHOUT_BACKUP),--without-backup) $(waiting)

releases: $(login) ## List the releases of ENV's host
	@$(manage) releases $(ARGS)

status: $(login) ## Show how ENV and its hosts are; for programs: ARGS=--json
	@$(manage) status $(ARGS)

logs: $(login) ## Show the logs of ENV, of one service with ARGS=web
	@$(manage) logs $(ARGS)

shell: $(login) ## Open a shell in ENV's web container, or ARGS=service
	@$(manage) shell $(ARGS)

manage: $(login) ## Run manage.py in ENV: make manage ARGS="check --deploy"
	@$(manage) manage $(ARGS)

maintenance: $(login) ## Answer ENV's visitors with 503 and a page: ON=1, with ALLOW=addresses that see the site; ON=0 ends it
	@[ '$(ON)' = 1 ] || [ '$(ON)' = 0 ] || { printf 'maintenance: ON=1 or ON=0 is wanted.\nNext: make maintenance ENV=%s ON=1\n' '$(ENV)' >&2; exit 1; }
	@$(manage) maintenance $(if $(filter 1,$(ON)),on $(if $(ALLOW),--allow '$(ALLOW)') $(if $(RETRY_AFTER),--retry-after '$(RETRY_AFTER)'),off) $(waiting)

migrate: $(login) ## Apply ENV's migrations
	@$(manage) migrate $(waiting)

restart: $(login) ## Restart all services of ENV, or ARGS=service
	@$(manage) restart $(waiting) $(ARGS)

lint: .venv/.dev ## Check the style of everything
	@./lint.sh

test: test-engine ## Run the tests, of the long ones one story in turn; needs root or sudo for the engine
	@HOST_STORIES=turn $(BIN)/pytest $(parallel) -m 'not timed' $(ARGS)
	@HOST_STORIES=turn $(BIN)/pytest -m timed $(ARGS)

test-hosts: test-engine ## Run all tests of which `make test` tells a part in turn, on Debian 12 and 13
	@FRESH_DISTROS=$(or $(FRESH_DISTROS),all) $(BIN)/pytest -m 'host or slow' $(ARGS)

# What tests on the real engine stand on: the engine, and all base images.
.PHONY: test-engine
test-engine: .venv/.dev
	@$(BIN)/ansible-playbook -i inventories/local playbooks/prepare.yml \
		-e '{"deploy_root": "$(CURDIR)/build/test", "base_images_database_volume": ""}' \
		-e '{"base_images_wanted": ["python", "postgres", "redis", "nginx"]}'

test-fast: .venv/.dev ## Run the tests that need no engine
	@$(BIN)/pytest $(parallel) -m 'not engine and not host' $(ARGS)

test-fresh: test-engine ## Run the README's commands on fresh Debian 12 and 13 hosts
	@FRESH_DISTROS=$(or $(FRESH_DISTROS),all) $(BIN)/pytest tests/fresh $(ARGS)

test-faults: test-engine ## End deploys at every step in every way; goes on where it stood. The whole matrix takes an hour
	@PYTHONPATH=plugins/module_utils:tests $(BIN)/python -m faults $(ARGS)

test-backup-faults: test-engine ## Let backups, restores and copies off-site meet what can go wrong; ARGS=--write writes the table
	@PYTHONPATH=plugins/module_utils:tests $(BIN)/python -m faults.backups $(ARGS)

testbed-up: test-engine ## Bring up HOSTS= fresh hosts of DISTRO=trixie|bookworm
	@$(testbed) up --hosts $(or $(HOSTS),1) --distro $(or $(DISTRO),trixie) $(if $(MANIFEST),--manifest '$(MANIFEST)')

testbed-down: .venv/.dev ## Remove the hosts of testbed-up
	@$(testbed) down

bench: test-engine ## Measure an unchanged deploy, memory and requests on a host of its own; results in build/bench
	@PYTHONPATH=plugins/module_utils:tests $(BIN)/python -m bench

bench-deploy: test-engine ## Measure releases under load, and by the clock; results in build/bench
	@PYTHONPATH=plugins/module_utils:tests $(BIN)/python -m bench.releases

bench-backup: test-engine ## Measure backups and restores beside bare pg_dump and pg_restore, GIB= of them once by JOBS= processes; results in build/bench
	@PYTHONPATH=plugins/module_utils:tests $(BIN)/python -m bench.$(if $(GIB),large_backup $(GIB) --jobs $(or $(JOBS),0),backups)

env-example: .venv/.kit ## Write env/.env.example anew from the manifest
	@PYTHONPATH=plugins/module_utils $(BIN)/python -m kit_control.env_example app/deploy.yml env/.env.example

diagrams: .venv/.kit ## Draw the diagrams of docs/ARCHITECTURE.md anew from tests/render/golden
	@PYTHONPATH=plugins/module_utils $(BIN)/python -m kit_control.diagrams docs/ARCHITECTURE.md tests/render/golden
