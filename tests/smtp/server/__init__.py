"""
Tests of L{deferrals.smtp.server}.
"""
