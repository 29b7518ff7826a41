"""From image files to tensors: decoding, resizing, the caches, loaders."""
