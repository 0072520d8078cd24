"""
Tests of L{deferrals.auth}.
"""
