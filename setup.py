import os

from setuptools import find_namespace_packages, setup


def shared() -> list[tuple[str, list[str]]]:
    """
    The manual page and the shells' completions, where contrib/manuals has written
    them: a release has them.
    """
    found = []
    for directory, _, names in os.walk("share"):
        if names:
            found.append((directory, [os.path.join(directory, name) for name in sorted(names)]))
    return found


# twisted.plugins is listed by hand: it has no __init__.py, and must have none,
# since one there would hide Twisted itself.
setup(
    packages=[
        *find_namespace_packages(include=["deferrals", "deferrals.*"]),
        "twisted.plugins",
    ],
    package_data={
        "deferrals": ["py.typed"],
        "deferrals.operator": ["kinds/*.toml"],
        "deferrals.web": ["static/*"],
    },
    data_files=shared(),
)
