#!/bin/bash
# A run on a SLURM cluster: sbatch tools/slurm.sh [CONFIG]. Two minutes before its time is up SLURM sends SIGUSR1, the run saves and ends
# with 75, and the job queues itself again, until the run has ended. Where your cluster differs, change the lines that begin with #SBATCH.
#SBATCH --job-name=stpredict
#SBATCH --nodes=1 --ntasks=1 --gpus=4 --cpus-per-task=32
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue --open-mode=append
run=runs/slurm-$SLURM_JOB_ID
if [ -d "$run" ]; then
    words="resume $run"
else
    words="train ${1:-moving_mnist/predrnn} --run.folder $run --trainer.devices 4"
fi
srun stpredict $words --max-restarts 3
code=$?
[ $code -eq 75 ] && scontrol requeue "$SLURM_JOB_ID"
exit $code
