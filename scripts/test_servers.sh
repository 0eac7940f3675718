#!/usr/bin/env bash
# Runs a command with the real servers that the tests want: Kafka (scripts/kafka.sh), a model server (scripts/vllm.sh),
# and Debian's nginx, redis-server and chromium, which the tests start by themselves. What it started it stops; what ran already stays.
# usage: test_servers.sh COMMAND...     as root on Debian it installs by apt-get what is missing
#
# KAFKA_PORT (9093) and VLLM_PORT (8011) are their ports on 127.0.0.1; COMMAND gets BOOTSTRAP_SERVERS and VLLM_URL.
# SERVERS="kafka vllm" names the servers to start; SERVERS="" only installs the programs.
# A server that cannot be had is a failure (exit status 3), never a reason to leave tests out.
set -euo pipefail
SCRIPTS=$(cd "$(dirname "$0")" && pwd)
export KAFKA_PORT=${KAFKA_PORT:-9093} VLLM_PORT=${VLLM_PORT:-8011}
SERVERS=${SERVERS-kafka vllm}

# program=package; programs of every kind that the scripts below and the tests call
PROGRAMS="java=default-jre-headless mvn=maven nginx=nginx redis-server=redis-server docker-compose=docker-compose
  curl=curl gcc=gcc openssl=openssl readelf=binutils promtool=prometheus chromium=chromium"

say() { echo "test_servers.sh: $*" >&2; }
die() { say "$*"; exit 3; }
missing() { for pair in $PROGRAMS; do command -v "${pair%=*}" >/dev/null || echo "${pair#*=}"; done; }
taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

install_programs() {
  local packages; packages=$(missing | tr '\n' ' ')
  [ -n "$packages" ] || return 0
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "apt-get install $packages"
    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends -y $packages; } >&2 || true
  fi
  packages=$(missing | tr '\n' ' ')
  [ -z "$packages" ] || die "not on the PATH: the programs of Debian's $packages(apt-get install $packages)"
}

# start NAME PORT: by scripts/NAME.sh, unless it runs already
start() {
  "$SCRIPTS/$1.sh" status 2>/dev/null && return
  taken "$2" && die "port $2 is taken by something that scripts/$1.sh did not start: end it, or set ${1^^}_PORT"
  STARTED="$1 $STARTED"
  "$SCRIPTS/$1.sh" start || die "scripts/$1.sh start failed, so the tests that need it cannot run"
}

# Silent, so that the last line is the command's own.
stop_started() { for name in $STARTED; do "$SCRIPTS/$name.sh" stop >/dev/null 2>&1 || true; done; }

[ $# -gt 0 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }
STARTED=
trap stop_started EXIT
install_programs
for name in $SERVERS; do
  port=${name^^}_PORT
  start "$name" "${!port}"
done
export BOOTSTRAP_SERVERS=127.0.0.1:$KAFKA_PORT VLLM_URL=http://127.0.0.1:$VLLM_PORT
"$@"
