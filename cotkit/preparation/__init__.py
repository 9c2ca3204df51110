"""Stage 0: reads problems from the hub, from files and from folders, checks them, and divides them into splits."""
