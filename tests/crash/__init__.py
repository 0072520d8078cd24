"""
The rig that proves that nothing is lost.
"""
