"""What made the pocket model; nothing that ships needs it."""
