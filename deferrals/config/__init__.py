"""
The configuration: TOML into settings, no objects.
"""
