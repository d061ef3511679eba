# Folder that holds TEDLIUM_release2/ (the unpacked archive of https://www.openslr.org/19), or
# "downloads" to fetch it.
TEDLIUM2=${TEDLIUM2_DIR:-downloads}
