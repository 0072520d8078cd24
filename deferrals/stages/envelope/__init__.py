"""
Envelope stages: who is let in, and what applies to them.
"""
