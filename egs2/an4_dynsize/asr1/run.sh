#!/usr/bin/env bash
# Train one supernet on AN4, cut it to every size, decode, score and report each.
# ESPNET_ROOT: ESPnet's checkout (default: the tree that this folder lies in).
# Every option of asr.sh can be given; --sizes "8 24" restricts the sizes.
set -e
set -u
set -o pipefail

train_set=train
valid_set=valid
test_sets=test

asr_config=conf/train_asr_dynsize.yaml
inference_config=conf/decode_asr.yaml

espnet-dynsize recipe \
    --lang en \
    --ngpu 0 \
    --nj 4 \
    --inference_nj 4 \
    --feats_type raw \
    --audio_format flac \
    --dumpdir dump \
    --token_type char \
    --use_lm false \
    --asr_config "${asr_config}" \
    --inference_config "${inference_config}" \
    --inference_asr_model valid.cer_ctc.ave.pth \
    --train_set "${train_set}" \
    --valid_set "${valid_set}" \
    --test_sets "${test_sets}" \
    --lm_train_text "data/${train_set}/text" \
    "$@"
