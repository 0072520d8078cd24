"""
Tests of L{deferrals.smtp.client}.
"""
