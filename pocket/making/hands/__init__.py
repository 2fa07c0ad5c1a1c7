"""What draws the hands that the second world is made of."""
