#!/usr/bin/env bash
# Training on the devices of one machine, which goes on by itself when a process is killed:
#
#   PROCESSES=8 configs/cluster/torchrun.sh -c configs/kinetics400_i3d_r50_8x8.yaml --data.root /data/kinetics400
#
# When a process dies, torchrun starts all of them again, up to RESTARTS times, and they go on from the last checkpoint
# in trainer.default_root_dir. After that, or after the machine was switched off, the same command goes on. Each run
# needs a default_root_dir of its own. SIGTERM to torchrun saves before it ends.
set -euo pipefail

# A store for each attempt. In one that attempts share, processes find the addresses of those that have ended.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

: "${PROCESSES:?set PROCESSES to the number of devices}"
exec torchrun --standalone --nproc_per_node "$PROCESSES" --max_restarts "${RESTARTS:-3}" -m videogn fit "$@" \
  --trainer.devices "$PROCESSES" --trainer.strategy ddp --ckpt_path last
