"""Files, JSON Lines, manifests, problems and the command line: what every other room stands on."""
