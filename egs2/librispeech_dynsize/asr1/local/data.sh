#!/usr/bin/env bash
# Writes data/<train_set>, data/{dev,dev_clean,dev_other,test_clean,test_other}: with the
# scripts of ESPnet's own recipes where its tree has them, else with espnet-dynsize prepare.
set -e
set -u
set -o pipefail

train_set=train_960     # or train_clean_100
lm_text=false           # also data/local/other_text/text, from librispeech-lm-norm.txt.gz
espnet_data=true        # false: espnet-dynsize prepare, which needs no program like flac

. utils/parse_options.sh
. ./db.sh
. ./path.sh

case "${train_set}" in
    train_960) recipe=librispeech ;;
    train_clean_100) recipe=librispeech_100 ;;
    *) recipe=unknown ;;    # espnet-dynsize prepare says which there are
esac
scripts=$(realpath -m "${MAIN_ROOT}/egs2/${recipe}/asr1/local")
texts=librispeech-lm-norm.txt.gz

prepare_with_espnet() {
    if ! command -v flac > /dev/null; then  # ESPnet's script calls it late
        echo "$0: Error: flac must be in PATH (Debian's package flac), or add" \
            "--espnet_data false to --local_data_opts." 1>&2
        exit 1
    fi
    # Its data.sh calls what lies beside it as local/…
    ln -sf "${scripts}"/{data_prep,download_and_untar}.sh local/
    if [ "${LIBRISPEECH}" = downloads ]; then
        mkdir -p downloads
    fi
    local last=3    # stage 4 fetches the texts for language models, if they are not there
    if "${lm_text}"; then
        last=4
        mkdir -p data/local/other_text
        if [ -f "${LIBRISPEECH}/${texts}" ]; then
            ln -sf "$(realpath "${LIBRISPEECH}/${texts}")" data/local/other_text/
        fi
    fi
    "${scripts}/data.sh" --stop_stage "${last}"
}

if "${espnet_data}" && [ -f "${scripts}/data.sh" ]; then
    prepare_with_espnet
    exit
fi

fetch() {  # URL: into downloads/, whole or not at all
    local file=downloads/${1##*/}
    if [ ! -f "${file}" ]; then
        mkdir -p downloads
        if ! wget -O "${file}.partial" "$1"; then
            rm -f "${file}.partial"
            echo "$0: Error: cannot fetch $1; set LIBRISPEECH in db.sh to a copy." 1>&2
            exit 1
        fi
        mv "${file}.partial" "${file}"
    fi
}

if [ "${LIBRISPEECH}" = downloads ]; then
    parts="dev-clean dev-other test-clean test-other train-clean-100"
    if [ "${train_set}" = train_960 ]; then
        parts+=" train-clean-360 train-other-500"
    fi
    for part in ${parts}; do
        if [ ! -f "downloads/.${part}.complete" ]; then
            fetch "https://www.openslr.org/resources/12/${part}.tar.gz"
            tar -xzf "downloads/${part}.tar.gz" -C downloads
            touch "downloads/.${part}.complete"
        fi
    done
    if "${lm_text}"; then
        fetch "https://www.openslr.org/resources/11/${texts}"
    fi
fi
espnet-dynsize prepare librispeech --corpus_dir "${LIBRISPEECH}" \
    --train_set "${train_set}" --lm_text "${lm_text}"
