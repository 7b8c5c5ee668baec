"""From a dataset folder to batches of clips."""
