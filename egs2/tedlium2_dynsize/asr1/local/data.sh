#!/usr/bin/env bash
# Writes data/{train,dev,test}.
set -e
set -u
set -o pipefail

lm_text=false   # also data/local/other_text/text, from TEDLIUM_release2/LM

. utils/parse_options.sh
. ./db.sh
. ./path.sh

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
