#!/bin/bash
# One training run on several machines under Slurm, which goes on by itself when its time is over:
#
#     sbatch runs/slurm.sh runs/pretrain.toml --set run.out=outputs/big
#
# takes what atomica-run takes. The spec, the data and the folder of the run must lie where all machines see them, and
# torchrun must be found there: activate the environment before sbatch. What follows is for machines with four GPUs,
# and a process for each; without GPUs, say how many processes a machine should have:
#
#     PROCESSES=2 sbatch --gpus-per-node=0 runs/slurm.sh …
#
# Lines that begin with #SBATCH are options; those given to sbatch itself win.
#
#SBATCH --job-name=atomica
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=atomica-%j.log

set -u

# Five minutes before its time is over Slurm warns this script (--signal), which tells the processes to write a checkpoint
# and end. torchrun, which shows that as an exception, grants them so many seconds.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=240
warned=
trap 'warned=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1

gpus=${SLURM_GPUS_PER_NODE:-0}
gpus=${gpus##*:} # the number in a100:4
processes=${PROCESSES:-$((gpus > 0 ? gpus : 1))}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun --kill-on-bad-exit=1 torchrun --nnodes="$SLURM_NNODES" --nproc-per-node="$processes" \
    --rdzv-backend=c10d --rdzv-endpoint="$head:$((20000 + SLURM_JOB_ID % 10000))" \
    --rdzv-id="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" \
    -m atomica.runner "$@" --start-or-resume &
wait $!
code=$?
while kill -0 $! 2>/dev/null; do # the warning ends the wait above
    wait $!
    code=$?
done

# Stopped for lack of time: back into the queue, to go on from the checkpoint. After a machine's failure or preemption
# Slurm does that itself (--requeue).
if [ "$warned" ] && [ "$code" -ne 0 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
