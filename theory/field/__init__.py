"""The field, audited: the audit run on losses that people use today (`entries`), and a dictionary of what their symbols
mean (`dictionary`).
"""
