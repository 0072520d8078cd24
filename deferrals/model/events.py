"""
What is counted of the events that the log has: in one place, so that the log, the
counters of C{deferrals status} and C{/metrics} say the same.

An event is made by one call of L{Logger.tell<deferrals.logger.Logger.tell>}, or of
L{happened} where the log need not have it: of judgements it has what recipients are
answered.  One that has no line below is counted by its name.
"""

from __future__ import annotations

from deferrals.model.status import Counting, Status, Values


def happened(status: Status, event: str, values: Values) -> None:
    """
    Count an event.

    @param event: its name.
    @param values: what it says, as the log has it; they do not change any more.
    """
    if status.watch is not None:
        status.watch(event, values)
    count = _COUNTED.get(event)
    if count is None:
        status.count("events", event)
    else:
        status.later(count, values)


def _number(values: Values, key: str) -> float:
    found = values[key]
    assert isinstance(found, float | int)
    return found


def _transaction(status: Status, values: Values) -> None:
    status.count("transactions", str(values["rung"]))
    answered = values["answered"]
    if isinstance(answered, float):
        status.measure("replies", "final", answered / 1000)


def _recipient(status: Status, values: Values) -> None:
    stage, policy = str(values["stage"]), str(values["cohort"]).rpartition("/")[0]
    status.count("verdicts", (stage, policy, str(values["reply"])[:3]))
    if stage == "content":
        status.measure("replies", "recipient", _number(values, "milliseconds") / 1000)


def _delivery(status: Status, values: Values) -> None:
    use = str(values["use"])
    status.count("deliveries", (use, str(values["outcome"])))
    if "seconds" not in values:  # it was discarded
        return
    status.measure("deliveries", use, _number(values, "seconds"))


def _session(status: Status, values: Values) -> None:
    status.count("sessions", (str(values["listener"]), str(values["outcome"])))


def _turnedAway(status: Status, values: Values) -> None:
    status.count("connections", "turned away")
    _limit(status, values)


def _limit(status: Status, values: Values) -> None:
    limit = values.get("limit")
    if limit:
        status.count("limits", str(limit))


def _late(status: Status, values: Values) -> None:
    status.count("late", str(values["stage"]))


def _judgement(status: Status, values: Values) -> None:
    status.count("judgements", (str(values["use"]), str(values["outcome"])))


def _submission(status: Status, values: Values) -> None:
    status.count("submission", str(values["outcome"]))
    _limit(status, values)


def _commit(status: Status, values: Values) -> None:
    status.measure("commit seconds", "", _number(values, "seconds"))
    status.measure("commit messages", "", _number(values, "messages"))


def _earlyTalker(status: Status, values: Values) -> None:
    status.count("connections", "early talkers")


def _otherProtocol(status: Status, values: Values) -> None:
    status.count("connections", "other protocols")


def _authentication(status: Status, values: Values) -> None:
    status.count("authentications", str(values["outcome"]))
    _limit(status, values)


def _notice(status: Status, values: Values) -> None:
    status.count("notices", str(values["action"]))


def _unscanned(status: Status, values: Values) -> None:
    status.count("unscanned", f"{values['stage']} {values['on_error']}")


def _noLookUp(status: Status, values: Values) -> None:
    status.count("users", "failed")


def _noLoginLookUp(status: Status, values: Values) -> None:
    status.count("submission", "look-ups failed")


def _untold(status: Status, values: Values) -> None:
    status.count("notices", "untold")


def _admission(status: Status, values: Values) -> None:
    status.count("admissions", str(values["how"]))


_COUNTED: dict[str, Counting] = {
    "admission": _admission,
    "authentication": _authentication,
    "commit": _commit,
    "delivery": _delivery,
    "early-talker": _earlyTalker,
    "judgement": _judgement,
    "late": _late,
    "limit": _limit,
    "no-login-look-up": _noLoginLookUp,
    "no-look-up": _noLookUp,
    "notice": _notice,
    "other-protocol": _otherProtocol,
    "recipient": _recipient,
    "session": _session,
    "submission": _submission,
    "transaction": _transaction,
    "turned-away": _turnedAway,
    "unscanned": _unscanned,
    "untold": _untold,
}
