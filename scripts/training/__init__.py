"""Training of the built-in encoder: what `scripts/train_encoder.py` is made of."""
