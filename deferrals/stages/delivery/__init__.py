"""
Delivery stages: where a message goes when it is ours.
"""
