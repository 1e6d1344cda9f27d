"""Products of finished predictions: pictures, and files for other programs."""
