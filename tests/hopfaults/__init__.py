"""
Next hops that fail in every way, as a property.
"""
