#!/usr/bin/env bash
# One supernet on LibriSpeech 960 h, every size decoded, scored, reported and packed.
# ESPNET_ROOT: ESPnet's checkout (default: the tree that this folder lies in).
# Every option of asr.sh can be given; --sizes "16 48" restricts the sizes.
set -e
set -u
set -o pipefail

train_set=train_960
valid_set=dev
test_sets="test_clean test_other dev_clean dev_other"

asr_config=conf/train_asr_dynsize.yaml
lm_config=conf/train_lm.yaml
inference_config=conf/decode_asr.yaml
case " $* " in
    *" --use_lm true "*) inference_config=conf/decode_asr_lm.yaml ;;  # weighs it in
esac

espnet-dynsize recipe \
    --lang en \
    --ngpu 4 \
    --nj 16 \
    --gpu_inference true \
    --inference_nj 4 \
    --nbpe 5000 \
    --max_wav_duration 30 \
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
    --inference_asr_model valid.acc.ave.pth \
    --train_set "${train_set}" \
    --valid_set "${valid_set}" \
    --test_sets "${test_sets}" \
    --bpe_train_text "data/${train_set}/text" \
    --lm_train_text "data/${train_set}/text" \
    "$@"
