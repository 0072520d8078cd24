"""
What rules want to know of the files in a message, found in one pass over them.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Literal

from deferrals.stages.content.match import archives
from deferrals.stages.content.match.archives import Budget, Unreadable, isArchive, members, newFile
from deferrals.stages.content.match.contents import TEXT_OCTETS, File, files
from deferrals.stages.content.match.filetypes import HEAD_OCTETS, kindsOf
from deferrals.stages.content.match.mime import Buffer

#: What each scanner of spam, and of viruses, finds.
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$" + rb"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"

_PIECE_OCTETS = 256 * 1024

#: What can be asked for: attributes of L{Findings}; C{archived} goes with
#: C{isUnreadable}.
Finding = Literal["texts", "names", "mimeTypes", "kinds", "archived", "isEicar"]


class Findings:
    """
    What is known of one message, as far as it was asked for.

    @ivar texts: what there is to read.
    @ivar names: what the files are called.
    @ivar mimeTypes: what their parts say they are.
    @ivar kinds: what they are by their first octets.
    @ivar archived: the names of what is in archives.
    @ivar isUnreadable: whether these are not all.
    @ivar isEicar: whether one of the files is the test virus.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.names: set[str] = set()
        self.mimeTypes: set[str] = set()
        self.kinds: set[str] = set()
        self.archived: set[str] = set()
        self.isUnreadable = self.isEicar = False
        self._budget = Budget()
        self._known: frozenset[Finding] = frozenset()

    def look(self, data: Buffer, wanted: Set[Finding]) -> None:
        """
        Find what is wanted and not known yet.

        @raise deferrals.stages.content.match.mime.TooComplex: a structure beyond the
            bounds.
        """
        if wanted <= self._known:
            return
        ways: dict[Finding, Callable[[File], None]] = {
            "texts": self._addTexts,
            "names": lambda file: self.names.update(file.header.names),
            "mimeTypes": lambda file: self.mimeTypes.update(file.header.mimeTypes),
            "kinds": lambda file: self.kinds.update(kindsOf(file.head[:HEAD_OCTETS])),
            "archived": self._addArchived,
            "isEicar": self._addEicar,
        }
        chosen = [way for name, way in ways.items() if name in wanted - self._known]
        for file in files(data):
            for way in chosen:
                way(file)
        self._known |= wanted

    def _addTexts(self, file: File) -> None:
        if "text" in file.header.mainTypes:
            self.texts += file.texts(TEXT_OCTETS)

    def _addEicar(self, file: File) -> None:
        """
        By its own definition, it is at the beginning of the file, with little behind
        it.
        """
        self.isEicar = self.isEicar or EICAR in file.head

    def _addArchived(self, file: File) -> None:
        called = file.header.names or ("",)
        if not isArchive(file.head[: archives.HEAD_OCTETS], called):
            return
        try:
            with newFile() as copy:
                for piece in file.pieces(_PIECE_OCTETS):
                    copy.write(piece)
                for name in members(copy, called, self._budget):
                    self.archived.add(name)
        except (Unreadable, OSError):
            self.isUnreadable = True
