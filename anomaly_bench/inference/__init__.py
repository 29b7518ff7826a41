"""A finished run on new images: loaded as a model, with a threshold that promises something."""
