#!/usr/bin/env bash
# run.sh on train-clean-100 alone, with a smaller encoder. Nothing of run.sh is replaced:
# asr.sh names token lists after the language, and data/dev and the like are the same.
set -e
set -u
set -o pipefail

train_set=train_clean_100

./run.sh \
    --lang en_100h \
    --ngpu 1 \
    --local_data_opts "--train_set ${train_set}" \
    --asr_config conf/train_asr_dynsize_100h.yaml \
    --train_set "${train_set}" \
    --bpe_train_text "data/${train_set}/text" \
    --lm_train_text "data/${train_set}/text" \
    --expdir exp_100h \
    --dumpdir dump_100h \
    "$@"
