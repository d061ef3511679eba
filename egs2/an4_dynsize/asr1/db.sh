# Where AN4 is: "downloads" fetches it from its public address, else the folder that
# holds etc/ and wav/ (sph, wav or flac files).
AN4=${AN4_DIR:-downloads}
