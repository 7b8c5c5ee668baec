"""From video files to a dataset folder."""
