"""What several test modules share: data that they write, small networks, and processes that they start."""
