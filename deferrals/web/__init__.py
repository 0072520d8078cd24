"""
What a monitoring system and an operator see of a server by HTTP.
"""
