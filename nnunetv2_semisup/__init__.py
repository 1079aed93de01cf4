"""Semi-supervised training for nnU-Net v2: unlabelled images for stock nnU-Net commands."""

__version__ = "0.1.0"
