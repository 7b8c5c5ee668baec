#!/usr/bin/env bash
#SBATCH --job-name=i3d_jax
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=i3d_jax-%j.log
# Trains on several nodes of a SLURM cluster; see --help.
set -euo pipefail

usage() {
  cat <<END
usage: sbatch [SBATCH-OPTIONS] launch/slurm.sh [--dry_run] ARGUMENTS-OF-i3d_jax.main
       sbatch [SBATCH-OPTIONS] launch/slurm.sh [--dry_run] study ARGUMENTS-OF-i3d_jax.study

Trains on several nodes, one process for each GPU, which is how JAX divides a node under SLURM: keep
--ntasks-per-node and --gpus-per-node equal. Dataset and workdir must be on a file system that all nodes share.
Five minutes before the time limit the processes are told to stop; they save, and the job goes back to the queue, where
it goes on when its turn comes. When it is preempted they save too, and SLURM puts it back. Options on sbatch's command
line replace those in the file. --dry_run prints the job's command in place of running it; it needs no sbatch.
Submit it in the checkout, with the virtual environment active. PYTHON names the interpreter (default: python).

  sbatch --nodes=8 --partition=gpu launch/slurm.sh --config experiments/kinetics.py \\
    --config.data.directory=/shared/datasets/kinetics400 --workdir /shared/runs/kinetics
END
}

if ! (($#)); then
  usage >&2
  exit 2
fi
if [ "$1" = --help ] || [ "$1" = -h ]; then
  usage
  exit
fi
dry_run=
if [ "$1" = --dry_run ]; then
  dry_run=yes
  shift
fi
module=i3d_jax.main
if [ "${1-}" = study ]; then
  module=i3d_jax.study
  shift
fi
# SLURM tells this shell too when it cancels the job, or preempts it and puts it back itself; before the time limit not.
told=
trap 'told=yes' TERM
code=0
# --wait: seconds that the others have when one has ended; they notice after at most 75, and leave together otherwise.
command=(srun --wait=90 "${PYTHON:-python}" -m "$module" --distributed "$@")
if [ -n "$dry_run" ]; then
  printf '%q ' "${command[@]}"
  echo
  exit
fi
"${command[@]}" || code=$?
# 143: stopped by SIGTERM, and saved.
if ((code == 143)) && [ -z "$told" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
