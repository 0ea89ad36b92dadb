"""Tools that export, parity and bench measure a model with: exposed tensors, key graphs, metrics, synthetic images."""
