#!/usr/bin/env bash
# Tries nostos under Slurm: two nodes, which are this machine twice, draw an image with srun and with the job script of examples/slurm.
#   scripts/slurm_test.sh      as root; without root it says so and exits with 77
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [ "$(id -u)" -ne 0 ]; then
  echo "Skipped: trying Slurm, which needs root for its daemons"
  exit 77
fi
install_packages slurm-wlm munge
build_preset cpu nostos

base=$(mktemp -d)
clean_up() {
  local pid
  for pid in "$base"/*.pid; do [ ! -e "$pid" ] || kill "$(cat "$pid")" 2>/dev/null || true; done
  sleep 1
  rm -rf --one-file-system "$base"
}
trap clean_up EXIT
chmod 755 "$base"
mkdir "$base"/{state,pmix}
export SLURM_CONF=$base/slurm.conf PATH=$PWD/build/cpu/bin:$PATH

# A key and a socket of its own: the machine's munge, if there is one, stays as it is.
install -o munge -g munge -m 700 -d "$base/munge"
head -c 128 /dev/urandom >"$base/munge/key"
chown munge:munge "$base/munge/key"
chmod 400 "$base/munge/key"
setpriv --reuid munge --regid munge --clear-groups munged --key-file "$base/munge/key" --socket "$base/munge/socket" \
  --pid-file "$base/munge/munged.pid" --log-file "$base/munge/log" --seed-file "$base/munge/seed" --force
ln -s munge/munged.pid "$base/munged.pid"

port=$((20000 + RANDOM % 20000))
cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$port
AuthType=auth/munge
AuthInfo=socket=$base/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
StateSaveLocation=$base/state
SlurmctldPidFile=$base/slurmctld.pid
SlurmctldLogFile=$base/slurmctld.log
SlurmdSpoolDir=$base/spool_%n
SlurmdPidFile=$base/slurmd_%n.pid
SlurmdLogFile=$base/slurmd_%n.log
NodeName=one NodeHostname=one NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=1 State=UNKNOWN
NodeName=two NodeHostname=two NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=1 State=UNKNOWN
PartitionName=all Nodes=one,two Default=YES State=UP
CONF
echo "PMIxCliTmpDirBase=$base/pmix" >"$base/mpi.conf"
slurmctld
for node in one two; do
  # Each node has a host name and a folder for PMIx of its own, as on two machines.
  unshare --mount --uts bash -c "hostname $node && mount -t tmpfs none '$base/pmix' && exec slurmd -N $node"
done
for _ in $(seq 60); do
  [ "$(sinfo --noheader --states=idle --Format=Nodes | tr -d ' ')" != 2 ] || break
  sleep 1
done
sinfo

image=(--prompt "A crowded beach" --height 160 --width 96 --num-inference-steps 2 --guidance-scale 4)
nostos generate "${image[@]}" --output "$base/one.png"
# same FILE: whether the image is that of one rank.
same() { cmp "$base/one.png" "$1" && echo "the same image: $(basename "$1" .png)"; }

# Again and again, because ranks end in any order.
for number in $(seq 20); do
  srun --nodes=2 --ntasks=2 --mpi=pmix nostos generate "${image[@]}" --output "$base/srun_$number.png" --log-level warning
  same "$base/srun_$number.png"
done
srun --nodes=2 --ntasks=3 --overcommit --mpi=pmix nostos generate "${image[@]}" --output "$base/three.png"
same "$base/three.png"

sbatch --wait --ntasks-per-node=1 --gpus-per-node=0 --cpus-per-task=1 --output "$base/job.log" --chdir "$PWD" \
  examples/slurm/two_nodes.sh "A crowded beach" "$base/job.png" "${image[@]:2}" || { cat "$base/job.log"; exit 1; }
same "$base/job.png"

# fails COMMAND...: whether it does.
fails() { if "$@"; then echo "It should have failed: $*"; return 1; fi; }

echo "Ranks that srun gives nothing to find each other by are refused"
fails srun --nodes=2 --ntasks=2 --mpi=none nostos generate "${image[@]}" --output "$base/none.png" 2>"$base/none.log"
grep -q "start them with srun --mpi=pmix" "$base/none.log"

echo "A rank that is killed ends the other, which names it"
endless=$base/endless.png
srun --nodes=2 --ntasks=2 --mpi=pmix nostos generate --prompt endless --height 256 --width 256 --num-inference-steps 1000 \
  --output "$endless" 2>"$base/killed.log" &
step=$!
for _ in $(seq 300); do ! grep -q "step 1/" "$base/killed.log" || break; sleep 0.1; done
pkill -KILL -n -f "^[^ ]*nostos generate .*--output $endless"
timeout 60 tail --pid "$step" -f /dev/null
fails wait "$step"
grep -q "its process has ended" "$base/killed.log"
[ ! -e "$endless" ]
echo "Slurm: all is well"
