#!/usr/bin/env bash
# Trains on this machine; see --help.
set -euo pipefail

# Seconds. Others notice after at most 75 that one is gone.
PATIENCE=90
FAREWELL=10

usage() {
  cat <<END
usage: launch/local.sh [--processes N] [--port PORT] [--dry_run] ARGUMENTS-OF-i3d_jax.main
       launch/local.sh [--processes N] [--port PORT] [--dry_run] study ARGUMENTS-OF-i3d_jax.study

Trains on all devices of this machine. One process drives them all; with --processes N there are N,
each with one GPU (the first with GPU 0, and so on), which meet at PORT (default 12321).
On SIGTERM all of them save and stop, with several also on Ctrl-C. When one of several fails, the others have
$PATIENCE seconds to end by themselves; then they get SIGTERM, and $FAREWELL seconds later SIGKILL. The exit code is
that of the first that failed. --dry_run prints the commands in place of running them. PYTHON names the interpreter
(default: python).

  launch/local.sh --config experiments/quickstart.py --workdir runs/quickstart
  launch/local.sh --processes 8 --config experiments/kinetics.py --config.data.directory=datasets/kinetics400 \\
    --workdir runs/kinetics
END
}

mistake() {
  echo "error: $1" >&2
  exit 2
}

show() {
  printf '%q ' "$@"
  echo
}

processes=1
port=12321
dry_run=
while (($#)); do
  case $1 in
    --help | -h) usage; exit ;;
    --dry_run) dry_run=yes; shift; continue ;;
    --processes | --port) (($# > 1)) || mistake "$1 needs a number" ;;
    *) break ;;
  esac
  case $1 in
    --processes) processes=$2 ;;
    --port) port=$2 ;;
  esac
  shift 2
done
[[ $processes =~ ^[1-9][0-9]*$ ]] || mistake "--processes must be a number of 1 or more, found '$processes'"
[[ $port =~ ^[1-9][0-9]*$ ]] || mistake "--port must be a number of 1 or more, found '$port'"
if ! (($#)); then
  usage >&2
  exit 2
fi
python=${PYTHON:-python}
module=i3d_jax.main
if [ "$1" = study ]; then
  module=i3d_jax.study
  shift
fi
if [ "$processes" = 1 ]; then
  [ -z "$dry_run" ] || { show "$python" -m "$module" "$@"; exit; }
  exec "$python" -m "$module" "$@"
fi

children=()
# What bash starts in the background ignores Ctrl-C: it becomes SIGTERM.
trap 'kill -TERM "${children[@]}" 2>/dev/null || true' TERM INT
for ((number = 0; number < processes; number++)); do
  command=("$python" -m "$module" "$@" \
    --coordinator "localhost:$port" --num_processes "$processes" --process_id "$number")
  if [ -n "$dry_run" ]; then
    show "CUDA_VISIBLE_DEVICES=$number" "${command[@]}"
    continue
  fi
  CUDA_VISIBLE_DEVICES=$number "${command[@]}" &
  children+=($!)
done
code=0
ended_at=
told=
while :; do
  running=" $(jobs -rp | tr '\n' ' ')"
  for number in "${!children[@]}"; do
    [[ $running == *" ${children[number]} "* ]] && continue
    ended=0
    wait "${children[number]}" || ended=$?
    unset "children[number]"
    # The first that fails has the reason; what ends the others follows from it.
    if ((ended != 0)) && [ -z "$ended_at" ]; then
      code=$ended
      ended_at=$SECONDS
    fi
  done
  ((${#children[@]})) || break
  if [ -n "$ended_at" ]; then
    if [ -z "$told" ] && ((SECONDS - ended_at >= PATIENCE)); then
      told=$SECONDS
      echo "error: a process ended with code $code, and ${#children[@]} did not within $PATIENCE s: they are ended" >&2
      kill -TERM "${children[@]}" 2>/dev/null || true
    elif [ -n "$told" ] && ((SECONDS - told >= FAREWELL)); then
      # Reaches those too that are stopped.
      kill -KILL "${children[@]}" 2>/dev/null || true
    fi
  fi
  # Also a signal for the whole terminal ends it.
  sleep 0.5 || true
done
exit "$code"
