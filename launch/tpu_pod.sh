#!/usr/bin/env bash
# Trains on Cloud TPU, from the request to the deletion; see --help.
set -euo pipefail

usage() {
  cat <<END
usage: launch/tpu_pod.sh COMMAND --name NAME --zone ZONE --project PROJECT [OPTIONS] [-- [study] ARGUMENTS]

commands, in the order of a training:
  create    asks for the TPU (a queued resource) and waits until it is there
  install   on all workers: copies this checkout, makes a virtual environment, mounts the share if there is one
  fetch     copies BUCKET/datasets to SHARE/datasets (worker 0)
  run       starts i3d_jax.main, or with "study" i3d_jax.study, on all workers, with the arguments after --; it goes on
            when you log out
  log       follows the log of worker 0
  stop      tells the training to save and stop
  keep      copies SHARE/runs to BUCKET/runs (worker 0); without a share the workers' logs to BUCKET/logs
  delete    gives the TPU back; the share and the bucket stay
  all       create, install, run, log
  resume    after a preemption: delete, then all; training goes on from its newest checkpoint

options:
  --name NAME         the TPU's, chosen by you
  --zone, --project   where it is; gcloud's
  --type TYPE         for create (default: v5litepod-8)
  --runtime VERSION   for create (default: v2-alpha-tpuv5-lite, that of v5e; v2-alpha-tpuv5 for v5p)
  --spot              for create: cheaper, and may be preempted
  --bucket gs://NAME  where dataset and workdir are; with --share, for fetch and keep
  --share HOST:/PATH  a Filestore share, mounted as /mnt/share on every worker, where they are instead
  --dry_run           prints the commands in place of running them

All hosts of a TPU write one workdir and read one dataset: keep both in the bucket, or both under /mnt/share. Logs are
in /mnt/share/logs, or without a share in the folder logs of each worker's user.

  launch/tpu_pod.sh all --name i3d --zone us-central1-a --project my-project --type v5litepod-64 --spot \\
    --bucket gs://my-bucket -- --config experiments/kinetics.py \\
    --config.data.directory=gs://my-bucket/datasets/kinetics400 --workdir gs://my-bucket/runs/kinetics
END
}

mistake() {
  echo "error: $1" >&2
  exit 2
}

if ! (($#)); then
  usage >&2
  exit 2
fi
if [ "$1" = --help ] || [ "$1" = -h ]; then
  usage
  exit
fi
command=$1
shift
name='' zone='' project='' share='' bucket='' spot='' dry_run=''
type=v5litepod-8
runtime=v2-alpha-tpuv5-lite
while (($#)); do
  case $1 in
    --spot) spot=--spot; shift; continue ;;
    --dry_run) dry_run=yes; shift; continue ;;
    --help | -h) usage; exit ;;
    --) shift; break ;;
  esac
  (($# > 1)) || mistake "$1 needs a value"
  case $1 in
    --name) name=$2 ;;
    --zone) zone=$2 ;;
    --project) project=$2 ;;
    --type) type=$2 ;;
    --runtime) runtime=$2 ;;
    --share) share=$2 ;;
    --bucket) bucket=$2 ;;
    *) mistake "there is no option $1; the arguments of i3d_jax.main stand after --" ;;
  esac
  shift 2
done
[ -n "$name" ] && [ -n "$zone" ] && [ -n "$project" ] || mistake "--name, --zone and --project are needed"
arguments=("$@")

do_or_print() {
  if [ -z "$dry_run" ]; then
    "$@"
    return
  fi
  local word
  for word; do
    case $word in
      *[!A-Za-z0-9_./:=-]*) printf '%s ' "${word@Q}" ;;
      *) printf '%s ' "$word" ;;
    esac
  done
  echo
}

# Runs a shell command on workers: `all` or a number.
on_workers() {
  do_or_print gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --project "$project" --worker="$1" --command="$2"
}

queued() {
  do_or_print gcloud compute tpus queued-resources "$1" "$name" --zone "$zone" --project "$project" "${@:2}"
}

create() {
  queued create --node-id "$name" --accelerator-type "$type" --runtime-version "$runtime" ${spot:+"$spot"}
  local state=
  until [ "$state" = ACTIVE ] || [ -n "$dry_run" ]; do
    state=$(queued describe --format='value(state.state)')
    echo "$(date '+%H:%M:%S') $name: $state" >&2
    case $state in
      ACTIVE) ;;
      FAILED | SUSPEND*) mistake "$name is $state: see gcloud compute tpus queued-resources describe, then delete it" ;;
      *) sleep 30 ;;
    esac
  done
}

