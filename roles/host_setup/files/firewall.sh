#!/bin/sh
# What guarded.sh tries: the rules in <CHANGE; its REST is the unit that loads them when the host starts.
# shellcheck disable=SC2034,SC2317
folder=/run/kit-firewall
undo=kit-firewall-undo
target=/etc/kit-firewall.nft
table='inet kit_firewall'

save() {
  nft -c -f "$folder/new" || fail 'nft does not take the rules.'
  # The first line makes the table where there is none, so that the second never fails.
  printf 'table %s\ndelete table %s\n' "$table" "$table" >"$folder/old"
  tables=$(nft list tables)
  # Only a table that is not there is nothing to put back: one that cannot be read ends it here.
  if printf '%s\n' "$tables" | grep -q -x -F -e "table $table"; then
    # shellcheck disable=SC2086
    nft list table $table >>"$folder/old"
  fi
  printf '%s -f %s\n' "$(command -v nft)" "$folder/old"
}
change() { nft -f "$folder/new"; }
# Until now nothing was on the disk, so a host that is switched off meanwhile starts as it was.
settle() {
  install -m 0644 "$folder/new" "$target"
  cat >/etc/systemd/system/kit-firewall.service
  systemctl daemon-reload
  systemctl enable --quiet kit-firewall.service
  systemctl reload-or-restart kit-firewall.service
}
