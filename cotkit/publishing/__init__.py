"""A run as something to use and to show: a model or data set folder with its card."""
