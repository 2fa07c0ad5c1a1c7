"""The second world of the toy model: one hand in front of a plain ground, 64 x 64 pixels."""
