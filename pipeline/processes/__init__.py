"""Other programs that end with this one, and the sockets by which they are reached."""
