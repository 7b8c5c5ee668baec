"""Optical flow: where every point of a frame has gone in the next one."""
