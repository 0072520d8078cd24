"""
Tables: what is looked up by addresses, in one frame for all kinds.
"""
