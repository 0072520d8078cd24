"""
What C{match} sees of a message, beside what its readers show of it: Dovecot,
rspamd, Python's C{email}; of archives, C{unzip}, C{bsdtar} and Python.

    python -m tests.readers                  500 messages and 100 archives
    python -m tests.readers --cases 10000    as many messages
    python -m tests.readers --seed 7         other ones

Each file name and each decoded content that any of them shows must be among
those that C{match} sees.  L{tests.readers.mails} makes the messages, knowing
nothing of C{match}; L{tests.readers.shown} asks the readers; what was found is
in C{tests/stages/content/match/corpus.json}.
"""
