"""One file a data set, and how data sets are brought, checked and listed."""
