#!/usr/bin/env bash
# One supernet on TED-LIUM v2, every size decoded, scored, reported and packed.
# ESPNET_ROOT: ESPnet's checkout (default: the tree that this folder lies in).
# Every option of asr.sh can be given; --sizes "16 48" restricts the sizes.
set -e
set -u
set -o pipefail

train_set=train
valid_set=dev
test_sets="test dev"

asr_config=conf/train_asr_dynsize.yaml
lm_config=conf/train_lm.yaml
inference_config=conf/decode_asr.yaml
case " $* " in
    *" --use_lm true "*) inference_config=conf/decode_asr_lm.yaml ;;  # weighs it in
esac

espnet-dynsize recipe \
    --lang en \
    --ngpu 2 \
    --nj 8 \
    --gpu_inference true \
    --inference_nj 2 \
    --nbpe 500 \
    --speed_perturb_factors "0.9 1.0 1.1" \
    --feats_type raw \
    --audio_format flac.ark \
    --dumpdir dump \
    --token_type bpe \
    --use_lm false \
    --skip_packing false \
    --asr_config "${asr_config}" \
    --lm_config "${lm_config}" \
    --inference_config "${inference_config}" \
    --inference_asr_model valid.cer_ctc.ave.pth \
    --train_set "${train_set}" \
    --valid_set "${valid_set}" \
    --test_sets "${test_sets}" \
    --bpe_train_text "data/${train_set}/text" \
    --lm_train_text "data/${train_set}/text" \
    "$@"
