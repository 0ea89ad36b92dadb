"""Measuring the operators on this machine against what PyTorch offers: times, memory, and the hardware's floor."""
