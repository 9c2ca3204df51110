"""The only modules that import an inference engine; each offers ``load(settings) -> Backend``."""
