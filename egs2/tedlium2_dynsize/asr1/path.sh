# ESPnet's checkout (default: the tree that this folder lies in); it brings asr.sh, scripts/,
# pyscripts/, utils/, steps/ and tools/.
MAIN_ROOT=${ESPNET_ROOT:-$PWD/../../..}

export PATH=$PWD/utils/:$PATH
export LC_ALL=C

if [ -f "${MAIN_ROOT}"/tools/activate_python.sh ]; then
    . "${MAIN_ROOT}"/tools/activate_python.sh
else
    echo "[INFO] ${MAIN_ROOT}/tools/activate_python.sh is not present"
fi
if [ -f "${MAIN_ROOT}"/tools/extra_path.sh ]; then
    . "${MAIN_ROOT}"/tools/extra_path.sh
fi

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# UTF-8 in Python, also with LC_ALL=C
export PYTHONIOENCODING=UTF-8
export NCCL_SOCKET_IFNAME="^lo,docker,virbr,vmnet,vboxnet"

. local/path.sh
