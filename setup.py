"""Packaging. Ranges are pinned to what the test suite has run with; the README says what each is for."""

import pathlib
import re

from setuptools import find_packages, setup

here = pathlib.Path(__file__).parent
version = re.search(r'__version__ = "(.+?)"', (here / "vigiloconn/__init__.py").read_text()).group(1)


def files(folder):
    """Return the files of a folder, without those below it."""
    return sorted(f"{folder}/{path.name}" for path in (here / folder).iterdir() if path.is_file())


setup(
    name="vigiloconn",
    version=version,
    description="A connector runtime between monitoring (Nagios) and an AMQP bus (RabbitMQ)",
    long_description=(here / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    author="the vigiloconn authors",
    keywords=["nagios", "rabbitmq", "amqp", "monitoring", "message bus", "vigilo"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: No Input/Output (Daemon)",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: System :: Monitoring",
        "Topic :: System :: Networking :: Monitoring",
        "Typing :: Typed",
    ],
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["vigiloconn", "vigiloconn.*"]),
    package_data={"vigiloconn": ["py.typed"], "vigiloconn.control": ["page.html"]},
    # Two files in the folder itself: pip removes only folders that have some, and would leave an empty one.
    data_files=[
        ("share/vigiloconn", ["README.md", "CHANGELOG.md"]),
        *((f"share/vigiloconn/{folder}", files(folder)) for folder in ("conf", "conf/nagios")),
    ],
    install_requires=[
        "gevent>=26.9,<27",
        # The publisher builds its frames with this library's serialization: pinned to the minor version.
        "amqp>=5.4.2,<5.5",
        "peewee>=4.5,<5",
        "docopt-ng>=0.9,<0.10",
        "msgspec>=0.22,<0.23",
        "prometheus_client>=0.26,<0.27",
        "tqdm>=4.66,<5",
    ],
    extras_require={
        "test": [
            "pytest>=9,<10",
            "pytest-xdist>=3.8,<4",
            "hypothesis>=6.170,<7",
            "psutil>=7,<8",
            "trustme>=1.2,<2",
        ],
        # What `make bench-peers` compares with.
        "bench": ["pika>=1.4,<1.5", "aio-pika>=10.2,<11"],
        "lint": [
            "ruff>=0.17,<0.18",
            "mypy>=2.4,<3",
            "types-gevent>=26.9,<27",
            "types-greenlet>=3.5,<4",
            "types-docopt",
        ],
    },
    entry_points={
        "console_scripts": [
            "vigilo-connector = vigiloconn.__main__:main",
            "vigilo-bus-config = vigiloconn.configure:main",
        ],
        "vigiloconn.connectors": ["nagios = vigiloconn.connectors.nagios:build"],
    },
)
