"""
The wire: SMTP and LMTP sessions, both sides.  No policy.
"""
