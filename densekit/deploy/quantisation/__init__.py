"""Exported models in 8 bits: ranges, rounding of weights, sensitivity of layers, and the graph for the runtimes."""
