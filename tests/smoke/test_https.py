"""TLS and headers, as nginx is told to have them."""

from __future__ import annotations

import datetime
import ssl
from http.client import HTTPException

import pytest
from kit_control.settings import EDGE_HTTPS_PORT

from smoke import site
from smoke.checked import NOWHERE, Checked
from smoke.target import EDGE, Target

UNKNOWN = "unknown-name.invalid"
# Answers of nginx itself, of a file's location and of the app.
ANSWERS = ("/", NOWHERE, "{static}kit-smoke-nowhere.css")


@pytest.fixture(autouse=True)
def _edge(target: Target) -> None:
    if not target.has_edge:
        pytest.skip("there is no nginx in this environment, and no TLS")


@pytest.mark.gate
def test_certificate_is_the_installed_one(checked: Checked) -> None:
    served = ssl.DER_cert_to_PEM_cert(_served(checked))
    installed = checked.facts["certificate"]
    assert installed, "there is none under shared/nginx/ssl"
    assert served.split() == installed[: installed.index("-----END") + 25].split(), "nginx serves another one"


def test_certificate_is_trusted_and_names_the_site(target: Target, checked: Checked) -> None:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    for name in target.server_names:
        if name.startswith("*."):
            continue
        context = ssl.create_default_context(cafile=target.trust_file or None)
        try:
            checked.site.handshake(context, name).close()
        except ssl.SSLCertVerificationError as error:
            if not target.self_signed:
                pytest.fail(f"{name}: {error.verify_message}")
        else:
            continue
        # Nobody has signed it: it is right when it is the installed one, and names the site.
        certificate = x509.load_der_x509_certificate(_served(checked))
        names = [str(one.value) for one in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        try:
            extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            names = extension.value.get_values_for_type(x509.DNSName)
        except x509.ExtensionNotFound:
            pass
        assert name in names or f"*.{name.partition('.')[2]}" in names, f"it names {', '.join(names)}, not {name}"


def test_certificate_is_valid_now(checked: Checked) -> None:
    from cryptography import x509

    certificate = x509.load_der_x509_certificate(_served(checked))
    now = datetime.datetime.now(datetime.UTC)
    assert certificate.not_valid_before_utc <= now, f"it is valid from {certificate.not_valid_before_utc}"
    assert now < certificate.not_valid_after_utc, f"it ended on {certificate.not_valid_after_utc}"


@pytest.mark.gate
def test_tls_is_spoken_as_rendered(target: Target, checked: Checked, tls_version: str) -> None:
    wanted = tls_version in target.tls_versions
    try:
        context = site.only_version(tls_version)
    except (ssl.SSLError, ValueError):
        pytest.skip("this machine does not speak it")
    said = ""
    try:
        checked.site.handshake(context, target.server_names[0]).close()
    except (ssl.SSLError, ConnectionError) as error:
        said = str(error)
    assert wanted == (not said), f"it is refused: {said}" if wanted else "it is accepted"


@pytest.mark.gate
def test_plain_http_leads_to_https(target: Target, checked: Checked) -> None:
    answer = checked.plain.ask("/kit-smoke?x=1")
    name = target.server_names[0]
    assert answer.status == 301, f"it answers {answer.status}"
    port = next(one.port for one in target.published if one.service == EDGE and one.inside == EDGE_HTTPS_PORT)
    suffix = "" if port == 443 else f":{port}"
    assert answer.headers["Location"] == f"https://{name}{suffix}/kit-smoke?x=1", (
        f"it leads to {answer.headers['Location']}"
    )


@pytest.mark.gate
def test_unknown_name_is_refused(checked: Checked) -> None:
    try:
        checked.site.handshake(site.any_certificate(), UNKNOWN).close()
    except (ssl.SSLError, ConnectionError):
        pass
    else:
        pytest.fail(f"TLS for {UNKNOWN} is accepted")
    door = site.Site(checked.plain.address, checked.plain.port, UNKNOWN, tls=False)
    try:
        answer = door.ask("/")
    except (ConnectionError, HTTPException):
        return
    finally:
        door.close()
    pytest.fail(f"plain HTTP for {UNKNOWN} answers {answer.status}")


@pytest.mark.gate
def test_header_stands_once(target: Target, checked: Checked, header: str) -> None:
    for path in ANSWERS:
        page = path.format(static=target.project["static"])
        found = checked.page(page).headers.get_all(header) or []
        assert found == [target.headers[header]], f"{page} has {found or 'none'}, not {target.headers[header]!r}"


def test_server_version_is_not_told(checked: Checked) -> None:
    for name in ("Server", "X-Powered-By"):
        told = checked.page("/").headers.get(name, "")
        assert not any(sign.isdigit() for sign in told), f"{name}: {told}"


def _served(checked: Checked) -> bytes:
    with checked.site.handshake(site.any_certificate(), checked.target.server_names[0]) as connection:
        certificate = connection.getpeercert(binary_form=True)
    assert certificate, "the site sends no certificate"
    return certificate
