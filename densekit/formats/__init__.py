"""What is made from predictions and models once they exist: pictures, files for other programs."""
