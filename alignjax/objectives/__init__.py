"""One file per family of objectives: functions, their optima, and one `METHODS` tuple at the bottom. Scanned, not
listed.
"""
