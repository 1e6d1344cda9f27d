"""YOLOv6."""
