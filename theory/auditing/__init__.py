"""The audit of anyone's loss: what it is (`subject`), what is asked of it (the property files), what came out
(`report`).
"""
