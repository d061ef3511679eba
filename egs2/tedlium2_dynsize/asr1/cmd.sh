# How jobs are started: "local" (run.pl), "stdout" or "slurm"; see ESPnet's cmd.sh.
cmd_backend='local'

if [ "${cmd_backend}" = local ]; then
    export train_cmd="run.pl"
    export cuda_cmd="run.pl"
    export decode_cmd="run.pl"
elif [ "${cmd_backend}" = stdout ]; then
    export train_cmd="stdout.pl"
    export cuda_cmd="stdout.pl"
    export decode_cmd="stdout.pl"
elif [ "${cmd_backend}" = slurm ]; then
    export train_cmd="slurm.pl"
    export cuda_cmd="slurm.pl"
    export decode_cmd="slurm.pl"
else
    echo "$0: Error: Unknown cmd_backend=${cmd_backend}" 1>&2
    return 1
fi
