"""ESPnet's task, model and trainer for supernets."""
