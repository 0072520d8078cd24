"""
Coverage-guided fuzzing of all that reads octets from outside: a session's input
(commands, data, chunks), the replies of next hops, the HTTP answers of services,
DNS answers, PROXY headers, the MIME walker, spamd's answers.

    pip install 'deferrals[fuzz]'
    python -m tests.fuzz -max_total_time=30        what .ci/run does
    python -m tests.fuzz -max_total_time=3600      an hour, before a release
    python -m tests.fuzz http names                these targets only

L{tests.fuzz.targets} says what must hold, L{tests.fuzz.corpus} what to begin
with.  Further options are libFuzzer's; an input that fails is left as
C{crash-HASH}, and C{python -m tests.fuzz crash-HASH} runs it again.
"""
