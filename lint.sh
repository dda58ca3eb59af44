#!/usr/bin/env bash
# Every style check; goes on after a finding, so that one run shows all. Called by `make lint`.
set -uo pipefail

bin=.venv/bin
export PATH="$PWD/$bin:$PATH" ANSIBLE_NOCOLOR=1
failed=()

check() {
  local name=$1
  shift
  printf '%-14s' "$name"
  if output=$("$@" 2>&1); then echo ok; else
    echo FAILED
    printf '%s\n' "$output"
    failed+=("$name")
  fi
}

check "ruff" ruff check
check "ruff format" ruff format --check
check "mypy" mypy plugins tests
check "yamllint" yamllint --strict .
check "ansible-lint" ansible-lint --offline -q
mapfile -t scripts < <(git ls-files '*.sh' .ci/run tests/bench/floor)
check "shellcheck" shellcheck "${scripts[@]}"
check "hadolint" hadolint Dockerfile
# Package versions are those of the Debian release that the base images are made of.
check "base images" hadolint --ignore DL3008 plugins/module_utils/kit_engine/base_images/contexts/*/Dockerfile

nginx_version=$(sed -n 's/^ *nginx: nginx:\([0-9.]*\).*/\1/p' roles/base_images/defaults/main.yml)
check "gixy" gixy --nginx-version "$nginx_version" tests/render/golden/prod/nginx/nginx.conf

if [ "${#failed[@]}" -gt 0 ]; then
  printf 'make lint: %s failed\n' "${failed[*]}" >&2
  exit 1
fi
