"""From a user's arrays to a model's tensors and back: normalization, channels, padding, the checked request."""
