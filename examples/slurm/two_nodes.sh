#!/bin/bash
# Draws one image on all GPUs of two nodes:  sbatch examples/slurm/two_nodes.sh "A crowded beach" beach.png
# One rank for each GPU; the image has the bytes that one GPU would give it. Change the numbers to your nodes'.
#SBATCH --job-name=nostos
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=00:10:00

# PMIx is how the ranks find each other. Each rank sees all GPUs of its node, and takes the one of its number there.
exec srun --mpi=pmix nostos generate --prompt "$1" --output "$2" "${@:3}"
