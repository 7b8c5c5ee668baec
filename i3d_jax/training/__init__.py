"""Training: state, step, optimizer, devices, metrics and the loop; no TensorFlow and no data of its own."""
