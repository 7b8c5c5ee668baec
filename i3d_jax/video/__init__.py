"""From one video file to the frames, the flow and the windows that a network sees."""
