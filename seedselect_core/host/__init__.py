"""Every liberty taken with the host, one a file. Nothing outside this folder patches anything."""
