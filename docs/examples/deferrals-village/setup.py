from setuptools import setup

setup(
    name="deferrals-village",
    version="1.0",
    description="A stage of each kind for deferrals",
    py_modules=["village"],
    # The directory has no __init__.py: it adds to the package, it is not it.
    packages=["deferrals.plugins"],
    install_requires=["deferrals"],
)
