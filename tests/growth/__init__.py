"""
How the work of each parser of outside octets grows with what it is given.

C{python -m tests.growth} loads the package with every operation counted
(L{tests.growth.instrument}), feeds each parser of the table
(L{tests.growth.parsers}) hostile inputs of the sizes n/4, n and 4n, and prints
what it counted.  C{tests/test_growth.py} runs that, and fails where work grows
faster than the input.
"""
