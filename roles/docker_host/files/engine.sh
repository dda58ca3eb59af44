#!/bin/sh
# Usage: engine.sh start|reload|restart SECONDS
# Brings this machine's own engine up (or makes it read its configuration again) and waits until it answers.
# Prints "changed" if it did something. Where PID 1 is not systemd, dockerd gets a session of its own.
set -eu
verb=$1
limit=$2
PATH=$PATH:/usr/sbin:/sbin
log=/var/log/dockerd.log
pid_file=/var/run/docker.pid
child=
unset DOCKER_HOST DOCKER_CONTEXT

answers() { docker --host unix:///var/run/docker.sock version --format '{{.Server.Version}}' >/dev/null 2>&1; }
# By the program's file, which a zombie has no more: a PID 1 that is no init leaves them.
runs() {
  case $(readlink "/proc/$(cat "$1" 2>/dev/null)/exe") in
    */"$2"*) ;;
    *) return 1 ;;
  esac
}
with_systemd() { [ -d /run/systemd/system ]; }

fail() {
  printf '%s\n' "$1" >&2
  # What the log says is an addition: without it the message still stands.
  if with_systemd; then
    journalctl --unit docker --no-pager --lines 12 >&2 || true
  elif [ -f "$log" ]; then
    tail -n 12 "$log" >&2
  fi
  echo 'Next: mend what it complains of (its settings are in /etc/docker/daemon.json), then run this again.' >&2
  exit 1
}

wait_until() { # what it waits for, then the command
  what=$1
  shift
  tries=$((limit * 5))
  until "$@"; do
    [ -z "$child" ] || kill -0 "$child" 2>/dev/null || fail 'dockerd ended right after its start.'
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || fail "$what: not within $limit seconds."
    sleep 0.2
  done
}

start() { # extra flags of dockerd
  if with_systemd; then
    systemctl enable --quiet docker
    systemctl start docker || fail 'systemd could not start docker.service.'
    return
  fi
  if ! runs "$pid_file" dockerd; then
    # Left behind by a killed machine; a new process may have the number, and dockerd would then refuse to start.
    rm -f "$pid_file"
    runs /run/docker/containerd/containerd.pid containerd || rm -f /run/docker/containerd/containerd.pid
    setsid dockerd "$@" </dev/null >>"$log" 2>&1 &
    child=$!
  fi
}

stopped() { ! runs "$pid_file" dockerd; }

case $verb in
  start)
    answers && exit 0
    start
    ;;
  reload)
    # Not `systemctl reload`: the unit calls /bin/kill, of procps, which a minimal host lacks.
    runs "$pid_file" dockerd || fail "No dockerd runs by $pid_file."
    kill -HUP "$(cat "$pid_file")"
    ;;
  restart)
    if with_systemd; then
      # Only a unit that failed too often needs it; any other refuses.
      systemctl reset-failed docker 2>/dev/null || true
      systemctl restart docker || fail 'systemd could not restart docker.service.'
    else
      flags=
      if runs "$pid_file" dockerd; then
        # Whoever started it may have given flags; they must survive.
        flags=$(tr '\0' '\n' <"/proc/$(cat "$pid_file")/cmdline" | tail -n +2)
        kill "$(cat "$pid_file")"
        wait_until 'dockerd to stop' stopped
      fi
      # shellcheck disable=SC2086
      start $flags
    fi
    ;;
  *) fail "unknown verb: $verb" ;;
esac
wait_until 'The engine to answer on /var/run/docker.sock' answers
echo changed
