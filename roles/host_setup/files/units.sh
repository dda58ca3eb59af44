#!/bin/sh
# Usage: units.sh UNIT...    (as root)
set -eu
systemctl enable --quiet --now "$@"
