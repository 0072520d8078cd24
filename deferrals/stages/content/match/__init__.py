"""
The content stage C{match}: declared rules, and how it reads a message.
"""
