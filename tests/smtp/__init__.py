"""
Tests of L{deferrals.smtp}.
"""
