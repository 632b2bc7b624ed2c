"""Child processes that end with this one, and the folders of their sockets."""
