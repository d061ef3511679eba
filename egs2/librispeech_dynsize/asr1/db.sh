# Folder that holds LibriSpeech/ with train-clean-100/, …, test-other/ (unpacked archives of
# https://www.openslr.org/12), or "downloads" to fetch what is missing.
LIBRISPEECH=${LIBRISPEECH_DIR:-downloads}
