#!/usr/bin/env bash
# Writes data/{train,valid,test}: 848, 100 and 130 utterances of AN4.
set -e
set -u
set -o pipefail

. ./db.sh

url=http://www.speech.cs.cmu.edu/databases/an4/an4_sphere.tar.gz

if [ "${AN4}" = downloads ]; then
    AN4=downloads/an4
    if [ ! -d "${AN4}/etc" ]; then
        mkdir -p downloads
        if ! wget --no-check-certificate -O downloads/an4_sphere.tar.gz "${url}"; then
            rm -f downloads/an4_sphere.tar.gz
            echo "$0: Error: cannot fetch ${url}; set AN4 in db.sh to a copy of it." 1>&2
            exit 1
        fi
        tar -xzf downloads/an4_sphere.tar.gz -C downloads
    fi
fi
espnet-dynsize prepare an4 --corpus_dir "${AN4}"
