"""DeepLift's rules: for each operation one with the same value, and multipliers for a gradient."""
