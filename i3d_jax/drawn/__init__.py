"""The embedded actions: drawn videos of motions that no single frame tells apart."""
