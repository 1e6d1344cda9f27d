"""Parts of models that several systems share, written on the seam for both hosts."""
