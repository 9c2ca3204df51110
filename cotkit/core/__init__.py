"""Files, JSON Lines, manifests, problems and the command line, for all other rooms."""
