"""How a cut model is written."""
