"""Train, measure and compare unsupervised visual anomaly detection."""

__version__ = "0.1.0"
