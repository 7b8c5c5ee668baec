"""Weights of other programs: readers of their files, tables of their names, and PyTorch files written back."""
