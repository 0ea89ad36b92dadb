"""How far rounding moves a network's results, measured: float64 runs, other orders of summation, emulated precision."""
