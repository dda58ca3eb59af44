#!/bin/bash
# Starts PostgreSQL under the interface of the official image: POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB (each also
# as _FILE), POSTGRES_INITDB_ARGS, PGDATA and /docker-entrypoint-initdb.d.
set -euo pipefail

fail() {
  printf 'postgres: %s\n' "$*" >&2
  exit 1
}

# A value, or the content of the file that NAME_FILE names; the default where there is neither.
from_environment() {
  local name=$1 default=${2:-} file=${1}_FILE
  if [ -n "${!name:-}" ] && [ -n "${!file:-}" ]; then fail "$name and $file are both set; keep one"; fi
  if [ -n "${!file:-}" ]; then
    [ -r "${!file}" ] || fail "$file names ${!file}, which cannot be read"
    cat "${!file}"
  else
    printf '%s' "${!name:-$default}"
  fi
}

# The first start makes the cluster aside and moves it into place with PG_VERSION last: a start that was cut short leaves
# no PG_VERSION, and the next one begins anew. A folder with other content is never touched.
initialise() {
  local user password database new=$PGDATA/.new marker=$PGDATA/.initialising
  user=$(from_environment POSTGRES_USER postgres)
  password=$(from_environment POSTGRES_PASSWORD)
  database=$(from_environment POSTGRES_DB "$user")
  [ -n "$password" ] || fail "there is no password for $user; set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE"
  if [ ! -e "$marker" ] && [ -n "$(find "$PGDATA" -mindepth 1 -maxdepth 1 ! -name lost+found -print -quit)" ]; then
    fail "$PGDATA holds files but no PG_VERSION: not a database of ours, and left as it is"
  fi
  touch "$marker"
  find "$PGDATA" -mindepth 1 -maxdepth 1 ! -name lost+found ! -name .initialising -exec rm -rf {} +
  # shellcheck disable=SC2086  # these are several arguments on purpose
  initdb --pgdata="$new" --username="$user" --pwfile=<(printf '%s' "$password") --auth-local=trust \
    --auth-host=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 ${POSTGRES_INITDB_ARGS:-}
  printf 'host all all all scram-sha-256\n' >>"$new/pg_hba.conf"
  # The official image's socket folder, and the one that this build's own clients look in.
  printf "listen_addresses = '*'\nunix_socket_directories = '/run/postgresql, /tmp'\n" >>"$new/postgresql.conf"
  PGDATA=$new pg_ctl --wait --silent --options="-c listen_addresses=''" start
  if [ "$database" != postgres ]; then
    psql --quiet --no-psqlrc --set=ON_ERROR_STOP=1 --username="$user" --dbname=postgres --set=name="$database" \
      <<<'CREATE DATABASE :"name";'
  fi
  run_scripts "$user" "$database"
  PGDATA=$new pg_ctl --wait --silent --mode=fast stop
  find "$new" -mindepth 1 -maxdepth 1 ! -name PG_VERSION -exec mv {} "$PGDATA"/ \;
  sync
  mv "$new/PG_VERSION" "$PGDATA"/
  rm -rf "$new" "$marker"
  sync
}

run_scripts() {
  local script
  for script in /docker-entrypoint-initdb.d/*; do
    case $script in
      *.sh) if [ -x "$script" ]; then "$script"; else
        # shellcheck source=/dev/null
        . "$script"
      fi ;;
      *.sql) psql --no-psqlrc --set=ON_ERROR_STOP=1 --username="$1" --dbname="$2" --file="$script" ;;
      *.sql.gz) gunzip --stdout "$script" | psql --no-psqlrc --set=ON_ERROR_STOP=1 --username="$1" --dbname="$2" ;;
    esac
  done
}

case ${1:-} in
  -*) set -- postgres "$@" ;;
esac
if [ "$1" = postgres ]; then
  if [ "$(id -u)" = 0 ]; then
    mkdir --parents "$PGDATA" /run/postgresql
    find "$PGDATA" ! -user postgres -exec chown postgres:postgres {} +
    chown postgres:postgres /run/postgresql
    exec setpriv --reuid=postgres --regid=postgres --clear-groups -- "$0" "$@"
  fi
  chmod 0700 "$PGDATA"
  if [ ! -s "$PGDATA/PG_VERSION" ]; then initialise; fi
fi
exec "$@"
