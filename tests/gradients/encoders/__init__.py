"""Image encoders and VAEs."""
