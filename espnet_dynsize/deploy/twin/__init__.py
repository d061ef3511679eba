"""What a model computes in inference, in as few and as plain operations as it takes."""
