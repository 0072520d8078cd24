"""
What each choice for the mixed rung costs: traffic of a given shape, from models of
all kinds of senders with the retry schedules of the real programs, on a clock that
does not wait.

    python -m benchmarks.mixed                  the table of docs/mixed.md, in minutes
    python -m benchmarks.mixed --messages 500   a first look
    python -m benchmarks.mixed --message 1234   one message, line by line
    python -m benchmarks.mixed --help           the shape of the traffic

The senders are those of C{tests/mixed}: a model of a server asks the product's
procedure.  A part of the traffic goes through real sessions as well, and what
becomes of each message there is compared.
"""
