from setuptools import setup

setup(
    name="deferrals-quiet-hours",
    version="1.0",
    description="A content stage for deferrals: large mail only at night",
    py_modules=["quiet_hours"],
    # The directory has no __init__.py: it adds to the package, it is not it.
    packages=["deferrals.plugins"],
    install_requires=["deferrals"],
)
