"""Segmentation: find the pixels of a digit in a noisy image."""
