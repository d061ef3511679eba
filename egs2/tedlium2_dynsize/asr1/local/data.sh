#!/usr/bin/env bash
# Writes data/{train,dev,test}: with the scripts of ESPnet's own recipe where its tree has
# them, else with espnet-dynsize prepare.
set -e
set -u
set -o pipefail

lm_text=false       # also data/local/other_text/text, from TEDLIUM_release2/LM
espnet_data=true    # false: espnet-dynsize prepare, which needs no program like sph2pipe

. utils/parse_options.sh
. ./db.sh
. ./path.sh

scripts=$(realpath -m "${MAIN_ROOT}/egs2/tedlium2/asr1/local")

prepare_with_espnet() {
    if ! command -v sph2pipe > /dev/null; then  # ESPnet's script would not notice
        echo "$0: Error: sph2pipe must be in PATH (ESPnet's tools/ installs it), or give" \
            "--local_data_opts \"--espnet_data false\"." 1>&2
        exit 1
    fi
    # Its data.sh calls what lies beside it as local/…
    ln -sf "${scripts}"/{download_data.sh,prepare_data.sh,join_suffix.py} local/
    "${scripts}/data.sh"
    if "${lm_text}"; then   # which ESPnet's recipe does not write
        espnet-dynsize prepare tedlium2 --corpus_dir "${TEDLIUM2}" --lm_text only
    fi
}

if "${espnet_data}" && [ -f "${scripts}/data.sh" ]; then
    prepare_with_espnet
    exit
fi

url=https://www.openslr.org/resources/19/TEDLIUM_release2.tar.gz

if [ "${TEDLIUM2}" = downloads ] && [ ! -f downloads/.complete ]; then
    mkdir -p downloads
    if ! wget --continue -O downloads/TEDLIUM_release2.tar.gz "${url}"; then
        echo "$0: Error: cannot fetch ${url}; set TEDLIUM2 in db.sh to a copy." 1>&2
        exit 1
    fi
    tar -xzf downloads/TEDLIUM_release2.tar.gz -C downloads
    touch downloads/.complete
fi
espnet-dynsize prepare tedlium2 --corpus_dir "${TEDLIUM2}" --lm_text "${lm_text}"
