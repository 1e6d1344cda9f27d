"""Tensors in, tensors out: kernels and file formats that know neither a host nor a configuration."""
