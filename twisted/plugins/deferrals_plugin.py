from twisted.application.service import ServiceMaker

deferrals = ServiceMaker(
    "deferrals",
    "deferrals.tap",
    "A mail server that gives every recipient their own answer.",
    "deferrals",
)
