#!/usr/bin/env bash
# Writes data/<train_set>, data/{dev,dev_clean,dev_other,test_clean,test_other}.
set -e
set -u
set -o pipefail

train_set=train_960     # or train_clean_100
lm_text=false           # also data/local/other_text/text, from librispeech-lm-norm.txt.gz

. utils/parse_options.sh
. ./db.sh
. ./path.sh

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
        fetch https://www.openslr.org/resources/11/librispeech-lm-norm.txt.gz
    fi
fi
espnet-dynsize prepare librispeech --corpus_dir "${LIBRISPEECH}" \
    --train_set "${train_set}" --lm_text "${lm_text}"
