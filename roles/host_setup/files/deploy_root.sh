#!/bin/sh
# Usage: deploy_root.sh FOLDER    (as root)
# As the engine makes it: releases hold secrets and are for root and containers only.
set -eu
mkdir -p "$1"
chown root:root "$1"
chmod 0755 "$1"
install -d -m 0700 -o root -g root "$1/releases"
install -d -m 0755 -o root -g root "$1/records"
