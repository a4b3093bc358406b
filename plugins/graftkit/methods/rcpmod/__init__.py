"""RCPMOD: outlier detection over partial multi-view data (ACM MM 2024)."""
