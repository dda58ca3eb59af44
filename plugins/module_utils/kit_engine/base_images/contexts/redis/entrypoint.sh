#!/bin/sh
# Flags or a configuration file alone mean the server; as root it hands /data over and steps down first.
set -eu

case ${1:-} in
  -* | *.conf) set -- redis-server "$@" ;;
esac
if [ "$1" = redis-server ] && [ "$(id -u)" = 0 ]; then
  chown --recursive redis:redis /data
  exec setpriv --reuid=redis --regid=redis --clear-groups -- "$0" "$@"
fi
exec "$@"