# Where a worker's log is, as its shell finds it.
# shellcheck disable=SC2016
logs='$([ -d /mnt/share/logs ] && echo /mnt/share/logs || echo "$HOME/logs")'

install() {
  if [ -n "$share" ]; then
    on_workers all "sudo apt-get -qq install -y nfs-common && sudo mkdir -p /mnt/share && \
(mountpoint -q /mnt/share || sudo mount -t nfs $share /mnt/share) && \
sudo mkdir -p /mnt/share/datasets /mnt/share/runs /mnt/share/logs && sudo chmod 777 /mnt/share/*"
  else
    # The second fails where the workers' service account may not read the bucket.
    on_workers all "mkdir -p \$HOME/logs && gcloud storage ls $bucket > /dev/null"
  fi
  local archive
  archive=$(mktemp)
  do_or_print tar -czf "$archive" --exclude=__pycache__ -C "$(dirname "$0")/.." \
    setup.py pyproject.toml constraints.txt README.md i3d_jax experiments
  do_or_print gcloud compute tpus tpu-vm scp "$archive" "$name:i3d_jax.tar.gz" \
    --zone "$zone" --project "$project" --worker=all
  rm "$archive"
  # The image's Python is older than ours; uv brings one.
  on_workers all "mkdir -p i3d_jax && tar -xzf i3d_jax.tar.gz -C i3d_jax && python3 -m pip install -q --user uv && \
python3 -m uv venv -q --clear --python 3.12 .venv && \
python3 -m uv pip install -q --python .venv/bin/python -c i3d_jax/constraints.txt -e 'i3d_jax[all,tpu]'"
}

run() {
  ((${#arguments[@]})) || mistake "run needs the arguments of i3d_jax.main, after --"
  local module=i3d_jax.main own=("${arguments[@]}")
  if [ "${own[0]}" = study ]; then
    module=i3d_jax.study
    own=("${own[@]:1}")
  fi
  # One line: what `nohup` starts goes on when the connection ends, and its number is kept for `stop`. The log is opened
  # before anything is started: it is there for `log` at once, and where it cannot be written nothing runs unseen.
  on_workers all "cd i3d_jax && { PYTHONUNBUFFERED=1 nohup ../.venv/bin/python -m $module --distributed$(
    printf ' %q' "${own[@]}"
  ) & echo \$! > ../i3d_jax.pid; } < /dev/null >> $logs/$name-\$(hostname).log 2>&1"
}

log() {
  on_workers 0 "tail -n 100 -F $logs/$name-\$(hostname).log"
}

case $command in
  all | resume | install)
    [ -n "$share$bucket" ] || mistake "$command needs --bucket gs://NAME or --share HOST:/PATH"
    ;;
esac
case $command in
  all | resume)
    # Before a TPU is paid for.
    ((${#arguments[@]})) || mistake "$command needs the arguments of i3d_jax.main, after --"
    for argument in "${arguments[@]}"; do
      if [[ $argument == */mnt/share* ]] && [ -z "$share" ]; then
        mistake "nothing is at /mnt/share without --share HOST:/PATH, found $argument"
      fi
    done
    ;;
esac
case $command in
  create | install | run | log) "$command" ;;
  stop) on_workers all "kill -TERM \$(cat i3d_jax.pid)" ;;
  fetch | keep)
    [ -n "$bucket" ] || mistake "$command needs --bucket gs://NAME"
    if [ "$command" = fetch ]; then
      [ -n "$share" ] || mistake "fetch copies to a share: it needs --share HOST:/PATH; without one there is no need"
      on_workers 0 "gcloud storage rsync --recursive $bucket/datasets /mnt/share/datasets"
    elif [ -n "$share" ]; then
      on_workers 0 "gcloud storage rsync --recursive /mnt/share/runs $bucket/runs"
    else
      on_workers all "gcloud storage rsync --recursive \$HOME/logs $bucket/logs"
    fi
    ;;
  delete) queued delete --force --quiet ;;
  all) create; install; run; log ;;
  resume) queued delete --force --quiet; create; install; run; log ;;
  *) mistake "there is no command $command; --help lists them" ;;
esac
