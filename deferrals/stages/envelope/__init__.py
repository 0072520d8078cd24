"""
Envelope stages: which recipients are let in, and what applies to them.
"""
