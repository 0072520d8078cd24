"""
Coverage-guided fuzzing of a session's input: commands, data and chunks.

    pip install 'deferrals[fuzz]'
    python -m tests.fuzz -max_total_time=60

An input is a state, a protocol, sizes of pieces, and octets; what must hold is
L{tests.octets.checkSame}.  Further options are libFuzzer's; the dialogues are
the corpus to begin with.
"""
