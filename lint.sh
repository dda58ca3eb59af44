#!/usr/bin/env bash
# Every style check, two at a time; goes on after a finding, so that one run shows all. Called by `make lint`.
set -uo pipefail

bin=.venv/bin
export PATH="$PWD/$bin:$PATH" ANSIBLE_NOCOLOR=1
names=()
told=$(mktemp -d)
trap 'rm -rf "$told"' EXIT

check() {
  local name=$1
  shift
  names+=("$name")
  while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n; done
  { "$@" >"$told/$name" 2>&1 && touch "$told/$name.ok"; } &
}

# The longest first.
check "ansible-lint" ansible-lint --offline -q
check "mypy" mypy plugins tests
check "ruff" ruff check
check "ruff format" ruff format --check
check "yamllint" yamllint --strict .
mapfile -t scripts < <(git ls-files '*.sh' .ci/run tests/bench/floor tests/bench/floor_release)
check "shellcheck" shellcheck "${scripts[@]}"
check "hadolint" hadolint Dockerfile
# Package versions are those of the Debian release that the base images are made of.
check "base images" hadolint --ignore DL3008 plugins/module_utils/kit_engine/base_images/contexts/*/Dockerfile
nginx_version=$(sed -n 's/^ *nginx: nginx:\([0-9.]*\).*/\1/p' roles/base_images/defaults/main.yml)
check "gixy" gixy --nginx-version "$nginx_version" tests/render/golden/prod/nginx/nginx.conf
wait

failed=()
for name in "${names[@]}"; do
  if [ -f "$told/$name.ok" ]; then
    printf '%-14sok\n' "$name"
  else
    printf '%-14sFAILED\n%s\n' "$name" "$(<"$told/$name")"
    failed+=("$name")
  fi
done
if [ "${#failed[@]}" -gt 0 ]; then
  printf 'make lint: %s failed\n' "${failed[*]}" >&2
  exit 1
fi
