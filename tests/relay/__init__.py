"""
Tests of L{deferrals.relay}.
"""
