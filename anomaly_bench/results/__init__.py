"""Tables of finished runs: collected, aggregated, compared, beside published figures."""
