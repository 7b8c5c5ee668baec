"""Trained networks at work on videos: windows are read, gathered into batches, computed, and given back by video."""
