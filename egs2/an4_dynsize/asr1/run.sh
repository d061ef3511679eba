#!/usr/bin/env bash
# Train one supernet on AN4, cut it to every size, decode and score each.
# ESPNET_ROOT: ESPnet's checkout (default ../../../../espnet).
# Every option of asr.sh can be given; --stage and --stop_stage are those of asr.sh
# (11 trains, 12 decodes, 13 scores), and sizes are cut between 11 and 12.
set -e
set -u
set -o pipefail

espnet=${ESPNET_ROOT:-$PWD/../../../../espnet}
for name in asr.sh scripts pyscripts utils steps; do
    if [ ! -e "${name}" ]; then
        if [ ! -e "${espnet}/egs2/TEMPLATE/asr1/${name}" ]; then
            echo "$0: Error: no ${name} in ${espnet}/egs2/TEMPLATE/asr1;" \
                "set ESPNET_ROOT to an ESPnet checkout." 1>&2
            exit 1
        fi
        ln -s "${espnet}/egs2/TEMPLATE/asr1/${name}" "${name}"
    fi
done

stage=1
stop_stage=13
asr_config=conf/train_asr_dynsize.yaml
inference_asr_model=valid.cer_ctc.ave.pth
asr_tag=
rest=()
while [ $# -gt 0 ]; do
    case "$1" in
        --stage) stage=$2; shift 2 ;;
        --stop_stage|--stop-stage) stop_stage=$2; shift 2 ;;
        --asr_config) asr_config=$2; shift 2 ;;
        --asr_tag) asr_tag=$2; shift 2 ;;
        *) rest+=("$1"); shift ;;
    esac
done
asr_tag=${asr_tag:-$(basename "${asr_config}" .yaml)}

asr() {
    ./asr.sh \
        --lang en \
        --ngpu 0 \
        --feats_type raw \
        --audio_format flac \
        --dumpdir dump \
        --token_type char \
        --use_lm false \
        --python "espnet-dynsize run" \
        --asr_config "${asr_config}" \
        --asr_tag "${asr_tag}" \
        --inference_config conf/decode_asr.yaml \
        --inference_asr_model "${inference_asr_model}" \
        --train_set train \
        --valid_set valid \
        --test_sets test \
        --lm_train_text data/train/text \
        "${rest[@]+"${rest[@]}"}" "$@"
}

if ! grep -Eq '^ *(sizes|budgets):' "${asr_config}"; then
    # Not a family: one model, as ever
    asr --stage "${stage}" --stop_stage "${stop_stage}"
    exit 0
fi

asr_exp=exp/asr_${asr_tag}

if [ "${stage}" -le 11 ]; then
    asr --stage "${stage}" --stop_stage "$((stop_stage < 11 ? stop_stage : 11))"
fi
if [ "${stop_stage}" -ge 12 ]; then
    if ! compgen -G "${asr_exp}_size*" > /dev/null; then
        espnet-dynsize extract --asr_exp "${asr_exp}" \
            --model_file "${inference_asr_model}" --size all
    fi
    for sized in "${asr_exp}"_size*; do
        asr --stage "$((stage > 12 ? stage : 12))" --stop_stage "${stop_stage}" \
            --asr_exp "${sized}"
    done
    espnet-dynsize report "${asr_exp}"_size*
fi
