#!/bin/bash
# A real SLURM of one node in a folder of its own, for tests: slurm.sh run COMMAND | start DIR | stop DIR
# Root, Debian, no systemd; installs what is missing.  Its ports and sockets are its own: no other SLURM, munge or
# MariaDB of the machine is touched.  SLURM_CONF=DIR/slurm.conf leads every SLURM command to it; `run` sets that, and
# stops it all after COMMAND, unless KEEP=1.
set -euo pipefail

PORT=${SLURM_TEST_PORT:-16817}   # and the three after it: slurmctld, slurmd, slurmdbd, MariaDB
PACKAGES=(slurm-wlm slurmdbd munge mariadb-server)

install() {
    [ "$(id -u)" = 0 ] || { echo "slurm.sh: needs root: it installs packages and starts daemons" >&2; exit 1; }
    for program in munged mariadbd slurmdbd slurmctld slurmd; do
        if ! PATH=$PATH:/usr/sbin command -v "$program" >/dev/null; then
            apt-get update -qq
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${PACKAGES[@]}" >/dev/null
            break
        fi
    done
}

configure() {
    local dir=$1 host node
    host=$(hostname -s)
    mkdir -p "$dir"/{munge,db,state,spool,log}
    chmod 755 "$dir" "$dir/munge"
    head -c 128 /dev/urandom >"$dir/munge/key"
    chmod 600 "$dir/munge/key"
    node=$(slurmd -C | head -1 | sed 's/ UpTime=.*//')
    cat >"$dir/slurm.conf" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
CredType=cred/munge
SlurmctldPort=$PORT
SlurmdPort=$((PORT + 1))
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/log/slurmctld
SlurmdLogFile=$dir/log/slurmd
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,batch_sched_delay=0
ReturnToService=2
KillWait=5
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePass=$dir/munge/socket
AccountingStoragePort=$((PORT + 2))
GresTypes=gpu
$node NodeAddr=127.0.0.1 Gres=gpu:2 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
    # Two GPUs that are none: a job sees which one it got in CUDA_VISIBLE_DEVICES.
    for i in 0 1; do [ -e "$dir/nvidia$i" ] || mknod "$dir/nvidia$i" c 1 3; done
    echo "Name=gpu Count=2 File=$dir/nvidia[0-1] Flags=nvidia_gpu_env" >"$dir/gres.conf"
    cat >"$dir/slurmdbd.conf" <<END
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((PORT + 2))
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((PORT + 3))
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_test
PidFile=$dir/slurmdbd.pid
LogFile=$dir/log/slurmdbd
END
    chmod 600 "$dir/slurmdbd.conf"
}

wait_for() {  # WHAT COMMAND...: usually a second or two
    local what=$1
    shift
    for _ in $(seq 50); do
        if timeout 5 "$@" >/dev/null 2>&1; then return; fi
        sleep 0.2
    done
    echo "slurm.sh: $what does not answer" >&2
    exit 1
}



start() {
    local dir=$1
    stop "$dir"
    configure "$dir"
    export SLURM_CONF=$dir/slurm.conf
    munged --force --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/munge.pid" \
        --log-file="$dir/log/munged" --seed-file="$dir/munge/seed"
    mariadb-install-db --no-defaults --user=root --datadir="$dir/db" --auth-root-authentication-method=normal \
        --skip-test-db >"$dir/log/mariadb" 2>&1
    setsid mariadbd --no-defaults --user=root --datadir="$dir/db" --bind-address=127.0.0.1 --port=$((PORT + 3)) \
        --socket="$dir/db.socket" --pid-file="$dir/mariadbd.pid" >>"$dir/log/mariadb" 2>&1 </dev/null &
    wait_for MariaDB mariadb-admin --no-defaults --socket="$dir/db.socket" ping
    mariadb --no-defaults --socket="$dir/db.socket" -e "CREATE DATABASE slurm_test;
        GRANT ALL ON slurm_test.* TO slurm@'127.0.0.1' IDENTIFIED BY 'slurm';
        GRANT ALL ON slurm_test.* TO slurm@localhost IDENTIFIED BY 'slurm';"
    slurmdbd
    wait_for slurmdbd sacctmgr -n show cluster
    sacctmgr -i -Q add cluster test >/dev/null
    slurmctld
    slurmd
    wait_for "the node" sh -c '[ "$(sinfo -h -o %T)" = idle ]'
    sacctmgr --version | sed "s/$/ with slurmdbd, one node: $(nproc) CPUs, two imitated GPUs/"
}

stop() {  # what `start DIR` started, and nothing else
    local dir=$1 name pid
    for name in slurmd slurmctld slurmdbd mariadbd munge; do
        [ -f "$dir/$name.pid" ] || continue
        pid=$(cat "$dir/$name.pid")
        kill "$pid" 2>/dev/null || true
        for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.2; done
    done
    rm -rf "$dir"
}

export PATH=$PATH:/usr/sbin
dir=${2:-}
case "${1:-}" in
run)
    shift
    dir=$(mktemp -d /tmp/slurm.XXXXXX)
    install
    [ "${KEEP:-}" = 1 ] || trap 'stop "$dir"' EXIT
    start "$dir"
    echo "SLURM_CONF=$dir/slurm.conf"
    SLURM_CONF=$dir/slurm.conf "$@"
    ;;
start) install && start "$(realpath -m "${dir:?a folder}")" ;;
stop) stop "$(realpath -m "${dir:?a folder}")" ;;
*) sed -n '2,5s/^# //p' "$0" && exit 2 ;;
esac
