"""Restoring on many machines: Ray actors that hold sessions, and the driver that gives them work."""
