#!/usr/bin/env bash
# Training as a job of SLURM that is longer than its time limit, and outlives its nodes:
#
#   sbatch configs/cluster/slurm.sh -c configs/kinetics400_i3d_r50_8x8.yaml --data.root /data/kinetics400
#
# Two minutes before the time is over SLURM sends SIGUSR1 to the processes of srun. They save, exit with 75, and the job
# is queued again; it goes on from the last checkpoint in trainer.default_root_dir, of which each run needs one of its
# own, on a disk that all nodes share. scancel sends SIGTERM: the run is saved (exit code 143) and not queued again.
#SBATCH --job-name=videogn
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

srun --kill-on-bad-exit=1 videogn fit "$@" --trainer.num_nodes "$SLURM_NNODES" \
  --trainer.devices "$SLURM_NTASKS_PER_NODE" --trainer.strategy ddp --ckpt_path last
code=$?
if [ "$code" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
