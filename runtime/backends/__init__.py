"""Sessions: one protocol, one module for each engine that runs a model."""
