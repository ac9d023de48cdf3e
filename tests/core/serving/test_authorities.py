"""The certificates that a start reads in a thread are those that a context of one's own reads."""

import ssl
import subprocess
import sys

import pytest

from gatehook.serving.authorities import read_aside

IMPORTED = """
import ssl
from gatehook.serving.authorities import read_aside
with read_aside() as certificates:
    import aiohttp.connector
certificates.join()
own = ssl.create_default_context()
for name, one in vars(aiohttp.connector).items():
    if isinstance(one, ssl.SSLContext):
        alike = one.get_ca_certs() == own.get_ca_certs()
        print(one.verify_mode.name, alike or len(one.get_ca_certs()), one.check_hostname)
"""


def test_aiohttp_trusts_what_it_would_have_trusted() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", IMPORTED], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert sorted(done.stdout.splitlines()) == ["CERT_NONE 0 False", "CERT_REQUIRED True True"]


def test_a_context_made_meanwhile_reads_afterwards_and_others_at_once() -> None:
    with read_aside() as certificates:
        deferred = ssl.create_default_context()
        assert deferred.cert_store_stats()["x509"] == 0
    later = ssl.create_default_context()
    certificates.join()
    assert deferred.get_ca_certs() == later.get_ca_certs()
    assert "set_default_verify_paths" not in vars(ssl.SSLContext)


def test_a_failing_import_leaves_nothing_changed() -> None:
    with pytest.raises(ImportError), read_aside() as certificates:
        raise ImportError("no such module")
    certificates.join()
    assert "set_default_verify_paths" not in vars(ssl.SSLContext)
