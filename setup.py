from setuptools import find_namespace_packages, setup

# twisted.plugins is listed by hand: it has no __init__.py, and must have none,
# since one there would hide Twisted itself.
setup(
    packages=[
        *find_namespace_packages(include=["deferrals", "deferrals.*"]),
        "twisted.plugins",
    ],
    package_data={"deferrals": ["py.typed"], "deferrals.operator": ["kinds/*.toml"]},
)
