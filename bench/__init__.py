"""Measure models and operators on this machine: time, memory, accuracy, and the roofline of the GPU.

problem           sizes and random inputs of one operator call
implementations   implementations of the operators to compare on a GPU, keygraph's and PyTorch's
onnx_runtime      keygraph's operators on the CPU, in ONNX Runtime
reference         results in float64, for checking the others
operators         times of all implementations of both operators
roofline          shortest time that a GPU's peak rates allow; data_sheets holds these rates
configurations    the ways to run one network: file, backend, device
models            times and accuracy of these configurations
model_memory      their memory, estimated before they run and measured
timing, memory, launched    how times, memory and the kernels that were launched are measured
"""
