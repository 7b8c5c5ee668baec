"""What people look at: TensorBoard events."""
