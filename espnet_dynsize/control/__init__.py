"""What changes with the update: selection of layers, samplers, ramps."""
